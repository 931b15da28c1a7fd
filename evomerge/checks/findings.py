"""What preflight found without running an engine: facts by noun, and advice."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from evomerge.checks.advice import Advice
from evomerge.checks.kinship import Kinship, advise_on_kinship, measure_kinship
from evomerge.checks.licences import Licences, advise_on_licences, find_licences
from evomerge.checks.prompts import RenderedPrompt, advise_on_prompts, render_prompts
from evomerge.checks.sources import SourceFacts, advise_on_sources, describe_sources
from evomerge.checks.templates import Templates, advise_on_templates, find_templates
from evomerge.config import RunFile
from search_spaces.rules import RULES
from search_spaces.space import SearchSpace

if TYPE_CHECKING:
    from collections.abc import Mapping

    from evomerge.judging import Judge
    from evomerge.merge.locations import Location
    from evomerge.merge.sources import Sources
    from fitness.engines.lengths import PromptLengths

T = TypeVar("T")


@dataclass(frozen=True)
class Findings:
    """What is known of a run file's models and prompts.

    Attributes:
        sources: the models, the base first.
        templates: their chat templates.
        licences: theirs, and the merge's.
        kinship: their ancestry.
        prompts: one per task.
        advice: what had better be otherwise.
        seconds: how long each part took.
    """

    sources: tuple[SourceFacts, ...]
    templates: Templates
    licences: Licences
    kinship: Kinship
    prompts: tuple[RenderedPrompt, ...]
    advice: tuple[Advice, ...]
    seconds: dict[str, float]

    def as_json(self) -> dict[str, Any]:
        """As `check --json` has it."""
        return {
            "sources": [source.as_json() for source in self.sources],
            "chat_templates": self.templates.as_json(),
            "licences": self.licences.as_json(),
            "kinship": self.kinship.as_json(),
            "prompts": [prompt.as_json() for prompt in self.prompts],
        }


def find(
    config: RunFile,
    folders: "Mapping[str, Location]",
    sources: "Sources",
    space: SearchSpace,
    judge: "Judge",
    lengths: "PromptLengths",
) -> Findings:
    """Look at the models and at one prompt of each task.

    Args:
        config: the run file.
        folders: source name -> where it lies, the base first.
        sources: they, opened, compatible and finite.
        space: whose recipes will be exported.
        judge: the compiled tasks.
        lengths: the engine's, with its tokenizer.

    Raises:
        InputError: a tokenizer that cannot be read.
    """
    seconds: dict[str, float] = {}

    def timed(name: str, work: Callable[[], T]) -> T:
        began = time.perf_counter()
        found = work()
        seconds[name] = time.perf_counter() - began
        return found

    base = "base" if config.models.base else None
    described = timed("sources", lambda: describe_sources(config, folders, sources))
    templates = timed("templates", lambda: find_templates(folders, sources, space))
    licences = timed("licences", lambda: find_licences(folders))
    kinship = timed("kinship", lambda: measure_kinship(sources, base))
    prompts = timed("prompts", lambda: render_prompts(config, judge, lengths))
    advice = (
        *_differences(sources),
        *advise_on_sources(described),
        *advise_on_kinship(kinship, _by_base(config)),
        *advise_on_templates(templates, config, judge),
        *advise_on_prompts(prompts, lengths.encoder),
        *advise_on_licences(licences),
    )
    return Findings(described, templates, licences, kinship, prompts, advice, seconds)


def _differences(sources: "Sources") -> list[Advice]:
    remedy = "check that these are fine-tunes of one base, saved the same way, or leave one out"
    return [Advice(warning, remedy) for warning in sources.warnings()]


def _by_base(config: RunFile) -> list[str]:
    """The rules of the run file that add deltas to the base."""
    merging = config.space.merging
    rules = merging.rules if merging else []
    return [name for name in rules if name in RULES and RULES[name].reference == "base"]

"""The model card of an export: what it is, what it scored and what nobody measured, its parents and
their licences, its distance from the base, how it was verified, how to make it again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evomerge.hand_over.distances import MERGE
from evomerge.licences import Licence, Verdict, judge_licences
from evomerge.report.card_front import front_matter_text, hub_names, model_index
from evomerge.report.card_parts import (
    distance_lines,
    folded,
    licence_lines,
    markdown,
    parents_table,
    reproduce_lines,
    scope_lines,
    verified_lines,
)
from evomerge.report.honest_text import answers_table, gains_table, luck_table
from evomerge.report.paths import path_text
from evomerge.report.tables import results, verdict
from search_spaces.dialect_sources import LORA
from search_spaces.recipe import Recipe

if TYPE_CHECKING:
    from evomerge.config import RunFile
    from evomerge.hand_over.distances import Distances
    from evomerge.hand_over.verify import Verified

_LONG_RECIPE = 60
"""Lines of YAML beyond which the recipe is folded away."""

LOADING = """\
```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("{place}", dtype="auto")
tokenizer = AutoTokenizer.from_pretrained("{place}")
```

vLLM: `vllm serve {place}`. llama.cpp: `python convert_hf_to_gguf.py {place} --outfile {title}.gguf`."""


@dataclass(frozen=True)
class Subject:
    """What the card is of.

    Attributes:
        title: of the model.
        recipe: with the sources' names of the run.
        text: the recipe as YAML, likewise.
        candidate: its entry in the summary.
        summary: of the run (`summarise`).
        config: the frozen run file.
        measured: whether the candidate was scored on the test items.
        items: by task, how many items each split has.
        answers: of the candidate, `items`, `truncated` and `parse_failures`; None: not known.
        called: by source, its lasting name (`lasting_name`).
        licences: by source (`licences_of`).
        verdict: on them.
        picked: how it was picked, in words; empty: it is the run's winner.
        place: what it is loaded by: a folder, or its name on the Hub.
    """

    title: str
    recipe: Recipe
    text: str
    candidate: Mapping[str, Any]
    summary: Mapping[str, Any]
    config: RunFile
    measured: bool
    items: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    answers: Mapping[str, int] | None = None
    called: Mapping[str, str] = field(default_factory=dict)
    licences: Mapping[str, Licence | None] = field(default_factory=dict)
    verdict: Verdict = field(default_factory=lambda: judge_licences({}))
    picked: str = ""
    place: str = "."


def model_card(
    subject: Subject, *, verified: Verified | None = None, distances: Distances | None = None
) -> str:
    """The README.md of an exported model.

    Args:
        subject: what it is of.
        verified: what comparing the folder with the candidate came to; None: nobody did.
        distances: from the base; None: nobody measured.
    """
    s = subject
    hub = [name for source in s.recipe.sources for name in hub_names(s.called.get(source, ""))]
    front = front_matter_text(
        verdict=s.verdict, parents=hub, model_index=_index(s) if s.measured else None
    )
    called = {name: _called(s, name) for name in s.recipe.sources}
    sections = {
        "Load it": [LOADING.format(place=s.place, title=s.title)],
        "Scores": [test_scores(s.summary) if s.measured else own_scores(s.candidate, s.picked)],
        "What was tested, and what was not": scope_lines(s.config, s.items, s.answers),
        "Parents": parents_table(s.recipe, s.config, called, s.licences),
        "Licences": licence_lines(s.verdict),
        "Recipe": _recipe_lines(s),
    }
    if distances is not None:
        names = [MERGE, *(name for name in s.recipe.sources if name in distances.whole)]
        sections["Distance from the parents"] = distance_lines(distances, names)
    sections["Verification"] = verified_lines(verified)
    sections["Make it again"] = reproduce_lines(s.candidate, s.config)
    body = "\n".join(
        f"## {title}\n\n" + "\n".join(lines) + "\n" for title, lines in sections.items()
    )
    return f"{front}\n# {s.title}\n\n{_opening(s)}\n{body}"


def _called(s: Subject, source: str) -> str:
    """A source as the run file calls it; of a path of this machine, which tells nobody else, its end."""
    section = s.config.models.sources[source]
    parts = [part for part in (section.model, section.lora) if part]
    return LORA.join(f"`{Path(p).name or p if p[0] in '/~.' else p}`" for p in parts)


def _opening(s: Subject) -> str:
    algorithm = s.config.search.algorithm or "default algorithm"
    stack = f"\nLayers: {path_text(s.recipe)}.\n" if s.summary["stacks"] else ""
    return (
        f"A merge of {len(s.recipe.sources)} models by `{s.recipe.method}`, found by evomerge:\n"
        f"candidate {s.candidate['id']} of {s.summary['budget']['done']} ({algorithm}, seed "
        f"{s.config.search.seed}). {_how(s)}\n{stack}"
    )


def _how(s: Subject) -> str:
    if s.picked:
        return f"**It is not the run's winner**: {s.picked}."
    return "It is the run's winner, chosen among finalists by items that the search never saw."


def _index(s: Subject) -> dict[str, Any]:
    """The winner's scores on the test items, for the front matter."""
    tasks = {o.label: o.named_tasks for o in s.config.fitness.all_objectives if o.task or o.tasks}
    return model_index(s.title, s.summary["baselines"]["winner"], tasks)


def _recipe_lines(s: Subject) -> list[str]:
    lines = ["```yaml", *s.text.rstrip().splitlines(), "```"]
    return folded("The whole recipe", lines, long=len(lines) > _LONG_RECIPE)


def test_scores(summary: Mapping[str, Any]) -> str:
    """Winner and baselines on the test items, as a Markdown table."""
    lines = ["On test items, which the search never saw (± standard error):", ""]
    lines += [*markdown(*results(summary)), "", verdict(summary)]
    honesty = summary["honesty"]
    if honesty:
        lines += ["", "Gains in points on the same test items [95 % interval], p corrected:", ""]
        lines += [*markdown(*gains_table(honesty)), ""]
        lines += ["The winner's scores, without the luck of being picked by them:", ""]
        lines += [*markdown(*luck_table(honesty)), ""]
        head, rows = answers_table(honesty)
        lines += [*markdown(head, rows), ""] if rows else []
        lines += [f"- {sentence}" for sentence in honesty["sentences"]]
    return "\n".join(lines)


def own_scores(candidate: Mapping[str, Any], picked: str = "") -> str:
    """A candidate that is not the winner: what is known, and what is not."""
    kind = "selection" if candidate["selection"] else "search"
    estimates = candidate["selection"] or candidate["objectives"]
    rows = [
        [name, f"{e['value']:.3f} ± {e['se']:.3f}", _interval(e)] for name, e in estimates.items()
    ]
    seen = (
        "It was picked with these very items in view, so expect less on others."
        if candidate["selection"]
        else "The search itself was led by these very items, so expect less on others, perhaps much."
    )
    return "\n".join(
        [
            f"On the {kind} items (± standard error); this candidate is not the run's winner and was"
            f" not measured on the test items. {seen} `evomerge evaluate` measures it.",
            "",
            *markdown(["objective", "score", "95 % interval"], rows),
        ]
    )


def _interval(estimate: Mapping[str, float]) -> str:
    value, half = estimate["value"], 1.96 * estimate["se"]
    return f"{value - half:.3f} to {value + half:.3f}"

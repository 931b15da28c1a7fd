"""Chat templates: who has one, whether they differ, and which one the export will carry."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evomerge.checks.advice import Advice
from evomerge.config import RunFile

if TYPE_CHECKING:
    from evomerge.judging import Judge
    from evomerge.merge.locations import Location
    from evomerge.merge.sources import Sources
    from search_spaces.space import SearchSpace

_SHORT = 12


@dataclass(frozen=True, slots=True)
class Templates:
    """The chat templates of a run.

    Attributes:
        hashes: source -> short hash of its chat template; None: it has none.
        exported: the sources of which the export carries one's tokenizer files, its template among
            them: of a stack, unless a tokenizer is chosen, that whose layer comes first.
        asked: the source whose template the engine renders prompts with, where a task wants that.
    """

    hashes: Mapping[str, str | None]
    exported: tuple[str, ...]
    asked: str

    def as_json(self) -> dict[str, Any]:
        """As `check --json` has it."""
        return asdict(self)


def find_templates(
    folders: Mapping[str, "Location"], sources: "Sources", space: "SearchSpace"
) -> Templates:
    """Whose chat templates there are.

    Args:
        folders: source name -> where it lies.
        sources: they, opened.
        space: whose recipes are exported: without a chosen tokenizer, a recipe's first source
            brings it.
    """
    hashes = {name: _hash(template_of(place.model)) for name, place in folders.items()}
    chosen = sources.tokenizer_of
    recipes = [space.decode(genome) for genome in space.seeds().values()]
    firsts = {recipe.sources[0] for recipe in recipes}
    exported = (chosen,) if chosen else tuple(name for name in sources.names if name in firsts)
    return Templates(hashes, exported or sources.names[:1], chosen or sources.names[0])


def template_of(folder: Path) -> str | None:
    """The default chat template in a model's folder, as transformers would find it."""
    alone = folder / "chat_template.jinja"
    if alone.is_file():
        return alone.read_text(encoding="utf-8")
    for name in ("chat_template.json", "tokenizer_config.json"):
        found = _read(folder / name).get("chat_template")
        if isinstance(found, str):
            return found
        if isinstance(found, list):  # several, by name
            named = {one.get("name"): one.get("template") for one in found if isinstance(one, dict)}
            return named.get("default") or next(iter(named.values()), None)
    return None


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _hash(text: str | None) -> str | None:
    return None if text is None else hashlib.sha256(text.encode()).hexdigest()[:_SHORT]


def advise_on_templates(found: Templates, config: RunFile, judge: "Judge") -> list[Advice]:
    """Templates that differ, one that gets lost, chat models that are asked without theirs."""
    having = {name: digest for name, digest in found.hashes.items() if digest is not None}
    carried = {found.hashes[name] for name in found.exported}
    which = _names(found.exported, " or ")
    advice: list[Advice] = []
    if len(set(having.values())) > 1:
        others = [name for name, digest in having.items() if carried != {digest}]
        advice.append(
            Advice(
                f"the chat templates differ: the export carries that of {which}, and "
                f"{_names(others)} learnt another",
                "name in `models.tokenizer` the source whose template it is to have",
            )
        )
    if having and None in carried:
        advice.append(
            Advice(
                f"{which}, whose tokenizer the export carries, has no chat template, as "
                f"there is in {_names(having)}",
                "name in `models.tokenizer` a source that has one",
            )
        )
    chats = any(task.apply_chat_template for task in config.fitness.tasks.values())
    if chats and carried != {found.hashes[found.asked]}:
        advice.append(
            Advice(
                f"the search asks with the chat template of '{found.asked}', the export carries that "
                f"of {which}",
                f"set `models.tokenizer: {found.asked}`, so that both have the same",
            )
        )
    bare = _asked_without(config, judge)
    if having and bare:
        advice.append(
            Advice(
                f"no chat template is applied in {_names(bare)}, though there is one in {_names(having)}",
                "set `apply_chat_template: true` for these tasks if the models are to chat",
            )
        )
    return advice


def _asked_without(config: RunFile, judge: "Judge") -> list[str]:
    """Tasks that generate answers and apply no chat template."""
    kinds = {item.task: item.requests[0].kind for item in judge.items["search"]}
    return [
        name
        for name, task in config.fitness.tasks.items()
        if not task.apply_chat_template and kinds.get(name) == "generate"
    ]


def _names(names: Mapping[str, Any] | Sequence[str], between: str = ", ") -> str:
    return between.join(f"'{name}'" for name in names)

"""Models as other tools name them: references, names for the run file, and how many layers they have."""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from evomerge.importing.draft import Draft
from search_spaces.errors import InputError

_RESERVED = {
    "base",
    "union",
    "uniform",
    "greedy_soup",
    "random_search",
    "winner",
    "merge",
    "merged",
    "best_start",
}

USUAL_LAYERS = 32
"""Of a model that cannot be looked at: as a 7B model has."""


def source_of(reference: Any, where: str) -> dict[str, str] | str:
    """A model reference as the run file has it: mergekit's `model@revision+lora`, or its long form.

    Raises:
        InputError: neither a text nor a mapping of one.
    """
    if isinstance(reference, Mapping):
        inner = reference.get("model", reference)
        path, revision = inner, reference.get("revision")
        if isinstance(inner, Mapping):
            path, revision = inner.get("path"), inner.get("revision")
        lora = reference.get("lora")
        lora = _short(lora) if isinstance(lora, Mapping) else lora
    else:
        whole, _, lora = str(reference).partition("+")
        path, _, revision = whole.partition("@")
        path = path if isinstance(reference, str) else None
    texts = isinstance(path, str) and bool(path) and isinstance(lora or "", str)
    if not texts or isinstance(revision, (Mapping, list)):
        raise InputError(
            f"model {reference!r}",
            "it is a Hub id or a folder, optionally with @revision and +lora",
            where,
            "correct the reference",
        )
    found = {"model": placed(str(path))} | ({"revision": str(revision)} if revision else {})
    found |= {"lora": placed(str(lora))} if lora else {}
    return found if len(found) > 1 else found["model"]


def _short(adapter: Mapping[Any, Any]) -> Any:
    """An adapter's long form as `path@revision`; a folder has no revisions."""
    path, revision = adapter.get("path"), adapter.get("revision")
    if not isinstance(path, str) or not revision or Path(placed(path)).is_dir():
        return path
    return f"{path}@{revision}"


def placed(path: str) -> str:
    """Folders are relative to where a tool was started; a run file's are relative to itself."""
    try:
        folder = Path(path).expanduser()
    except RuntimeError:  # `~name` of nobody
        return path
    return str(folder.resolve()) if folder.is_dir() else path


def short_names(models: Iterable[dict[str, str] | str]) -> list[str]:
    """A name for each model, after the last part of its id; each once."""
    found: list[str] = []
    for model in models:
        path = model if isinstance(model, str) else model["model"]
        last = re.sub(r"[^\w.-]+", "_", path.rstrip("/").rsplit("/", 1)[-1])
        found.append(unused(last or "model", found))
    return found


def unused(name: str, taken: Iterable[str]) -> str:
    """The name, or with a number after it that no other has."""
    name = f"{name}_model" if name in _RESERVED else name
    others, number, found = set(taken), 2, name
    while found in others:
        found, number = f"{name}_{number}", number + 1
    return found


def layers_of(draft: Draft, model: dict[str, str] | str) -> int:
    """How many layers a model has, by its config.json here or in the Hub's cache; else a guess that
    the draft tells of."""
    path = model if isinstance(model, str) else model["model"]
    config = Path(path) / "config.json"
    if not config.is_file():
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError

        try:
            cached = try_to_load_from_cache(path, "config.json")
        except HFValidationError:
            cached = None
        config = Path(cached) if isinstance(cached, str) else config
    try:
        content = json.loads(config.read_text())
        # a model that also sees keeps its language model's numbers apart
        return int((content.get("text_config") or content)["num_hidden_layers"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        draft.assumed.append(
            f"{USUAL_LAYERS} layers, as {path} is not on this machine: correct "
            "space.granularity.layers (the number of groups) if it has others"
        )
        return USUAL_LAYERS

"""From what a recipe or a run file calls its sources to where they lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from evomerge.merge.adapter_config import base_of
from evomerge.merge.hub import resolve_model, revision_of
from evomerge.merge.lora import is_adapter
from search_spaces.dialect_sources import LORA, split_lora
from search_spaces.errors import InputError


@dataclass(frozen=True, slots=True)
class Reference:
    """What a source is called.

    Attributes:
        model: a folder or a Hub id, optionally with `@revision`; or an adapter's, alone.
        lora: the same for an adapter on top of it.
        revision: of the model, instead of `@revision`.
    """

    model: str
    lora: str | None = None
    revision: str | None = None


@dataclass(frozen=True, slots=True)
class Location:
    """Where a source lies: a model's folder, and that of a LoRA adapter on top of it."""

    model: Path
    lora: Path | None = None

    @property
    def folders(self) -> tuple[Path, ...]:
        """The folders the source is made of."""
        return (self.model,) if self.lora is None else (self.model, self.lora)


def reference_of(name: str, folder: Path) -> Reference:
    """What a recipe's source name refers to: `MODEL + LORA`, or `PATH+LORA` where no folder is
    called so.

    Args:
        name: as in a `Recipe`.
        folder: what relative paths are relative to.
    """
    path = Path(name).expanduser()
    if (folder / path).is_dir() or path.is_dir():
        return Reference(name)
    model, lora = split_lora(name)
    if lora is None and name.count("+") == 1 and all(name.split("+")):
        model, lora = name.split("+")
    return Reference(model, lora)


def locate(
    references: Mapping[str, Reference], folder: Path, base: str | None
) -> dict[str, Location]:
    """Where every source lies; models of the Hub are fetched into its cache.

    An adapter that stands alone applies to the source it was trained on by its own account, or else
    to the base.

    Args:
        references: by source name.
        folder: what relative paths are relative to.
        base: the base's name, if there is one.

    Raises:
        InputError: no such folder or model, or an adapter without a model.
    """
    found = {n: _locate(reference, folder) for n, reference in references.items()}
    whole = {n: place.model for n, place in found.items() if not is_adapter(place.model)}
    for name, place in found.items():
        if name not in whole:
            if place.lora is not None:
                raise _unnamed(references[name].model, "it is an adapter itself")
            model = _model_of(place.model, references, whole, folder) or whole.get(base or "")
            if model is None:
                raise _unnamed(
                    references[name].model, "it is an adapter, and its model is no source"
                )
            found[name] = Location(model, place.model)
    return found


def lasting_name(reference: Reference, place: Location) -> str:
    """What a recipe file calls a source: `org/name@commit` if it came from a hub, else its path."""
    parts = [_lasting(reference.model, place.model)]
    if place.lora is not None:
        called = reference.lora or reference.model
        if reference.lora is None:  # an adapter that stood alone
            parts = [_lasting(str(place.model), place.model)]
        parts.append(_lasting(called, place.lora))
    return LORA.join(parts)


def _lasting(called: str, folder: Path) -> str:
    commit = revision_of(folder)
    if commit is None:
        return str(folder.resolve())
    name = called.partition("@")[0]
    if Path(name).is_absolute():  # known by its place in the Hub's cache: models--org--name
        name = folder.resolve().parent.parent.name.removeprefix("models--").replace("--", "/", 1)
    return f"{name}@{commit}"


def _locate(reference: Reference, folder: Path) -> Location:
    model = resolve_model(reference.model, folder, reference.revision)
    if reference.lora is None:
        return Location(model)
    lora = resolve_model(reference.lora, folder)
    if is_adapter(lora):
        return Location(model, lora)
    raise InputError(
        f"lora '{reference.lora}'",
        "there is no adapter_config.json",
        str(lora),
        "name a LoRA adapter's folder, as peft saves it; if the model's name has a '+' itself, "
        f"correct its path ('{reference.model}+{reference.lora}' is no folder)",
    )


def _model_of(
    adapter: Path, references: Mapping[str, Reference], whole: Mapping[str, Path], folder: Path
) -> Path | None:
    """The source that an adapter says it was trained on."""
    said = base_of(adapter)
    if said is None:
        return None
    path = Path(said).expanduser()
    places = {p.resolve() for p in (path, folder / path, adapter / path) if p.is_dir()}
    for name, model in whole.items():
        if references[name].model.partition("@")[0] == said or model.resolve() in places:
            return model
    return None


def _unnamed(adapter: str, rule: str) -> InputError:
    return InputError(
        f"model '{adapter}'",
        rule,
        "models",
        f"name the model it was trained on: {{model: MODEL, lora: {adapter}}}, or MODEL+{adapter} "
        "in a recipe",
    )

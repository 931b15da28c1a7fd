"""Names of models in mergekit's dialect: `path`, `path@revision`, `path+lora`, or their long form.

In the short form mergekit splits at `+` (a LoRA adapter on top of the model) and at `@` (a
revision); in the long form, `{model: {path: ..., revision: ...}, lora: {path: ...}}`, a path is
taken as it stands. A recipe calls a model with an adapter `MODEL + LORA`, spaces included.
"""

from collections.abc import Mapping
from typing import cast

from search_spaces.dialect_values import check_keys, mapping_of
from search_spaces.errors import InputError

LORA = " + "
"""Between a model and its adapter in a source's name."""

_LOCAL = ("/", ".", "~")


def read_source(value: object, where: str) -> str:
    """The source's name that a `model:`, `base_model:` or `tokenizer_source:` spells.

    A local path with a `+` stays as it is: whether that is a folder's name or a model and its
    adapter is for the disk to say.

    Raises:
        InputError: no name, or one with several `+`.
    """
    if isinstance(value, dict):
        return _long(_without_null(cast(object, value), where), where)
    name = _text(value, where)
    if name.startswith(_LOCAL) or LORA in name or "+" not in name:
        return name
    model, _, lora = name.partition("+")
    if model and lora and "+" not in lora:
        return f"{model}{LORA}{lora}"
    raise InputError(
        f"model '{name}'",
        "one '+' stands between a model and its LoRA adapter",
        where,
        f"if the name has a '+' itself, write model: {{model: {{path: {name}}}}}",
    )


def split_lora(name: str) -> tuple[str, str | None]:
    """The model and the adapter that a source's name speaks of (None: no adapter)."""
    model, found, lora = name.partition(LORA)
    return (model, lora) if found and model and lora else (name, None)


def write_source(name: str) -> object:
    """The value that mergekit and `read_source` both read as a model of that name, and no more."""
    model, lora = split_lora(name)
    if lora is not None:
        return {"model": _part(model), "lora": _part(lora)}
    part = _part(name)
    return part if isinstance(part, str) else {"model": part}


def _part(name: str) -> object:
    splits = "+" in name or ("@" in name and name.startswith(_LOCAL))
    return {"path": name} if splits else name


def _long(data: Mapping[str, object], where: str) -> str:
    check_keys(data, ("model", "lora"), where)
    model = _path(data.get("model"), where)
    return model if "lora" not in data else f"{model}{LORA}{_path(data['lora'], where)}"


def _path(value: object, where: str) -> str:
    """A model or an adapter of the long form: text, or `{path: ..., revision: ...}`."""
    if not isinstance(value, dict):
        return _text(value, where)
    parts = _without_null(cast(object, value), where)
    check_keys(parts, ("path", "revision"), where)
    path = _text(parts.get("path"), where)
    return f"{path}@{_text(parts['revision'], where)}" if "revision" in parts else path


def _without_null(value: object, where: str) -> dict[str, object]:
    return {key: part for key, part in mapping_of(value, where).items() if part is not None}


def _text(value: object, where: str) -> str:
    if not isinstance(value, str) or not value:
        passed = "no model" if value is None else f"model = {value!r}"
        raise InputError(
            passed, "a model is a path or a hub id", where, "write `model: org/name`, quoted if odd"
        )
    return value

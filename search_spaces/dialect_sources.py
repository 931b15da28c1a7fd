"""Names of models in mergekit's dialect: `path`, `path@revision`, or the long form of either.

In the short form mergekit splits at `+` (a LoRA) and at `@` (a revision); in the long form,
`{model: {path: ..., revision: ...}}`, a path is taken as it stands.
"""

from collections.abc import Mapping
from typing import cast

from search_spaces.dialect_values import check_keys, mapping_of
from search_spaces.errors import InputError

_LOCAL = ("/", ".", "~")


def read_source(value: object, where: str) -> str:
    """The source's name that a `model:`, `base_model:` or `tokenizer_source:` spells.

    Raises:
        InputError: no name, or one with a LoRA adapter.
    """
    if isinstance(value, dict):
        return _long(_without_null(cast(object, value), where), where)
    name = _text(value, where)
    if "+" in name and not name.startswith(_LOCAL):
        raise InputError(
            f"model '{name}' (path+lora)",
            "LoRA adapters are not supported yet",
            where,
            "merge the adapter into its model first; if the name has a '+' itself, write "
            f"model: {{model: {{path: {name}}}}}",
        )
    return name


def write_source(name: str) -> object:
    """The value that mergekit and `read_source` both read as a model of that name, and no more."""
    splits = "+" in name or ("@" in name and name.startswith(_LOCAL))
    return {"model": {"path": name}} if splits else name


def _long(data: Mapping[str, object], where: str) -> str:
    check_keys(data, ("model",), where)
    model = data.get("model")
    if not isinstance(model, dict):
        return _text(model, where)
    parts = _without_null(cast(object, model), where)
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

"""Errors as plain data: vLLM turns what its processes raise into texts, and may die of it.

A worker therefore raises nothing that a candidate caused. It records the error, and the driver
raises it again, of the same type and with the same attributes.
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from importlib import import_module
from typing import Any, TypeAlias

Failure: TypeAlias = dict[str, Any]
"""`type` (module:name), `text`, `args` and `state` (plain values only), `traceback`."""


class BrokenEngineError(RuntimeError):
    """The engine holds requests that it will never finish: it has to be replaced."""


_PLAIN = (str, int, float, bool, type(None))


def as_data(error: BaseException) -> Failure:
    """An error as a mapping of plain values."""
    kind = type(error)
    return {
        "type": f"{kind.__module__}:{kind.__qualname__}",
        "text": str(error),
        "args": [value if _plain(value) else str(value) for value in error.args],
        "state": {name: value for name, value in vars(error).items() if _plain(value)},
        "traceback": "".join(traceback.format_exception(error)),
    }


def from_data(failure: Mapping[str, Any], place: str) -> Exception:
    """The error again; a `RuntimeError` with its text where its type is not to be had here.

    Args:
        failure: made by `as_data`.
        place: where it happened; it and the traceback become the error's note.
    """
    kind = _type(failure["type"])
    if kind is None:
        error: Exception = RuntimeError(f"{failure['type']}: {failure['text']}")
    else:  # not by calling it: what it is called with need not be what it keeps
        error = kind.__new__(kind, *failure["args"])
        error.args = tuple(failure["args"])
        vars(error).update(failure["state"])
    error.add_note(f"in {place}:\n{failure['traceback']}")
    return error


def _plain(value: object) -> bool:
    if isinstance(value, list):
        return all(_plain(item) for item in value)
    return isinstance(value, _PLAIN)


def _type(name: str) -> type[Exception] | None:
    module, _, qualified = name.partition(":")
    try:
        found: object = import_module(module)
        for part in qualified.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError):
        return None
    return found if isinstance(found, type) and issubclass(found, Exception) else None

"""Loading a user's own function from a file or a module."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from fitness.errors import FitnessError, nearest, one_line


def load_function(reference: str, folder: Path) -> Callable[..., Any]:
    """The function `path/to/file.py:name` (relative to `folder`) or `package.module:name`.

    Raises:
        FitnessError: a reference of another form, no such file or module, an error while importing
            it, no such name in it, or a name that cannot be called.
    """
    place, _, name = reference.rpartition(":")
    if not place or not name.isidentifier():
        raise _error(
            reference,
            "it is neither 'path/to/file.py:name' nor 'package.module:name'",
            "write it in one of these forms",
        )
    is_file = place.endswith(".py")
    if is_file and not (folder / place).is_file():
        raise _error(reference, f"there is no file {folder / place}", "correct the path")
    try:
        module = _from_file(folder / place) if is_file else importlib.import_module(place)
    except Exception as error:  # importing runs the user's code, which may raise anything
        raise _error(
            reference, f"importing it failed with {one_line(error)}", "correct it"
        ) from error
    function = vars(module).get(name)
    if function is None:
        known = [key for key, value in vars(module).items() if callable(value)]
        raise _error(reference, f"there is no '{name}' in it", nearest(name, known))
    if not callable(function):
        raise _error(reference, f"'{name}' is no function", "name a function")
    return function


def _from_file(path: Path) -> ModuleType:
    path = path.resolve()
    digest = hashlib.sha256(str(path).encode()).hexdigest()[:12]
    spec = importlib.util.spec_from_file_location(f"fitness_function_{digest}", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _error(reference: str, rule: str, remedy: str) -> FitnessError:
    return FitnessError(f"function '{reference}'", rule, "objectives", remedy)

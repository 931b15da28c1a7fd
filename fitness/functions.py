"""Loading a user's own function from a file or a module, and noticing that its code changed."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
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
    place, name = _parts(reference, folder)
    if place.endswith(".py"):
        module = _imported(reference, lambda: _from_file(folder / place))
    else:
        module = _imported(reference, lambda: importlib.import_module(place))
    function = vars(module).get(name)
    if function is None:
        known = [key for key, value in vars(module).items() if callable(value)]
        raise _error(reference, f"there is no '{name}' in it", nearest(name, known))
    if not callable(function):
        raise _error(reference, f"'{name}' is no function", "name a function")
    return function


def function_digest(reference: str, folder: Path) -> str:
    """SHA-256, as hex digits, of the file that defines a function `load_function` loads.

    Of a module without a file (a built-in one) it is that of the module's name.

    Raises:
        FitnessError: as `load_function`, but the name in the file is not looked for.
    """
    place, _ = _parts(reference, folder)
    if place.endswith(".py"):
        return _sha256((folder / place).read_bytes())
    module = _imported(reference, lambda: importlib.import_module(place))
    file = vars(module).get("__file__")
    return _sha256(Path(file).read_bytes() if file else place.encode())


def source_of(function: Callable[..., Any]) -> str:
    """The text of the file that defines a function; its qualified name where there is none.

    The whole file, because a function is rarely all of its code: a helper beside it may change.
    """
    inner = inspect.unwrap(function)
    code = inner if inspect.isroutine(inner) or inspect.isclass(inner) else type(inner)
    try:
        file = inspect.getsourcefile(code)
    except (TypeError, OSError):  # built in, or its module is gone
        file = None
    if file and Path(file).is_file():
        return Path(file).read_text(encoding="utf-8", errors="replace")
    return f"{code.__module__}.{code.__qualname__}"


def _parts(reference: str, folder: Path) -> tuple[str, str]:
    """Place and name of a reference, the file checked to exist."""
    place, _, name = reference.rpartition(":")
    if not place or not name.isidentifier():
        raise _error(
            reference,
            "it is neither 'path/to/file.py:name' nor 'package.module:name'",
            "write it in one of these forms",
        )
    if place.endswith(".py") and not (folder / place).is_file():
        raise _error(reference, f"there is no file {folder / place}", "correct the path")
    return place, name


def _imported(reference: str, load: Callable[[], ModuleType]) -> ModuleType:
    try:
        return load()
    except Exception as error:  # importing runs the user's code, which may raise anything
        raise _error(
            reference, f"importing it failed with {one_line(error)}", "correct it"
        ) from error


def _from_file(path: Path) -> ModuleType:
    path = path.resolve()
    name = f"_fitness_function_{_sha256(str(path).encode())[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look up their module by name while it is being executed.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return module


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _error(reference: str, rule: str, remedy: str) -> FitnessError:
    return FitnessError(f"function '{reference}'", rule, "objectives", remedy)

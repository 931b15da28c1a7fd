"""Reading another tool's configuration, and writing the run file that it becomes."""

import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from evomerge.config import RunFile
from evomerge.importing import mergekit_evolve, mergenetic
from evomerge.importing.draft import Draft
from evomerge.run_file import parse_run_file
from search_spaces.errors import InputError
from search_spaces.yaml_text import read_mapping, write

_TOOLS: Mapping[str, tuple[frozenset[str], Callable[[Mapping[str, Any], str], Draft]]] = {
    module.TOOL: (module.KEYS, module.drafted) for module in (mergekit_evolve, mergenetic)
}


def import_config(file: Path) -> tuple[str, list[str]]:
    """A run file's text, and what the user should know of it, a line each.

    Args:
        file: a configuration of mergekit-evolve or Mergenetic.

    Raises:
        InputError: it cannot be read, is of neither tool, or is no valid file of its tool's.
    """
    try:
        text = file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"file '{file}'",
            f"it cannot be read ({error})",
            str(file),
            "give the path of a mergekit-evolve or Mergenetic configuration",
        ) from None
    given = read_mapping(text, str(file))
    draft = _TOOLS[_tool(given, str(file))][1](given, file.name)
    _account_for(draft, given)
    content = {key: section for key, section in draft.content.items() if section}
    made = draft.header() + write(content)
    parse_run_file(read_mapping(made, str(file)), f"the run file made of {file}")
    return made, draft.notes


def write_run_file(text: str, out: Path) -> None:
    """Write an imported run file, whole or not at all.

    Raises:
        InputError: there is such a file, or it cannot be written.
    """
    if out.exists():
        raise InputError(f"'{out}'", "it exists", "--out", "choose another name, or remove it")
    made: str | None = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        descriptor, made = tempfile.mkstemp(dir=out.parent)
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)
        os.chmod(made, 0o644)
        os.replace(made, out)
        made = None
    except OSError as error:
        raise InputError(
            f"'{out}'", f"it cannot be written ({error})", "--out", "choose another place"
        ) from None
    finally:
        if made is not None:
            Path(made).unlink(missing_ok=True)


def _tool(given: Mapping[str, Any], where: str) -> str:
    """Whose configuration it is.

    Raises:
        InputError: of none that is known.
    """
    if "genome" in given:
        return mergekit_evolve.TOOL
    if {"pop_size", "n_iter"} & set(given):
        return mergenetic.TOOL
    named = ", ".join(list(given)[:6]) or "no keys"
    if "merge_method" in given:
        rule, remedy = (
            "it is a mergekit recipe: one merge, no search",
            f"use 'evomerge merge {where} OUT'",
        )
    elif set(given) <= set(RunFile.model_fields) and given:
        rule, remedy = "it is a run file already", f"use 'evomerge search {where}'"
    else:
        near = max(_TOOLS, key=lambda tool: len(_TOOLS[tool][0] & set(given)))
        wanted = (
            "genome and tasks" if near == mergekit_evolve.TOOL else "pop_size, n_iter and models"
        )
        rule = "it is no configuration of mergekit-evolve (genome, tasks) or Mergenetic (pop_size, n_iter)"
        remedy = f"the nearest is {near}: give a file with {wanted}"
    raise InputError(f"a file with {named}", rule, where, remedy)


def _account_for(draft: Draft, given: Mapping[str, Any]) -> None:
    """Name the keys that nothing was said of."""
    inner = given.get("genome")
    keys = {key: value for key, value in given.items() if key != "genome"}
    if isinstance(inner, Mapping):
        keys |= {f"genome.{key}": value for key, value in inner.items()}
    said = (*draft.became, *draft.left_out)
    for key, value in keys.items():
        if not any(
            name == key or name.startswith((f"{key}.", f"{key}:", f"{key}[")) for name in said
        ):
            draft.left_out[key] = (
                "nothing to say" if value is None else "it makes no difference here"
            )

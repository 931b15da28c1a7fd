"""Reading a run file: YAML to `RunFile`, and errors that name the key and suggest the nearest one."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from evomerge.config import RunFile
from evomerge.config.space import KINDS
from search_spaces.errors import InputError, nearest
from search_spaces.yaml_text import read_mapping


def load_run_file(path: Path) -> RunFile:
    """Read and validate a run file.

    Raises:
        InputError: no such file, not YAML, an unknown key or a value out of range.
    """
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"run file '{path}'",
            f"it cannot be read ({error})",
            str(path),
            "give a YAML file's path",
        ) from None
    content = read_mapping(text, str(path))
    return parse_run_file(content, str(path))


def parse_run_file(content: dict[str, Any], where: str) -> RunFile:
    """Validate the content of a run file.

    Raises:
        InputError: for the first thing that is wrong, naming its key.
    """
    try:
        return RunFile.model_validate(content)
    except ValidationError as error:
        raise _first_error(error, where) from None


def _first_error(error: ValidationError, where: str) -> InputError:
    details = error.errors()
    first = next((d for d in details if d["type"] == "extra_forbidden"), details[0])
    key = ".".join(str(part) for part in _as_written(first["loc"])) or "run file"
    if first["type"] == "extra_forbidden":
        remedy = nearest(str(first["loc"][-1]), _keys_beside(first["loc"]))
        return InputError(f"key '{key}'", "it is unknown", where, remedy)
    if first["type"] == "missing":
        return InputError(f"no '{key}'", "it is required", where, "add it")
    message = first["msg"].removeprefix("Value error, ")
    given = "" if isinstance(first["input"], (dict, list)) else f" = {first['input']!r}"
    rule, said, remedy = message.rpartition("; ")
    return InputError(
        f"{key}{given}", rule or message, where, remedy if said else "correct the value"
    )


def _as_written(location: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """A place in the run file. Below `space`, pydantic's has the kind that was read as well."""
    of_kind = location[:1] == ("space",) and location[1:2] and location[1] in KINDS
    return (*location[:1], *location[2:]) if of_kind else location


def _keys_beside(location: tuple[int | str, ...]) -> list[str]:
    """The keys that the section holding `location` knows."""
    section: Any = RunFile
    for part in location[:-1]:
        fields = section.model_fields if isinstance(section, type) else {}
        if part in fields:
            section = _section_of(fields[str(part)].annotation)
        elif part in KINDS:
            section = KINDS[str(part)]
    return [field.alias or name for name, field in section.model_fields.items() if name != "frozen"]


def _section_of(annotation: Any) -> Any:
    """The section class inside an annotation such as `dict[str, Task]` or `Source | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for part in getattr(annotation, "__args__", ()):
        found = _section_of(part)
        if found is not None:
            return found
    return None


def folder_of(config: RunFile, path: Path) -> Path:
    """What a run file's relative paths are relative to: a run's own copy remembers where it was."""
    return Path(config.frozen.origin if config.frozen else path).resolve().parent

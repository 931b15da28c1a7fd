"""Write the reference pages from the declarations they describe: `python docs/generate.py`.

A test fails when the pages are not what this writes.
"""

from pathlib import Path
from typing import Any

from pydantic import BaseModel

from evomerge.config import RunFile
from evomerge.search.algorithms import ALGORITHMS
from search_spaces.describe import rules_table

HERE = Path(__file__).parent


def run_file_page() -> str:
    """`run_file.md`: every key of the run file, with type, default and meaning."""
    lines = [
        "# The run file",
        "",
        "Generated from `evomerge/config.py` by `docs/generate.py`. Relative paths are relative to the"
        " run file. Unknown keys are errors.",
    ]
    for name, field in RunFile.model_fields.items():
        if name == "frozen":
            continue
        lines += ["", f"## `{name}`", ""]
        lines += _section(_classes(field.annotation)[0], name)
    lines += [
        "",
        "## Search algorithms",
        "",
        "| name | what it does | objectives | paper |",
        "|---|---|---|---|",
    ]
    lines += [f"| `{a.name}` | {a.doc} | {a.objectives} | {a.paper} |" for a in ALGORITHMS.values()]
    return "\n".join(lines) + "\n"


def _section(section: type[BaseModel], path: str) -> list[str]:
    lines = [
        " ".join((section.__doc__ or "").split()),
        "",
        "| key | default | meaning |",
        "|---|---|---|",
    ]
    nested: list[str] = []
    for name, field in section.model_fields.items():
        lines.append(f"| `{name}` | {_default(field)} | {field.description or ''} |")
        for inner in _classes(field.annotation):
            nested += ["", f"### `{path}.{name}`", "", *_section(inner, f"{path}.{name}")]
    return lines + nested


def _default(field: Any) -> str:
    if field.is_required():
        return "required"
    if field.default is None or isinstance(field.default, BaseModel) or field.default in ([], {}):
        return "–"
    return f"`{field.default}`".replace("`True`", "`true`").replace("`False`", "`false`")


def _classes(annotation: Any) -> list[type[BaseModel]]:
    """The section classes inside an annotation, each once."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    found = [c for part in getattr(annotation, "__args__", ()) for c in _classes(part)]
    return list(dict.fromkeys(found))


def rules_page() -> str:
    """`merge_rules.md`: the table of merge rules."""
    return (
        "# Merge rules\n\nGenerated from `search_spaces/rules.py` by `docs/generate.py`.\n\n"
        + rules_table().strip()
        + "\n"
    )


PAGES = {"run_file.md": run_file_page, "merge_rules.md": rules_page}

if __name__ == "__main__":
    for file, page in PAGES.items():
        (HERE / file).write_text(page())

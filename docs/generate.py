"""Write the reference pages from the declarations they describe: `python docs/generate.py`.

A test fails when the pages are not what this writes.
"""

from pathlib import Path
from typing import Any

from pydantic import BaseModel

from evomerge.config import RunFile
from evomerge.search.algorithms import ALGORITHMS
from search_spaces.describe import parameters_table, rules_table, stages_table

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
    """`merge_rules.md`: rules, stages, parameters."""
    return f"""# Merge rules

Generated from `search_spaces/rules.py` and `search_spaces/stages.py` by `docs/generate.py`. How to
add one: `docs/adding_a_rule.md`.

A merge rule is a pipeline

    reference -> sparsify -> rescale -> spectral -> consensus -> combine -> scale

With reference r, sources theta_i and weights w_i: tau_i = theta_i - r; sparsify drops elements of
tau_i and rescale multiplies what is left; spectral edits singular values; consensus picks the
elements on which sources agree; combine makes one tau of them; the result is r + lambda * (alpha +
beta * depth) * tau. A published method is a preset of these choices.

## Rules

"Searched" is what a search varies, and over which interval, unless the run file says otherwise.
Rules with "stages" among their parameters take other choices of `reference`, `sparsify`,
`spectral`, `consensus` and `combine`. "base +": the sources are seen from a base; "(base +)": if one
is named; otherwise a base is a source as any other. "mergekit": mergekit 0.1.5 has the method under
this name.

{rules_table().strip()}

## Stages

{stages_table().strip()}

In a recipe, a stage's name among the parameters puts another choice in place of the rule's, at every
level and with filters and gradients as for any number; `method` does the same for the rule:

```yaml
merge_method: ties
base_model: org/base
models: [{{model: org/maths, parameters: {{weight: 0.6}}}}, {{model: org/code, parameters: {{weight: 0.5}}}}]
parameters:
  density: 0.4
  consensus: count                            # by the number of signs, not by their sum
  method: [{{filter: norm, value: task_arithmetic}}, {{filter: lm_head, value: magmax}}]
```

In a run file's `space`, a list of them is searched, by layer group and component too:

```yaml
space:
  rule: [ties, dare_linear, lines]
  consensus: [none, sum, count]
  granularity: {{layers: 4, components: [attn, mlp], rules: true}}
```

## Parameters

Those named like stages, and `method`, are described above.

{parameters_table().strip()}
"""


PAGES = {"run_file.md": run_file_page, "merge_rules.md": rules_page}

if __name__ == "__main__":
    for file, page in PAGES.items():
        (HERE / file).write_text(page())

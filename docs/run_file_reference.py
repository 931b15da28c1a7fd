"""The run file's reference page and JSON schema, from the classes that read run files."""

from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from evomerge.config import RunFile
from evomerge.config.space import KINDS
from search_spaces.rules import METHOD, OVERRIDES, PARAMETERS

EXAMPLES = {
    "models": """
models:
  base: Qwen/Qwen2.5-1.5B                       # an id, or a folder beside the run file
  experts:
    maths: {model: org/maths-1.5b, revision: v1.1}
    ja: {model: Qwen/Qwen2.5-1.5B, lora: org/ja-lora@main}
  tokenizer: base
""",
    "space of kind parameter": """
space:
  rule: [ties, dare_ties]                       # a list is searched
  granularity: {layers: 4, components: [attn, mlp]}
  weight: [0, 1.2]                              # a range is searched
  density: 0.4                                  # a number is fixed
  consensus: [sum, count]                       # a stage of the rules
""",
    "space of kind path": """
space:
  kind: path
  depth: [24, 40]
  first: 2
  last: 2
  input_scale: [0.5, 1.5]
  merged: {share: 0.5, rule: task_arithmetic, weight: [0, 1.5]}   # a merge first
""",
    "space of kind indicator": """
space: {kind: indicator, repeats: 3, depth: [24, 48], input_scale: [0.5, 1.5]}
""",
    "space of kind template": """
space: {kind: template, templates: [up_scaling, layer_swap]}
""",
    "space of kind hybrid": """
space: {kind: hybrid, rule: task_arithmetic, weight: [0, 1.5], depth: [24, 40], weights: per_slot}
""",
    "fitness": """
fitness:
  include: tasks                                # a folder of lm-eval YAML files
  tasks:
    gsm8k: {items: 100, selection: 200, test: 400, num_fewshot: 4}
    my_chat: {items: 60, apply_chat_template: true, system_instruction: "Be brief.",
              filter: flexible-extract, generation: {max_gen_toks: 512}}
  objectives:
    - {task: gsm8k, at_least: 0.3}
    - my_chat
    - {cost: tokens}
  constraints: ["tokens <= 400"]
  estimator: p_irt
  bank: banks
  racing: {rungs: [10, 30, 100], reselect: 5}
""",
    "search": """
search:
  algorithm: nsga2
  population: 32
  schedule: generational
  seed: 1
  budget: {evaluations: 2000, hours: 10, tokens: 50000000, patience: 300}
  warm_start: {run: runs/yesterday}
  finalists: 24
""",
    "engine": """
engine:
  kind: vllm
  dtype: bfloat16
  max_model_len: 4096
  tensor_parallel: 2
  arguments: {gpu_memory_utilization: 0.6}
""",
    "cluster": """
cluster: {address: auto, evaluators: auto, gpus_per_evaluator: 1, deadline_seconds: 600, straggler: 4}
""",
    "export": """
export: {pick: "best:gsm8k", dtype: bfloat16}
""",
}
"""An example of each section, of `space` one per kind; a test reads them all."""

LIMITS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
WORDS: dict[Any, str] = {int: "whole number", float: "number", bool: "true or false", str: "text"}


def run_file_page() -> str:
    """`run_file.md`: every key of the run file, with type, default and meaning."""
    lines = [
        "# The run file",
        "",
        "Generated from `evomerge/config/` by `docs/generate.py`. Relative paths are relative to the"
        " run file. Unknown keys are errors. Only `models.experts` and `fitness.tasks` have to be"
        " given; how to choose the rest: [choosing](choosing.md).",
        "",
        "`evomerge check RUN.yaml` checks a run file. For editors there is a JSON schema of it,"
        " [run_file.schema.json](run_file.schema.json): with the YAML language server (VS Code, Neovim,"
        " ...), the line `# yaml-language-server: $schema=PATH/docs/run_file.schema.json` on top of a run"
        " file gives completion and the texts of this page.",
    ]
    for name, field in RunFile.model_fields.items():
        if name == "frozen":
            continue
        lines += ["", f"## `{name}`", ""]
        kinds = _classes(field.annotation)
        lines += _kinds(kinds, name) if len(kinds) > 1 else _section(kinds[0], name)
    lines += ["", "The search algorithms: [algorithms](algorithms.md). The merge rules and what they"
              " read: [merge rules](merge_rules.md)."]  # fmt: skip
    return "\n".join(lines) + "\n"


def run_file_schema() -> dict[str, Any]:
    """JSON schema (draft 2020-12) of run files as users write them, for editors."""
    schema = RunFile.model_json_schema()
    schema["properties"].pop("frozen")
    definitions = schema["$defs"]
    for unused in ("Frozen", "SourceFiles"):
        definitions.pop(unused)
    for kind, section in KINDS.items():
        if kind != "parameter":  # which is what a space without `kind` is
            definitions[section.__name__].setdefault("required", []).append("kind")
    for name, definition in definitions.items():
        if definition.get("additionalProperties") is True:  # the rules' parameters
            definition["additionalProperties"] = False
            known = {n: {"description": p.doc} for n, p in PARAMETERS.items() if n != METHOD}
            stages = {n: {"description": "a stage, or a list to search"} for n in OVERRIDES}
            definitions[name]["properties"] |= known | stages
    schema["title"] = "evomerge run file"
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | schema


def _example(path: str) -> list[str]:
    found = EXAMPLES.get(path)
    return [] if found is None else ["", "```yaml", found.strip(), "```"]


def _kinds(kinds: list[type[BaseModel]], path: str) -> list[str]:
    """A section whose key `kind` says which keys it has."""
    lines = ["What is searched: `kind` says how.", "", "| kind | meaning |", "|---|---|"]
    for kind in kinds:
        field = kind.model_fields["kind"]
        default = " (default)" if kind is kinds[0] else ""
        lines.append(f"| `{field.default}`{default} | {field.description} |")
    shown: dict[type[BaseModel], str] = {}
    for kind in kinds:
        name = kind.model_fields["kind"].default
        lines += ["", f"### `{path}` of kind `{name}`", ""]
        lines += _section(kind, path, f"{path} of kind {name}", "kind", shown)
    return lines


def _section(
    section: type[BaseModel],
    path: str,
    example: str = "",
    without: str = "",
    shown: dict[type[BaseModel], str] | None = None,
) -> list[str]:
    """A section's example and table, and those of the sections in it.

    Args:
        section: its class.
        path: its key.
        example: the name of its example, if not the path.
        without: a field that is left out.
        shown: sections that need not be shown again, and their keys; grows.
    """
    shown = {} if shown is None else shown
    lines = [" ".join((section.__doc__ or "").split()), *_example(example or path), ""]
    lines += ["| key | type | default | meaning |", "|---|---|---|---|"]
    nested: list[str] = []
    for name, field in section.model_fields.items():
        if name == without:
            continue
        kind = _type(field.annotation, field.metadata)
        again = [shown[inner] for inner in _classes(field.annotation) if inner in shown]
        kind = kind.replace("section", f"section as `{again[0]}`") if again else kind
        lines.append(f"| `{name}` | {kind} | {_default(field)} | {field.description or ''} |")
        for inner in _classes(field.annotation):
            if inner not in shown:
                shown[inner] = f"{path}.{name}"
                nested += ["", f"### `{path}.{name}`", ""]
                nested += _section(inner, f"{path}.{name}", shown=shown)
    return lines + nested


def _default(field: Any) -> str:
    if field.is_required():
        return "required"
    if field.default is None or isinstance(field.default, BaseModel) or field.default in ([], {}):
        return "–"
    return f"`{field.default}`".replace("`True`", "`true`").replace("`False`", "`false`")


def _type(annotation: Any, metadata: Any = ()) -> str:
    """An annotation in words, with its range: "whole number ≥ 1, or `auto`"."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:  # a Field inside has its limits in a list of its own
        inner = [deep for item in parts[1:] for deep in getattr(item, "metadata", [item])]
        return _type(parts[0], inner)
    if (written := _as_written(metadata)) is not None:
        return _type(written)
    if origin in (Union, UnionType):
        said = [_type(part, metadata) for part in parts if part is not NoneType]
        return ", or ".join(dict.fromkeys(said))
    if origin is not None:
        return _several(origin, parts)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section"
    return WORDS.get(annotation, "anything") + _limits(metadata)


def _several(origin: Any, parts: tuple[Any, ...]) -> str:
    """A generic type in words."""
    if origin is Literal:
        return " \\| ".join(f"`{part}`" for part in parts)
    said = [_type(part) for part in parts]
    if origin is list:
        return f"list of {said[0]}"
    return f"mapping of {said[0]} to {said[1]}" if origin is dict else f"[{', '.join(said)}]"


def _as_written(metadata: Any) -> Any:
    """What a user may write where a validator makes something else of it."""
    for item in metadata:
        written = getattr(item, "json_schema_input_type", PydanticUndefined)
        if written is not PydanticUndefined:
            return written
    return None


def _limits(metadata: Any) -> str:
    found = [
        f" {sign} {getattr(item, name):g}"
        for item in metadata
        for name, sign in LIMITS.items()
        if getattr(item, name, None) is not None
    ]
    return " and".join(found)


def _classes(annotation: Any) -> list[type[BaseModel]]:
    """The section classes inside an annotation, each once."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    found = [c for part in get_args(annotation) for c in _classes(part)]
    return list(dict.fromkeys(found))

"""mergekit's YAML dialect: reading recipes (`dialect_writer` writes them).

Read: `models:` and `slices:`, `merge_method`, `base_model`, `parameters` at every level (a number,
a gradient, or a list of {filter, value}), `dtype`, `out_dtype`, `tokenizer_source`, `tokenizer`,
and our own `seed` (of the random masks). Where we differ from mergekit 0.1.5:

* A filter that is one of our five components (`attn`, `mlp`, `norm`, `embed`, `lm_head`) selects
  tensors by their role, so it works for every architecture; mergekit looks for the word in the name
  (`attn` finds `self_attn.q_norm` there and not here). Any other filter is a part of the name in
  both.
* Arithmetic is in float32. `out_dtype`, or `dtype` where that is absent, is the storage type.
* A path that is local by its text (it begins with `/`, `.` or `~`) and holds a `+` is a folder's
  name where there is such a folder, else a model and its LoRA adapter; mergekit reads the latter
  always (or fails). We write names in mergekit's long form, `model: {model: {path: /e++/m}}`, which
  both read alike. Elsewhere `+` is a LoRA.
* Ours alone are: the methods that `search_spaces.mergekit` does not list; the parameters `alpha`,
  `beta`, `scope`, `rescale_norm` and `lambda` where mergekit has none; and those that choose, by
  tensor and depth as any other: `method` (another rule's name) and `reference`, `sparsify`,
  `spectral`, `consensus`, `combine` (another choice of that stage of a rule on deltas). mergekit
  refuses the methods and passes over the parameters in silence, so it would merge something else.
* A slice's `input_scale` is ours too: a factor on the hidden state that flows into the slice's first
  layer, as in the stacks of Akiba et al. 2024; it becomes plain weights. mergekit passes over it.
* What mergekit passes over in silence is an error: unknown keys and parameters, a parameter of the
  tensor written under one source, a key that stands twice. `int8_mask` is passed over: it saves
  memory there and changes no number.

`modules`, `chat_template`, per-token sources, padding of the vocabulary and a base per slice are
refused with a reason.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import cast

from search_spaces.dialect_sources import read_source
from search_spaces.dialect_values import check_keys, mapping_of, read_parameters, read_scale
from search_spaces.dialect_writer import dump_recipe
from search_spaces.errors import InputError
from search_spaces.recipe import Input, Recipe, Slice
from search_spaces.rules import Rule, rule_named

__all__ = ["dump_recipe", "load_recipe", "parse_recipe"]

_TOP = (
    "merge_method",
    "base_model",
    "models",
    "slices",
    "parameters",
    "dtype",
    "out_dtype",
    "tokenizer_source",
    "tokenizer",
    "seed",
)


def parse_recipe(text: str, where: str) -> Recipe:
    """The recipe that `text` spells in mergekit's dialect.

    Args:
        text: YAML.
        where: what to call the text in errors (a file's path, say).

    Raises:
        InputError: the text is no recipe, or asks for what is not supported (see this module).
    """
    # PyYAML is needed for nothing else here: importing search_spaces shall not load it.
    from search_spaces.yaml_text import read_mapping

    data = read_mapping(text, where)
    try:
        return _recipe(data)
    except InputError as error:
        place = f"{where}, {error.where}"
        raise InputError(error.passed, error.rule, place, error.remedy) from None


def load_recipe(path: str | Path) -> Recipe:
    """The recipe in the YAML file `path`.

    Raises:
        InputError: no such file, not UTF-8, or see `parse_recipe`.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"recipe '{path}'", f"it cannot be read ({error.strerror})", str(path), "check the path"
        ) from None
    except UnicodeDecodeError:
        raise InputError(
            f"recipe '{path}'", "it is not UTF-8 text", str(path), "save it as UTF-8"
        ) from None
    return parse_recipe(text, str(path))


def _recipe(data: dict[str, object]) -> Recipe:
    check_keys(data, _TOP, "the recipe")
    rule = rule_named(_method(data), "merge_method")
    base = None if data.get("base_model") is None else read_source(data["base_model"], "base_model")
    slices = _slices(data, rule)
    return Recipe(
        method=rule.name,
        slices=slices,
        base=base,
        parameters=read_parameters(data.get("parameters"), rule, "parameters"),
        dtype=_dtype(data),
        tokenizer=_tokenizer(data, base or slices[0].inputs[0].source),
        seed=_seed(data.get("seed", 0)),
    )


def _method(data: Mapping[str, object]) -> str:
    method = data.get("merge_method")
    if isinstance(method, str):
        return method
    passed = "no merge_method" if method is None else f"merge_method = {method}"
    raise InputError(
        passed, "a recipe names its merge method", "merge_method", "add `merge_method: linear`, say"
    )


def _slices(data: Mapping[str, object], rule: Rule) -> tuple[Slice, ...]:
    given = [key for key in ("models", "slices") if data.get(key) is not None]
    if len(given) != 1:
        raise InputError(
            "both models and slices" if given else "neither models nor slices",
            "a recipe has exactly one of them",
            "the recipe",
            "use `slices` to choose layers, `models` for whole models",
        )
    if given == ["models"]:
        entries = _entries(data["models"], "models")
        return (Slice(tuple(_input(e, rule, f"models[{i}]") for i, e in enumerate(entries))),)
    parts = _entries(data["slices"], "slices")
    return tuple(_slice(part, rule, f"slices[{i}]") for i, part in enumerate(parts))


def _slice(data: Mapping[str, object], rule: Rule, where: str) -> Slice:
    if data.get("base_model") is not None:
        raise InputError(
            "base_model of a slice",
            "a base per slice is not supported",
            where,
            "name one base_model for the whole recipe",
        )
    check_keys(data, ("sources", "parameters", "input_scale"), where)
    entries = _entries(data.get("sources"), f"{where}.sources")
    return Slice(
        tuple(
            _input(entry, rule, f"{where}.sources[{i}]", spanned=True)
            for i, entry in enumerate(entries)
        ),
        read_parameters(data.get("parameters"), rule, where),
        read_scale(data.get("input_scale"), where),
    )


def _input(data: Mapping[str, object], rule: Rule, where: str, spanned: bool = False) -> Input:
    known = ("model", "layer_range", "parameters") if spanned else ("model", "parameters")
    check_keys(data, known, where)
    return Input(
        read_source(data.get("model"), where),
        _span(data.get("layer_range"), where) if spanned else None,
        read_parameters(data.get("parameters"), rule, where),
    )


def _entries(value: object, where: str) -> list[Mapping[str, object]]:
    if not isinstance(value, list) or not value:
        raise InputError(
            f"{where.rsplit('.', 1)[-1]} = {value}",
            "it is a list with at least one entry",
            where,
            "write one `- ` entry per model or slice",
        )
    items = cast(list[object], value)
    return [mapping_of(item, f"{where}[{i}]") for i, item in enumerate(items)]


def _span(value: object, where: str) -> tuple[int, int]:
    items = cast(list[object], value) if isinstance(value, list) else []
    if len(items) != 2 or not all(type(item) is int for item in items):
        raise InputError(
            "no layer_range" if value is None else f"layer_range = {value}",
            "it is two integers: the first layer and the one after the last",
            where,
            "write layer_range: [0, 16], say",
        )
    first, last = cast(list[int], items)
    return first, last


def _dtype(data: Mapping[str, object]) -> str | None:
    for key in ("out_dtype", "dtype"):
        value = data.get(key)
        if value is not None:
            return str(value).removeprefix("torch.")
    return None


def _tokenizer(data: Mapping[str, object], default: str) -> str | None:
    source, given = data.get("tokenizer_source"), data.get("tokenizer")
    if given is not None:
        if source is not None:
            raise InputError(
                "both tokenizer_source and tokenizer",
                "a recipe has at most one of them",
                "tokenizer",
                "leave one out",
            )
        content = mapping_of(given, "tokenizer")
        check_keys(content, ("source",), "tokenizer")
        # mergekit's default here, which must not pass as "the base's".
        source = content.get("source", "union")
    if source is None:
        return None
    name = read_source(source, "tokenizer_source")
    return default if name == "base" else name


def _seed(value: object) -> int:
    if type(value) is not int:
        raise InputError(
            f"seed = {value}", "it is a non-negative integer", "seed", "correct the value"
        )
    return value

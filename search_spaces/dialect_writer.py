"""mergekit's YAML dialect: writing recipes so that mergekit makes the same model of them.

What mergekit does not have (see `dialect`) is written too, under a comment that says so.
"""

from search_spaces.agreement import copies
from search_spaces.dialect_sources import write_source
from search_spaces.errors import InputError
from search_spaces.mergekit import extensions
from search_spaces.recipe import Input, Recipe, Slice
from search_spaces.settings import Clause, Parameters


def dump_recipe(recipe: Recipe) -> str:
    """`recipe` as YAML text that mergekit accepts and `parse_recipe` reads back unchanged.

    Where the recipe uses rules, stages or parameters that mergekit 0.1.5 does not have, it would
    refuse it or, worse, pass over them: the text then begins with a comment that says so.

    Raises:
        InputError: the tokenizer is that of a source called `base` which is not the base.
    """
    from search_spaces.yaml_text import write

    data: dict[str, object] = {"merge_method": recipe.method}
    if recipe.base is not None:
        data["base_model"] = write_source(recipe.base)
    spanned = any(i.layers is not None for i in recipe.slices[0].inputs)
    if spanned:
        data["slices"] = [_slice(recipe, part) for part in recipe.slices]
    else:
        data["models"] = [_input(entry) for entry in recipe.slices[0].inputs]
    settings = _settings(recipe.parameters)
    data |= {"parameters": settings} if settings else {}
    comment = "".join(f"# evomerge: {sentence}.\n" for sentence in extensions(recipe))
    return comment + write(data | _head(recipe))


def _head(recipe: Recipe) -> dict[str, object]:
    head: dict[str, object] = {}
    if recipe.dtype is not None:
        # mergekit computes in `dtype` and stores in `out_dtype`; we compute in float32.
        head["dtype"] = "float32"
        if recipe.dtype != "float32":
            head["out_dtype"] = recipe.dtype
    if recipe.tokenizer is not None:
        first = recipe.tokenizer == recipe.sources[0]
        if recipe.tokenizer == "base" and not first:
            raise InputError(
                f"tokenizer of a source called '{recipe.tokenizer}'",
                "the word means something else in the dialect",
                "dump",
                "rename the source",
            )
        head["tokenizer_source"] = "base" if first else write_source(recipe.tokenizer)
    if recipe.seed:
        head["seed"] = recipe.seed
    return head


def _slice(recipe: Recipe, part: Slice) -> dict[str, object]:
    inputs = part.inputs
    if (
        recipe.based
        and not copies(part.parameters)
        and all(i.source != recipe.base for i in inputs)
    ):
        # mergekit wants the base among the sources of every slice.
        assert recipe.base is not None
        inputs = (Input(recipe.base, inputs[0].layers), *inputs)
    settings = _settings(part.parameters)
    written: dict[str, object] = {"sources": [_input(entry) for entry in inputs]}
    if part.input_scale != 1:
        written["input_scale"] = float(part.input_scale)
    return written | ({"parameters": settings} if settings else {})


def _input(entry: Input) -> dict[str, object]:
    data: dict[str, object] = {"model": write_source(entry.source)}
    if entry.layers is not None:
        data["layer_range"] = list(entry.layers)
    settings = _settings(entry.parameters)
    return data | ({"parameters": settings} if settings else {})


def _settings(items: Parameters) -> dict[str, object]:
    written: dict[str, object] = {}
    for name, setting in items:
        first = setting.clauses[0]
        if len(setting.clauses) == 1 and first.filter is None:
            written[name] = _value(first)
        else:
            written[name] = [_condition(clause) for clause in setting.clauses]
    return written


def _condition(clause: Clause) -> dict[str, object]:
    condition: dict[str, object] = {} if clause.filter is None else {"filter": clause.filter}
    return condition | {"value": _value(clause)}


def _value(clause: Clause) -> object:
    values = [v if isinstance(v, (bool, str)) else float(v) for v in clause.values]
    return values[0] if len(values) == 1 else values

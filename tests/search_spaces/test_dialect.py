"""mergekit's YAML, both ways."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given

from search_spaces.dialect import dump_recipe, load_recipe, parse_recipe
from search_spaces.dialect_sources import split_lora
from search_spaces.errors import InputError
from search_spaces.recipe import Clause, Input, Recipe, Setting, Slice, parameters
from search_spaces.stacking import Hop, Pool
from search_spaces.yaml_text import read_mapping
from tests.search_spaces.strategies import recipes

FOLDER = Path(__file__).parent / "recipes"
EXAMPLES = sorted(p for p in FOLDER.glob("*.yaml") if ".canonical" not in p.name)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_examples_are_read_and_written_as_committed(path: Path) -> None:
    canonical = path.with_suffix(".canonical.yaml")
    recipe = load_recipe(path)
    assert dump_recipe(recipe) == canonical.read_text()
    assert load_recipe(canonical) == recipe


def test_an_example_by_hand() -> None:
    recipe = load_recipe(FOLDER / "ties_models.yaml")
    filtered = Setting((Clause((0.5,), "mlp"), Clause((0.0,))))
    third = Setting.constant(0.33)
    assert recipe.slices[0].inputs[1] == Input(
        "org/math-13b", None, parameters({"density": third, "weight": filtered})
    )
    assert recipe.base == "org/base-13b"
    assert recipe.dtype == "float16"
    assert recipe.tokenizer == "org/base-13b"
    assert recipe.parameters == parameters({"normalize": Setting.constant(True)})


@given(recipes())
def test_what_is_written_is_read_back(recipe: Recipe) -> None:
    again = parse_recipe(dump_recipe(recipe), "dump")
    assert again == recipe
    assert again.hash == recipe.hash


HEAD = "merge_method: ties\nbase_model: b\n"
GOOD = HEAD + "models: [{model: a, parameters: {weight: 1}}]\n"
SLICED = HEAD + "slices: [{sources: [{model: a, layer_range: [0, 2]}]}]\n"


def scaled(written: object) -> str:
    return SLICED.replace("sources", f"input_scale: {written}, sources")


BROKEN = {
    "not YAML": (GOOD + "x: [1,", "recipe.yaml, line 4: the text: it is not YAML"),
    "a stray tab": (HEAD + "models:\n\t- model: a", "line 4: the text: it is not YAML: found char"),
    "a key twice": (GOOD + "merge_method: linear", "line 4: .*key 'merge_method' stands twice"),
    "empty": ("", "recipe.yaml: nothing: a mapping is needed"),
    "a list": ("- a\n- b", "a list: a mapping is needed"),
    "a number as key": (GOOD + "3: x", "key 3: keys are names"),
    "an odd date": (GOOD + "dtype: 2024-13-45", "it is not YAML: month must be in 1..12"),
    "an unknown key": (GOOD + "paramters: {}", "key 'paramters'.*did you mean 'parameters'"),
    "no method": ("models: [{model: a}]", "no merge_method: a recipe names its merge method"),
    "an unknown method": (GOOD.replace("ties", "dare-ties"), "did you mean 'dare_ties'"),
    "a method of mergekit's that is not ours": (
        GOOD.replace("ties", "ramplus_tl"),
        "merge method 'ramplus_tl': it is not a known",
    ),
    "models and slices": (SLICED + "models: [{model: a}]", "both models and slices"),
    "neither": (HEAD, "neither models nor slices"),
    "no models": (HEAD + "models: []", r"models: models = \[\]: it is a list with at least one"),
    "models by name": (HEAD + "models: [a]", r"models\[0\]: a: it is not a mapping"),
    "no model": (
        HEAD + "models: [{parameters: {weight: 1}}]",
        r"models\[0\]: no model: a model is",
    ),
    "a model that is a number": (HEAD + "models: [{model: 7}]", "model = 7: a model is a path"),
    "two LoRAs": (
        GOOD.replace("model: a", "model: o/a+o/b+c"),
        r"one '\+' stands between a model and its LoRA adapter; .*model: {model: {path: o/",
    ),
    "a LoRA without its model": (GOOD.replace("model: a", "model: +b"), r"one '\+' stands between"),
    "no path": (GOOD.replace("model: a", "model: {model: {revision: v1}}"), "no model: a model is"),
    "an odd key of a path": (GOOD.replace("model: a", "model: {model: {pth: a}}"), "mean 'path'"),
    "a LoRA that is a number": (
        GOOD.replace("model: a", "model: {model: a, lora: 7}"),
        "model = 7: a model is a path",
    ),
    "a range in models": (GOOD.replace("model: a", "model: a, layer_range: [0, 2]"), "layer_range"),
    "a slice without sources": (HEAD + "slices: [{}]", r"slices\[0\].sources: sources = None"),
    "no layer_range": (HEAD + "slices: [{sources: [{model: a}]}]", "no layer_range: it is two"),
    "half a range": (SLICED.replace("[0, 2]", "[2]"), r"layer_range = \[2\]: it is two integers"),
    "a broken range": (SLICED.replace("[0, 2]", "[0, 1.5]"), "it is two integers"),
    "a base per slice": (SLICED.replace("sources", "base_model: c, sources"), "a base per slice"),
    "residual_weight": (SLICED.replace("sources", "residual_weight: 1, sources"), "not supported"),
    "modules": (HEAD + "modules: {}", "key 'modules': merging modules apart is not supported"),
    "chat_template": (GOOD + "chat_template: auto", "choosing a chat template is not supported"),
    "a source called union": (
        GOOD.replace("model: a", "model: union") + "tokenizer_source: union",
        "a source called 'union': as a tokenizer the word means the tokens of all sources",
    ),
    "padding": (GOOD + "tokenizer: {pad_to_multiple_of: 8}", "padding the vocabulary is not"),
    "tokens": (GOOD + "tokenizer: {source: base, tokens: {}}", "sources for single tokens"),
    "two tokenizers": (GOOD + "tokenizer_source: a\ntokenizer: {source: a}", "at most one of them"),
    "a stranger's tokenizer": (GOOD + "tokenizer_source: c", "comes from one of the sources"),
    "an unknown dtype": (GOOD + "dtype: float64", "dtype 'float64': it is not a storage type"),
    "a seed in words": (GOOD + "seed: soon", "seed = soon: it is a non-negative integer"),
    "unknown parameter": (GOOD + "parameters: {densty: 1}", "did you mean 'density'"),
    "no value": (GOOD + "parameters: {density: }", "density = nothing: it is a number in"),
    "an empty list": (GOOD + "parameters: {density: []}", r"density = \[\]: a parameter has"),
    "a word": (GOOD + "parameters: {density: high}", r"density = high: it is a number in \[0, 1\]"),
    "a switch as number": (GOOD + "parameters: {density: yes}", "density = True: it is a number"),
    "a number as switch": (GOOD + "parameters: {normalize: 2}", "normalize = 2: it is one of"),
    "out of range": (GOOD + "parameters: {density: 1.1}", r"density = 1.1: it is a number in"),
    "a mixture": (GOOD + "parameters: {density: [1, {value: 1}]}", "not both"),
    "an odd condition": (GOOD + "parameters: {density: {filtr: a, value: 1}}", "mean 'filter'"),
    "a condition without value": (GOOD + "parameters: {density: {filter: a}}", "density = nothing"),
    "a filter that is a number": (GOOD + "parameters: {density: [{filter: 1, value: 1}]}", "text"),
    "an input_scale of 0": (scaled(0), "input_scale = 0.0: its magnitude lies in"),
    "a tiny input_scale": (scaled(-0.009), r"slices\[0\]: input_scale = -0.009: its magn"),
    "a great input_scale": (scaled(4.01), r"lies in \[0.01, 4\]"),
    "no number as input_scale": (scaled(".nan"), "input_scale = nan: its magnitude"),
    "an infinite input_scale": (scaled("-.inf"), "input_scale = -inf: its magnitude"),
    "an input_scale in words": (scaled("half"), "input_scale = half: its magnitude"),
    "an input_scale as gradient": (scaled("[1, 2]"), r"input_scale = \[1, 2\]: its"),
    "an input_scale as switch": (scaled("yes"), "input_scale = True: its magnitude"),
    "an input_scale of a source": (
        SLICED.replace("model: a", "model: a, input_scale: 2"),
        r"sources\[0\]: key 'input_scale': it is unknown here",
    ),
    "an input_scale of it all": (SLICED + "input_scale: 2", "key 'input_scale': it is unknown"),
    "of the tensor, under a source": (
        GOOD.replace("weight", "lambda"),
        "parameter 'lambda' of one",
    ),
}


@pytest.mark.parametrize(("text", "message"), BROKEN.values(), ids=list(BROKEN))
def test_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        parse_recipe(text, "recipe.yaml")
    assert str(caught.value).startswith(("recipe.yaml, ", "recipe.yaml: "))


def test_the_good_texts_are_good() -> None:
    """Else the refusals above might have other reasons."""
    assert parse_recipe(GOOD, "here").slices[0].inputs[0].source == "a"
    assert parse_recipe(SLICED, "here").slices[0].inputs[0].layers == (0, 2)


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"it cannot be read \(No such file"):
        load_recipe(tmp_path / "none.yaml")
    (tmp_path / "odd.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="it is not UTF-8 text"):
        load_recipe(tmp_path / "odd.yaml")


@pytest.mark.parametrize(
    "written",
    ["0.001", "1e-3", "'0.001'", "[1e-3]", "{value: 1e-3}", "[{filter: '*', value: 1e-3}]"],
)
def test_spellings_of_one_number(written: str) -> None:
    plain = parse_recipe(GOOD + "parameters: {density: 0.001}", "here")
    assert parse_recipe(GOOD + f"parameters: {{density: {written}}}", "here").hash == plain.hash


@pytest.mark.parametrize("written", ["true", "1", "1.0", "on", "'True'"])
def test_spellings_of_a_switch(written: str) -> None:
    plain = parse_recipe(GOOD + "parameters: {normalize: true}", "here")
    assert parse_recipe(GOOD + f"parameters: {{normalize: {written}}}", "here") == plain


def test_yaml_anchors_and_merges_work() -> None:
    text = (
        HEAD
        + "models: [{model: a, parameters: &p {weight: 1}}, {model: c, parameters: {<<: *p, density: 0.5}}]"
    )
    second = parse_recipe(text, "here").slices[0].inputs[1]
    assert [name for name, _ in second.parameters] == ["density", "weight"]


def linear_of(source: str, base: str) -> Recipe:
    weight = parameters({"weight": Setting.constant(1.0)})
    inputs = (Input("first", None, weight), Input(source, None, weight))
    return Recipe("linear", (Slice(inputs),), base=base, tokenizer=source)


PLUS = ["/tmp/e++/model", "/models/maths+code", "./a+b", "~/a+b", "maths+code", "/a@b/model", "+"]


@pytest.mark.parametrize("source", PLUS)
def test_names_with_plus_and_at_are_written_in_the_long_form(source: str) -> None:
    """A search over models below /tmp/e++ failed when its winner was written, after the night."""
    recipe = linear_of(source, base=source)
    assert parse_recipe(dump_recipe(linear_of(source, base="first")), "dump").tokenizer == source
    text = dump_recipe(recipe)
    assert parse_recipe(text, "dump") == recipe
    long = {"model": {"path": source}}
    data = yaml.safe_load(text)
    assert data["base_model"] == data["models"][1]["model"] == long
    assert data["models"][0]["model"] == "first"


@pytest.mark.parametrize(
    "path", ["/tmp/e++/model", "/models/maths+code", "./a+b", "../a+b", "~/a+b"]
)
def test_local_paths_with_plus_have_no_lora(path: str) -> None:
    recipe = parse_recipe(GOOD.replace("model: a", f"model: {path}"), "here")
    assert recipe.slices[0].inputs[0].source == path


@pytest.mark.parametrize(
    "written",
    ["a@v1", "{model: a@v1}", "{model: {path: a, revision: v1}}", "{model: a@v1, lora: null}"],
)
def test_spellings_of_one_model(written: str) -> None:
    recipe = parse_recipe(GOOD.replace("model: a", f"model: {written}"), "here")
    assert recipe.slices[0].inputs[0].source == "a@v1"


@pytest.mark.parametrize(
    "written",
    [
        "o/m+o/l",
        "{model: o/m, lora: o/l}",
        "{model: {path: o/m}, lora: {path: o/l}}",
        "o/m + o/l",
    ],
)
def test_spellings_of_a_model_with_an_adapter(written: str) -> None:
    recipe = parse_recipe(GOOD.replace("model: a", f"model: {written}"), "here")
    assert recipe.slices[0].inputs[0].source == "o/m + o/l"
    assert parse_recipe(dump_recipe(recipe), "dump") == recipe
    assert yaml.safe_load(dump_recipe(recipe))["models"][0]["model"] == {
        "model": "o/m",
        "lora": "o/l",
    }


@pytest.mark.parametrize("model", ["/a+b@c/m", "o/m@v1", "./m"])
@pytest.mark.parametrize("lora", ["/l+l", "/l@2", "o/l@v2"])
def test_models_with_adapters_are_written_so_that_they_are_read_back(model: str, lora: str) -> None:
    name = f"{model} + {lora}"
    assert split_lora(name) == (model, lora)
    recipe = linear_of(name, base=name)
    assert parse_recipe(dump_recipe(recipe), "dump") == recipe


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("tokenizer_source: union", "union"),
        ("tokenizer: {}", "union"),
        ("tokenizer: {source: union}", "union"),
        ("tokenizer_source: base", "b"),
        ("tokenizer: {source: base}", "b"),
        ("tokenizer_source: a", "a"),
        ("", None),
    ],
)
def test_spellings_of_a_tokenizer(written: str, meant: str | None) -> None:
    recipe = parse_recipe(GOOD + written, "here")
    assert recipe.tokenizer == meant
    assert parse_recipe(dump_recipe(recipe), "dump") == recipe


def test_the_tokenizer_of_a_base_called_base() -> None:
    recipe = linear_of("base", base="base")
    assert recipe.tokenizer == recipe.sources[0] == "base"
    assert parse_recipe(dump_recipe(recipe), "dump") == recipe


def test_names_that_mean_something_else_are_not_written() -> None:
    with pytest.raises(InputError, match="means something else in the dialect"):
        dump_recipe(linear_of("base", base="first"))


def test_mappings_of_other_files_are_read_by_the_same_rules() -> None:
    assert read_mapping("a: {b: [1]}", "run.yaml") == {"a": {"b": [1]}}
    for text, message in {
        "a: [1,": r"^run\.yaml, line 1: the text: it is not YAML",
        "a: 1\nb: {c: 1, c: 2}": r"^run\.yaml, line 2: .*the key 'c' stands twice",
        "- a": r"^run\.yaml: a list: a mapping is needed here",
        "1: a": r"^run\.yaml: key 1: keys are names",
    }.items():
        with pytest.raises(InputError, match=message):
            read_mapping(text, "run.yaml")


@pytest.mark.parametrize("written", ["-0.7", "-7e-1", "'-0.7'"])
def test_an_input_scale_is_read_and_written_at_its_slice(written: str) -> None:
    recipe = parse_recipe(scaled(written), "here")
    assert recipe.slices[0].input_scale == -0.7
    text = dump_recipe(recipe)
    assert "mergekit passes over 'input_scale'" in text.splitlines()[0]
    assert yaml.safe_load(text)["slices"][0]["input_scale"] == -0.7
    assert parse_recipe(text, "dump") == recipe
    assert recipe.hash != parse_recipe(SLICED, "here").hash


@pytest.mark.parametrize("written", ["1", "1.0", "", "null"])
def test_an_input_scale_of_one_says_nothing(written: str) -> None:
    recipe = parse_recipe(scaled(written), "here")
    assert recipe.hash == parse_recipe(SLICED, "here").hash
    assert dump_recipe(recipe) == dump_recipe(parse_recipe(SLICED, "here"))


def test_an_input_scale_needs_layers() -> None:
    """A recipe of whole models has no slice to write it at."""
    with pytest.raises(
        InputError, match=r"models: no layer_range: .*and so does one with an input_scale"
    ):
        Recipe("passthrough", (Slice((Input("a"),), (), 0.5),))


def test_a_stack_is_plain_mergekit_unless_it_is_scaled() -> None:
    path = [Hop("a", 0), Hop("a", 1), Hop("b", 1), Hop("b", 1), Hop("a", 3)]
    plain = Pool(("a", "b"), 4, {}).stack(path)
    text = dump_recipe(plain)
    assert not text.startswith("#")
    assert yaml.safe_load(text)["merge_method"] == "passthrough"
    assert parse_recipe(text, "dump").hash == plain.hash
    path[3] = Hop("b", 1, -1.5)
    scaled_stack = Pool(("a", "b"), 4, {}).stack(path)
    again = parse_recipe(dump_recipe(scaled_stack), "dump")
    assert again == scaled_stack
    assert [part.input_scale for part in again.slices] == [1, 1, -1.5, 1]

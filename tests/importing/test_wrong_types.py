"""Whatever stands in the place of a value: an error in one line, or a run file that loads."""

import copy
from contextlib import suppress

import pytest
import yaml

from evomerge.importing.files import import_config
from evomerge.run_file import parse_run_file
from search_spaces.errors import InputError
from tests.importing.test_import import ALL, evolve, written

WRONG = {
    "list": ["x"],
    "empty list": [],
    "nested list": [["x"], {"y": 1}],
    "dict": {"x": 1},
    "numbered dict": {3: ["x"], None: 2},
    "string": "high",
    "empty string": "",
    "number": 3,
    "negative": -2,
    "huge": 10**400,
    "real": 0.5,
    "not a number": float("nan"),
    "infinite": float("inf"),
    "true": True,
    "null": None,
}


def places(value, path=()):
    """The path of every key and element, whole parts before what they hold."""
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    for key, held in inner:
        yield (*path, key)
        if isinstance(held, (dict, list)):
            yield from places(held, (*path, key))


def replaced(content, path, value):
    made = copy.deepcopy(content)
    holder = made
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = value
    return made


@pytest.mark.parametrize("file", ALL, ids=lambda file: file.stem)
def test_every_value_of_every_example_replaced(file, tmp_path):
    content = yaml.safe_load(file.read_text())
    refused, taken = list[InputError](), 0
    for path in places(content):
        for what, wrong in WRONG.items():
            given = written(tmp_path, replaced(content, path, wrong), file.name)
            try:
                text, _ = import_config(given)
            except InputError as error:
                refused.append(error)
                continue
            except Exception as error:
                pytest.fail(f"{path} = {what}: {type(error).__name__}: {error}")
            parse_run_file(yaml.safe_load(text), file.name)
            taken += 1
    assert len(refused) > 20
    assert all(all((e.passed, e.rule, e.where, e.remedy)) for e in refused)
    assert taken > 10  # keys without a counterpart take anything


@pytest.mark.parametrize("file", ALL, ids=lambda file: file.stem)
def test_every_key_of_every_example_left_out(file, tmp_path):
    content = yaml.safe_load(file.read_text())
    for path in list(places(content)):
        made = copy.deepcopy(content)
        holder = made
        for key in path[:-1]:
            holder = holder[key]
        del holder[path[-1]]
        with suppress(InputError):
            import_config(written(tmp_path, made, file.name))


GENETIC = {"pop_size": 9, "n_iter": 2, "models": ["a"], "base_model": "b", "tasks": ["t"]}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (evolve() | {"tasks": [{"name": "one", "weight": "high"}]}, "tasks[0].weight = 'high'"),
        (evolve() | {"tasks": [{"name": ["one"]}]}, "tasks[0].name = ['one']"),
        (evolve() | {"tasks": [{"name": "one", "metric": 3}]}, "tasks[0].metric = 3"),
        (evolve(merge_method=["ties"]), "genome.merge_method = ['ties']"),
        (evolve(filters="self_attn"), "genome.filters = 'self_attn'"),
        (evolve(filters=[["mlp"]]), "genome.filters = ['mlp']"),
        (evolve(normalize="false"), "genome.normalize = 'false'"),
        (evolve(allow_negative_weights="no way"), "genome.allow_negative_weights = 'no way'"),
        (evolve(smooth=[1]), "genome.smooth = [1]"),
        (evolve(tokenizer_source={"a": 1}), "genome.tokenizer_source = {'a': 1}"),
        (evolve(models=[{"model": "a/a", "lora": ["x"]}, "b/b"]), "lora"),
        (evolve() | {"apply_chat_template": "false"}, "apply_chat_template = 'false'"),
        (evolve() | {"shuffle": "off"}, "shuffle = 'off'"),
        (GENETIC | {"dtype": ["x"]}, "dtype = ['x']"),
        (GENETIC | {"mode": {"mean": 1}}, "mode = {'mean': 1}"),
        (GENETIC | {"tasks": {"search": ["gsm8k"]}}, "tasks.search = ['gsm8k']"),
        (GENETIC | {"tasks": {"search": {"en": "a"}, "test": ["b"]}}, "tasks.test = ['b']"),
        (GENETIC | {"tasks": {"search": {"en": ["a"]}}}, "tasks.search = ['a']"),
        (GENETIC | {"tasks": [3]}, "tasks = 3"),
        (GENETIC | {"tasks": None, "datasets": ["x"]}, "datasets = ['x']"),
        (GENETIC | {"tasks": {"search": {"en": "a"}}, "langs": "en"}, "langs = 'en'"),
        (GENETIC | {"metric": ["acc"]}, "metric = ['acc']"),
    ],
)
def test_the_key_and_its_value_are_named(content, said, tmp_path):
    with pytest.raises(InputError) as caught:
        import_config(written(tmp_path, content))
    assert said in str(caught.value)
    assert caught.value.where == "given.yml"


def test_a_key_that_is_a_number_is_named_as_left_out(tmp_path):
    _, notes = import_config(written(tmp_path, evolve(**{"filters": ["mlp"]}) | {}))
    assert not any("left out: genome.3" in note for note in notes)
    content = evolve()
    content["genome"][3] = "x"
    _, notes = import_config(written(tmp_path, content))
    assert any(note.startswith("left out: genome.3: unknown") for note in notes)


def test_empty_values_are_their_defaults(tmp_path):
    """As PyYAML reads `key:` with nothing behind it."""
    empty = dict.fromkeys(("normalize", "allow_negative_weights", "smooth", "filters"))
    content = evolve(**empty) | dict.fromkeys(("apply_chat_template", "shuffle", "random_init"))
    content["tasks"] = [{"name": "one", "weight": None, "metric": None}]
    made = yaml.safe_load(import_config(written(tmp_path, content))[0])
    plain = yaml.safe_load(import_config(written(tmp_path, evolve()))[0])
    assert made == plain

"""The recipe: what is refused, what counts as the same, its hash."""

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given

from search_spaces.errors import InputError
from search_spaces.recipe import Clause, Input, Recipe, Setting, Slice, parameters
from tests.search_spaces.strategies import recipes


def weighted(source: str, weight: float, layers: tuple[int, int] | None = None) -> Input:
    return Input(source, layers, parameters({"weight": Setting.constant(weight)}))


def whole(*inputs: Input) -> tuple[Slice, ...]:
    return (Slice(inputs),)


TIES = Recipe("ties", whole(weighted("a", 0.5), weighted("b", 1.0)), base="base")
WEIGHT = parameters({"weight": Setting.constant(1.0)})

BROKEN: dict[str, tuple[Callable[[], Recipe], str]] = {
    "unknown method": (
        lambda: replace(TIES, method="dare_tie"),
        "merge_method: merge method 'dare_tie': it is not a known .*; did you mean 'dare_ties'",
    ),
    "no slices": (lambda: replace(TIES, slices=()), "no models: a recipe needs at least one"),
    "no base": (lambda: replace(TIES, base=None), "no base_model: method 'ties' needs the base"),
    "base alone": (
        lambda: replace(TIES, slices=whole(weighted("base", 1.0))),
        r"models: 0 source\(s\): method 'ties' takes 1 or more besides the base",
    ),
    "three ends of slerp": (
        lambda: Recipe("slerp", whole(Input("a"), Input("b")), base="c"),
        r"2 source\(s\): method 'slerp' takes 1 besides the base",
    ),
    "base not among the sources of linear": (
        lambda: replace(TIES, method="linear"),
        "base_model 'base': method 'linear' treats the base as any source",
    ),
    "a source twice": (
        lambda: replace(TIES, slices=whole(weighted("a", 1), weighted("a", 2))),
        "source 'a', listed 2 times: a source has a name and stands once",
    ),
    "a source without a name": (
        lambda: replace(TIES, slices=whole(weighted("", 1))),
        "source '': a source has a name",
    ),
    "an empty range": (
        lambda: replace(TIES, slices=whole(weighted("a", 1, (3, 3)))),
        r"slices\[0\], source a: layer_range \[3, 3\]: .* holds at least one layer",
    ),
    "a negative range": (
        lambda: replace(TIES, slices=whole(weighted("a", 1, (-1, 3)))),
        r"layer_range \[-1, 3\]: a range begins at 0 or later",
    ),
    "ranges of different lengths": (
        lambda: replace(TIES, slices=whole(weighted("a", 1, (0, 3)), weighted("b", 1, (0, 4)))),
        r"layer_range of \[0, 3\], \[0, 4\]: the inputs of a slice take the same number",
    ),
    "all layers and some": (
        lambda: replace(TIES, slices=whole(weighted("a", 1), weighted("b", 1, (0, 4)))),
        r"layer_range of all, \[0, 4\]",
    ),
    "slices without ranges": (
        lambda: replace(TIES, slices=TIES.slices * 2),
        r"slices\[0\]: no layer_range: where there are several slices, each says its layers",
    ),
    "a parameter of another rule": (
        lambda: replace(TIES, parameters=parameters({"t": Setting.constant(0.5)})),
        "parameters: parameter 't': method 'ties' has no such parameter; use one of",
    ),
    "a parameter of the tensor under a source": (
        lambda: replace(
            TIES, slices=whole(Input("a", None, parameters({"lambda": Setting.constant(1.0)})))
        ),
        "source a: parameter 'lambda' of one source: it belongs to the merged tensor",
    ),
    "density above 1": (
        lambda: replace(TIES, parameters=parameters({"density": Setting.constant(1.5)})),
        r"density = 1.5: it is a number in \[0, 1\]",
    ),
    "a weight that is no number": (
        lambda: replace(TIES, parameters=parameters({"weight": Setting.constant("much")})),
        "weight = much: it is a finite number",
    ),
    "a weight that is a switch": (
        lambda: replace(TIES, parameters=parameters({"weight": Setting.constant(True)})),
        "weight = True: it is a finite number",
    ),
    "an infinite weight in a gradient": (
        lambda: replace(
            TIES, parameters=parameters({"weight": Setting((Clause((1.0, float("inf"))),))})
        ),
        "weight = inf: it is a finite number",
    ),
    "not a number": (
        lambda: replace(TIES, parameters=parameters({"weight": Setting.constant(float("nan"))})),
        "weight = nan: it is a finite number",
    ),
    "a switch that is a number": (
        lambda: replace(TIES, parameters=parameters({"normalize": Setting.constant(1.0)})),
        "normalize = 1.0: it is one of False, True",
    ),
    "an unknown option": (
        lambda: replace(TIES, parameters=parameters({"rescale_norm": Setting.constant("l2")})),
        "rescale_norm = l2: it is one of l1, inverse",
    ),
    "a setting without clauses": (
        lambda: replace(TIES, parameters=parameters({"weight": Setting(())})),
        r"weight = \[\]: a parameter has a value",
    ),
    "a clause without values": (
        lambda: replace(TIES, parameters=parameters({"weight": Setting((Clause(()),))})),
        r"weight = \[\]: a parameter has a value",
    ),
    "mergekit's word for no filter": (
        lambda: replace(TIES, parameters=parameters({"weight": Setting((Clause((1.0,), "*"),))})),
        r"filter '\*' of 'weight': no filter is written None",
    ),
    "a parameter twice": (
        lambda: replace(TIES, parameters=WEIGHT * 2),
        "parameter 'weight' after 'weight': parameters stand once each, sorted",
    ),
    "an unknown storage type": (
        lambda: replace(TIES, dtype="bfloat"),
        "dtype 'bfloat': it is not a storage type; did you mean 'bfloat16'",
    ),
    "a stranger's tokenizer": (
        lambda: replace(TIES, tokenizer="c"),
        "tokenizer of 'c': a tokenizer comes from one of the sources, or is their union",
    ),
    "a negative seed": (lambda: replace(TIES, seed=-1), "seed = -1: it is a non-negative integer"),
}


@pytest.mark.parametrize(("make", "message"), BROKEN.values(), ids=list(BROKEN))
def test_refused(make: Callable[[], Recipe], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


def test_a_listed_base_changes_nothing() -> None:
    listed = replace(TIES, slices=whole(weighted("a", 0.5), Input("base"), weighted("b", 1.0)))
    assert listed == TIES
    assert listed.hash == TIES.hash
    # mergekit ignores settings under the base, whose delta is zero.
    own = replace(TIES, slices=whole(weighted("base", 9.0), *TIES.slices[0].inputs))
    assert own.hash == TIES.hash


def test_a_base_with_other_layers_stays() -> None:
    part = Slice((weighted("a", 0.5, (0, 4)), Input("base", (2, 6))))
    recipe = replace(TIES, slices=(part,))
    assert [i.source for i in recipe.slices[0].inputs] == ["base", "a"]
    assert recipe.slices[0].inputs[0].layers == (2, 6)


def test_slerp_has_its_ends_in_one_order() -> None:
    t = parameters({"t": Setting.constant(0.3)})
    forms = [
        Recipe("slerp", whole(*ends), base="base", parameters=t)
        for ends in ([Input("a")], [Input("a"), Input("base")], [Input("base"), Input("a")])
    ]
    assert len({form.hash for form in forms}) == 1
    assert [i.source for i in forms[0].slices[0].inputs] == ["base", "a"]


def test_settings_of_the_only_slice_are_the_recipes() -> None:
    half, one = Clause((0.5,), "attn"), Clause((1.0,))
    nested = Recipe(
        "ties",
        (Slice((Input("a"),), parameters({"weight": Setting((half,))})),),
        base="base",
        parameters=parameters({"weight": Setting((one,))}),
    )
    flat = Recipe(
        "ties",
        whole(Input("a")),
        base="base",
        parameters=parameters({"weight": Setting((half, one))}),
    )
    assert nested == flat


def test_a_tokenizer_is_part_of_what_a_recipe_says() -> None:
    """None asks for sources of one vocabulary, the base's name for rows matched with its tokens."""
    chosen = [replace(TIES, tokenizer=name) for name in (None, "base", "a", "union")]
    assert len({recipe.hash for recipe in chosen}) == 4
    assert chosen[3].renamed({"base": "/m/0", "a": "/m/1"}).tokenizer == "union"


def test_equal_numbers_hash_alike() -> None:
    def recipe(value: float) -> Recipe:
        return Recipe("ties", whole(weighted("a", value)), base="base")

    assert recipe(1).hash == recipe(1.0).hash
    assert recipe(-0.0).hash == recipe(0.0).hash
    assert recipe(1).hash != recipe(1 + 1e-15).hash


def test_everything_but_the_spelling_enters_the_hash() -> None:
    others = [
        replace(TIES, method="dare_ties"),
        replace(TIES, base="other"),
        replace(TIES, seed=1),
        replace(TIES, dtype="float16"),
        replace(TIES, parameters=WEIGHT),
        replace(TIES, slices=whole(*reversed(TIES.slices[0].inputs))),
        replace(TIES, slices=whole(weighted("a", 0.5, (0, 2)), weighted("b", 1.0, (0, 2)))),
    ]
    assert len({TIES.hash, *(other.hash for other in others)}) == len(others) + 1


GOLDEN = "90cf74c6521d99e09b2945ac18394faf1484a4cca6c844536d47ab17576f22d3"
"""If this changes, every cached evaluation of every run is lost: raise `_VERSION` knowingly."""


def test_the_hash_is_the_committed_one() -> None:
    assert TIES.hash == GOLDEN


@pytest.mark.parametrize("seed", ["0", "1"])
def test_the_hash_is_the_same_in_another_process(seed: str) -> None:
    code = "from tests.search_spaces.test_recipe import TIES; print(TIES.hash)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONHASHSEED": seed},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == GOLDEN


@given(recipes())
def test_a_recipe_survives_pickling(recipe: Recipe) -> None:
    again = pickle.loads(pickle.dumps(recipe))
    assert again == recipe
    assert again.hash == recipe.hash


@given(recipes())
def test_making_a_recipe_again_changes_nothing(recipe: Recipe) -> None:
    assert replace(recipe, seed=recipe.seed) == recipe


def test_renamed() -> None:
    paths = {"base": "/m/0", "a": "/m/1"}
    renamed = replace(TIES, tokenizer="a").renamed(paths)
    assert renamed.sources == ("/m/0", "/m/1", "b")
    assert renamed.tokenizer == "/m/1"
    back = {path: name for name, path in paths.items()}
    assert renamed.renamed(back) == replace(TIES, tokenizer="a")

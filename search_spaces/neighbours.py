"""The neighbours of a recipe: the same merge, a little less and a little more of it."""

from collections.abc import Iterable
from dataclasses import replace

from search_spaces.errors import InputError
from search_spaces.reach import Reach, reaches_of
from search_spaces.recipe import Input, Recipe, Slice
from search_spaces.rules import PARAMETERS, RULES
from search_spaces.settings import Clause, Parameters, Scalar, Setting, parameters


def neighbours(recipe: Recipe, step: float) -> tuple[Recipe, Recipe]:
    """The recipe merged by 1 - `step` and by 1 + `step` of what it says.

    What is multiplied follows from the rule in force, in every slice, filter and gradient:

    - `lambda`, where the rule has one: the merged delta becomes shorter or longer, whatever its
      weights and their normalisation are. Where nothing says it, it is 1 in the recipe.
    - else `t` (`slerp`, `nearswap`), at most up to 1.
    - else the weights of all sources but the first (`linear`, `nuslerp`, `multislerp`, and rules
      with `reference: none`). The first is the base if it is one of the sources. If all were
      multiplied, normalised weights would stay as they are.
    - else `scale` (`passthrough`), where the recipe says it.

    Zeros stay zero: a recipe that takes nothing has itself for its neighbours, and one that takes
    little has near ones.

    Args:
        recipe: the recipe.
        step: in (0, 1), a ratio.

    Returns:
        The lesser and the greater neighbour.

    Raises:
        InputError: nothing can be scaled (`karcher`, `model_stock`, `arcee_fusion`, layers that are
            only copied), or `step` is out of its range.
    """
    if not 0 < step < 1:
        raise InputError(f"step {step}", "it must lie between 0 and 1", "neighbours", "use 0.05")
    wholes = [part.parameters for part in recipe.slices]
    reaches = reaches_of(recipe.method, recipe.based, wholes, recipe.parameters)
    scaled = {_scaled_by(reach) for part in reaches for reach in part.values()}
    names = frozenset(name for name in scaled if name and _is_said(recipe, name))
    if not names:
        raise InputError(
            f"method '{recipe.method}'",
            "it has no lambda, t or weight that says how much is merged, so the recipe has no "
            "neighbours",
            "recipe",
            "use another rule, or no objective on consistency",
        )
    return _times(recipe, names, 1 - step), _times(recipe, names, 1 + step)


def _scaled_by(reach: Reach) -> str | None:
    """The parameter that says how much is merged, where `reach` is in force."""
    kept = ("lambda",) if "none" not in reach.choices["reference"] else ()
    return next((name for name in (*kept, "t", "weight", "scale") if name in reach.reads), None)


def _is_said(recipe: Recipe, name: str) -> bool:
    """Whether multiplying parameter `name` changes the recipe."""
    if name == "lambda":
        return True
    if name == "weight":
        return any(_followers(recipe, part) for part in recipe.slices)
    inputs = [i.parameters for part in recipe.slices for i in part.inputs]
    places = [recipe.parameters, *(part.parameters for part in recipe.slices), *inputs]
    return any(said == name for items in places for said, _ in items)


def _followers(recipe: Recipe, part: Slice) -> list[Input]:
    """The inputs of a slice whose weights are multiplied: all but the base and the first source."""
    inputs = [i for i in part.inputs if not (recipe.based and i.source == recipe.base)]
    return sorted(inputs, key=lambda i: recipe.sources.index(i.source))[1:]


def _times(recipe: Recipe, names: frozenset[str], factor: float) -> Recipe:
    """`recipe` with the parameters `names` multiplied by `factor`."""
    shared = names - {"weight"}
    slices: list[Slice] = []
    for part in recipe.slices:
        followers = _followers(recipe, part) if "weight" in names else []
        inputs: list[Input] = []
        for entry in part.inputs:
            own = _multiplied(entry.parameters, shared, factor)
            if entry in followers:
                places = (entry.parameters, part.parameters, recipe.parameters)
                own = _with(own, "weight", _clauses(recipe, "weight", places), factor)
            inputs.append(replace(entry, parameters=own))
        settings = _multiplied(part.parameters, shared, factor)
        slices.append(replace(part, inputs=tuple(inputs), parameters=settings))
    whole = _multiplied(recipe.parameters, shared, factor)
    if "lambda" in names:
        clauses = _clauses(recipe, "lambda", (recipe.parameters,))
        whole = _with(whole, "lambda", clauses, factor)
    return replace(recipe, slices=tuple(slices), parameters=whole)


def _clauses(recipe: Recipe, name: str, places: Iterable[Parameters]) -> list[Clause]:
    """All that `places` say of parameter `name`, and its default where they leave tensors out."""
    found = [c for items in places for said, s in items if said == name for c in s.clauses]
    default = RULES[recipe.method].default(name)
    if default is not None and all(clause.filter is not None for clause in found):
        found.append(Clause((default,)))
    return found


def _with(settings: Parameters, name: str, clauses: Iterable[Clause], factor: float) -> Parameters:
    """`settings` in which parameter `name` has the values of `clauses`, multiplied."""
    return parameters(dict(settings) | {name: _product(name, clauses, factor)})


def _multiplied(settings: Parameters, names: frozenset[str], factor: float) -> Parameters:
    """`settings` with what they say of `names` multiplied."""
    return tuple(
        (name, _product(name, setting.clauses, factor) if name in names else setting)
        for name, setting in settings
    )


def _product(name: str, clauses: Iterable[Clause], factor: float) -> Setting:
    known = PARAMETERS[name]

    def times(value: Scalar) -> float:
        return min(max(float(value) * factor, known.low), known.high)

    return Setting(tuple(replace(c, values=tuple(map(times, c.values))) for c in clauses))

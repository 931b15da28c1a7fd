"""A recipe file by itself: what `evomerge merge` and `evomerge check RECIPE.yaml` do."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from evomerge.merge.compiled import kernels_are_compiled
from search_spaces.errors import InputError, nearest
from search_spaces.recipe import Clause, Recipe
from search_spaces.roles import role

if TYPE_CHECKING:
    from evomerge.merge.sources import Sources

logger = logging.getLogger(__name__)

_IGNORED = ("int8_mask",)
"""Keys of mergekit's that change no number here."""


@dataclass(frozen=True)
class OpenRecipe:
    """A recipe with its sources opened and found to fit.

    Attributes:
        recipe: as the file says it.
        sources: under the names that the recipe calls them.
        lasting: source -> a name that another folder's recipe may use.
    """

    recipe: Recipe
    sources: "Sources"
    lasting: Mapping[str, str]


def is_recipe(file: Path) -> bool:
    """Whether a YAML file is a recipe of mergekit's dialect, not a run file."""
    from search_spaces.yaml_text import read_mapping

    try:
        return "merge_method" in read_mapping(file.read_text(encoding="utf-8"), str(file))
    except (OSError, UnicodeDecodeError, InputError):
        return False  # whoever reads it next says what is wrong with it


def merge_recipe(recipe_file: Path, out: Path, dtype: str | None, device: str) -> None:
    """One recipe file (mergekit's dialect) -> one model folder, with its recipe.yaml.

    Args:
        recipe_file: YAML; relative model paths are relative to its folder, then to the current one.
        out: new or empty folder.
        dtype: storage type instead of the recipe's.
        device: only `cpu` for now.

    Raises:
        InputError: a recipe that cannot be read or made, a source that cannot be used.
    """
    from evomerge.merge.weights import MergedWeights
    from evomerge.merge.writer import write_model
    from search_spaces.dialect import dump_recipe

    if device != "cpu":
        raise InputError(
            f"--device {device}",
            "merging to disk runs on the CPU",
            "merge",
            nearest(device, ["cpu"]),
        )
    opened = open_recipe(recipe_file, dtype)
    with _named(recipe_file):
        MergedWeights(opened.sources).prepare(opened.recipe)
    if not kernels_are_compiled():
        logger.warning("compiling the merge kernels (about 10 s, once)")
    for warning in opened.sources.warnings():
        logger.warning(warning)
    text = dump_recipe(opened.recipe.renamed(opened.lasting))
    write_model(opened.recipe, opened.sources, out, extra_files={"recipe.yaml": text})


def check_recipe(recipe_file: Path) -> list[tuple[str, str]]:
    """What a recipe would make, and what it says that changes nothing; reads every weight that it uses.

    Returns:
        (name, fact) pairs for people.

    Raises:
        InputError: the first thing in it that would not be done, and why.
    """
    from evomerge.merge.weights import MergedWeights

    opened = open_recipe(recipe_file, None)
    recipe, sources = opened.recipe, opened.sources
    weights = MergedWeights(sources)
    with _named(recipe_file):
        weights.prepare(recipe)
    for name in weights.names():
        weights.check_finite(name)
    rules = sorted({plan.rule.name for plan in recipe.plans(weights.names(), sources.layers)})
    layers = {role(name).layer for name in weights.names()} - {None}
    for name in weights.names():
        weights.storage_dtype(name)
    facts = [
        ("method", ", ".join(rules)),
        ("sources", ", ".join(recipe.sources)),
        ("result", f"{len(weights.names())} tensors, {len(layers)} layers, "
         f"{str(weights.dtype).removeprefix('torch.')}"),
        ("tokenizer", recipe.tokenizer or f"that of {recipe.sources[0]}"),
    ]  # fmt: skip
    facts += [("ignored", f"{key}: no number depends on it") for key in _ignored(recipe_file)]
    facts += [
        ("note", f"filter '{chosen}' selects no tensor")
        for chosen in _filters(recipe)
        if not any(Clause((0.0,), chosen).selects(name) for name in weights.names())
    ]
    return facts + [("note", warning) for warning in sources.warnings()]


def _check_stack(recipe: Recipe, sources: "Sources") -> None:
    """Refuse to put layers of sources above each other that cannot run under one configuration."""
    from evomerge.stack_checks import check_one_configuration

    made_of = [{entry.source for entry in part.inputs} for part in recipe.slices]
    if all(names == made_of[0] for names in made_of):
        return  # every layer is merged of all: what differs is told, and the first source's
    first, *others = recipe.sources
    for other in others:
        check_one_configuration(sources, first, other)


def _filters(recipe: Recipe) -> list[str]:
    places = [recipe.parameters]
    for part in recipe.slices:
        places += [part.parameters, *(entry.parameters for entry in part.inputs)]
    clauses = (c for place in places for _, setting in place for c in setting.clauses)
    return sorted({clause.filter for clause in clauses if clause.filter is not None})


@contextmanager
def _named(recipe_file: Path) -> Iterator[None]:
    """Say in errors which recipe they are about."""
    try:
        yield
    except InputError as error:
        where = f"{recipe_file}, {error.where}"
        raise InputError(error.passed, error.rule, where, error.remedy) from None


def _ignored(recipe_file: Path) -> list[str]:
    from search_spaces.yaml_text import read_mapping

    keys: set[str] = set()
    waiting: list[object] = [read_mapping(recipe_file.read_text("utf-8"), str(recipe_file))]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            keys |= {str(key) for key in part}
            waiting += part.values()
        elif isinstance(part, list):
            waiting += part
    return [key for key in _IGNORED if key in keys]


def open_recipe(recipe_file: Path, dtype: str | None) -> OpenRecipe:
    """Read a recipe and open its sources.

    Args:
        recipe_file: see `merge_recipe`.
        dtype: storage type instead of the recipe's.

    Raises:
        InputError: a recipe that cannot be read, a source that cannot be used, sources that do not
            fit each other.
    """
    from evomerge.merge.locations import lasting_name, locate, reference_of
    from evomerge.merge.sources import open_sources
    from search_spaces.dialect import load_recipe

    recipe = load_recipe(recipe_file)
    if dtype:
        recipe = replace(recipe, dtype=dtype)
    folder = recipe_file.resolve().parent
    called = {source: reference_of(source, folder) for source in recipe.sources}
    places = locate(called, folder, recipe.base)
    sources = open_sources(places).with_tokenizer(recipe.tokenizer, recipe.base)
    sources.check_compatible()
    _check_stack(recipe, sources)
    lasting = {source: lasting_name(called[source], place) for source, place in places.items()}
    return OpenRecipe(recipe, sources, lasting)

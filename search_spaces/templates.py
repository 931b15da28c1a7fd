"""The template space: published ways to stack layers, with a few numbers each.

Where the path space has variables for every layer, a template has two or three: how much two
halves overlap (`up_scaling`), how many layers come from the other model (`layer_swap`), how long the
blocks are (`interleave`), which block is left out (`layer_drop`). `search_spaces.template_table`
declares them, with their papers. A few dozen evaluations find the best of them, and its stack is a
good starting point for more.

Variables: `template` (left out if there is one), then of every template the models (`up_scaling.lower`,
left out if there is one model) and its numbers (`up_scaling.m`). Those of templates that are not
chosen are no part of the recipe.

Layers that `layer_swap` averages are `linear` merges of two sources; beside merged models in the pool
there is no averaging. Paths deeper or shallower than `depth` are fitted (`search_spaces.path_slots`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations

from search_spaces.errors import InputError, nearest
from search_spaces.path_slots import Depth, depth_bounds, fitted, named_seeds
from search_spaces.recipe import Input, Recipe, Slice
from search_spaces.settings import Scalar, Setting
from search_spaces.slots import Slots
from search_spaces.space import Conditions, check_genome
from search_spaces.stacking import Hop, Pool
from search_spaces.template_table import TEMPLATES, Start, Step, Template, starts
from search_spaces.variables import Choice, Genome, Integer, Variable

_HALVES = (("weight", Setting.constant(0.5)),)


@dataclass(frozen=True)
class TemplateSpace:
    """Search space over the numbers of published stacks; a `SearchSpace`.

    Attributes:
        sources: the sources' names.
        layers: number of layers of each source.
        templates: names in `TEMPLATES`; None: all that the models suffice for.
        dtype: storage type of the result.
        depth: fewest and most layers of a stack; None: from half a source's to twice as many.
        merged: further models by name: recipes over sources.

    Raises:
        InputError: an unknown template, none, one twice, or one that takes two models where there is
            one; no models, a name twice, a depth that is none.
    """

    sources: Sequence[str]
    layers: int
    templates: Sequence[str] | None = None
    dtype: str | None = None
    depth: Depth | None = None
    merged: Mapping[str, Recipe] = field(default_factory=dict[str, Recipe])

    def __post_init__(self) -> None:
        depth_bounds(self.depth, self.layers)
        Pool(self.sources, self.layers, self.merged)
        self._pool.stack([Hop(model, 0) for model in self._pool.models])
        for name in self._names:
            if name not in TEMPLATES:
                raise InputError(
                    f"template '{name}'", "it is unknown", "templates", nearest(name, TEMPLATES)
                )
            if not TEMPLATES[name].alone and len(self._models) < 2:
                raise InputError(
                    f"template '{name}' with one model",
                    "it takes layers of two",
                    "templates",
                    "add a source, or leave the template out",
                )
        if not self._names or len(set(self._names)) < len(self._names):
            raise InputError(
                f"templates {', '.join(self._names) or '(none)'}",
                "a space has at least one template, and each once",
                "templates",
                f"use some of: {', '.join(TEMPLATES)}",
            )

    @property
    def variables(self) -> tuple[Variable, ...]:
        """`template`, then each template's models and numbers."""
        return self._variables

    @property
    def slots(self) -> Slots | None:
        """None: every variable stands for itself."""
        return None

    @property
    def conditions(self) -> Conditions:
        """A template's models and numbers count where `template` is that one."""
        if len(self._names) == 1:
            return ()
        owners = (variable.name.split(".")[0] for variable in self._variables[1:])
        return (None, *((0, self._names.index(owner)) for owner in owners))

    @property
    def fragile(self) -> bool:
        """True: few numbers suit a model, and the seeds have the published ones."""
        return True

    @property
    def most_layers(self) -> int:
        """The greatest depth."""
        return self._bounds[1]

    def decode(self, genome: Genome) -> Recipe:
        """The recipe `genome` stands for.

        Raises:
            InputError: wrong number of values, or one outside its variable's range.
        """
        check_genome(self, genome)
        values = {v.name: value for v, value in zip(self._variables, genome, strict=True)}
        template = TEMPLATES[str(values.get("template", self._names[0]))]
        lone = self._models[0]
        models = tuple(str(values.get(f"{template.name}.{role}", lone)) for role in template.roles)
        numbers = {
            n.name: int(values.get(f"{template.name}.{n.name}", n.low))
            for n in self._numbers(template)
        }
        steps = fitted(template.build(self.layers, models, numbers), self._bounds)
        return self._pool.stack([self._hop(step) for step in steps])

    def seeds(self) -> dict[str, Genome]:
        """Known good starting points: each model whole, then the templates with sensible numbers.

        Points that decode to an earlier one's recipe are left out.
        """
        return named_seeds(self.decode, self._starts())

    @cached_property
    def _bounds(self) -> Depth:
        return depth_bounds(self.depth, self.layers)

    @cached_property
    def _models(self) -> tuple[str, ...]:
        return (*self.sources, *self.merged)

    @cached_property
    def _names(self) -> tuple[str, ...]:
        if self.templates is not None:
            return tuple(self.templates)
        return tuple(t.name for t in TEMPLATES.values() if t.alone or len(self._models) > 1)

    @cached_property
    def _averages(self) -> Mapping[frozenset[str], str]:
        """The name in the pool of each average of two models."""
        if self.merged or "layer_swap" not in self._names:
            return {}
        return {
            frozenset(pair): f"average of {' and '.join(pair)}"
            for pair in combinations(self.sources, 2)
        }

    @cached_property
    def _pool(self) -> Pool:
        averages = {
            name: Recipe(
                "linear",
                (Slice(tuple(Input(s) for s in self.sources if s in pair)),),
                parameters=_HALVES,
            )
            for pair, name in self._averages.items()
        }
        return Pool(self.sources, self.layers, {**self.merged, **averages}, self.dtype)

    @cached_property
    def _variables(self) -> tuple[Variable, ...]:
        found: list[Variable] = []
        if len(self._names) > 1:
            found.append(Choice("template", self._names))
        for name in self._names:
            template = TEMPLATES[name]
            if len(self._models) > 1:
                found += [Choice(f"{name}.{role}", self._models) for role in template.roles]
            found += [
                Integer(f"{name}.{n.name}", n.low, n.high)
                for n in self._numbers(template)
                if n.low < n.high
            ]
        return tuple(found)

    def _numbers(self, template: Template) -> tuple[Integer, ...]:
        """The numbers of `template`, those fixed at their least that would change nothing."""
        return tuple(
            Integer(n.name, n.low, n.low) if n.name == "transition" and not self._averages else n
            for n in template.numbers(self.layers)
        )

    def _hop(self, step: Step) -> Hop:
        name = step.models[0]
        if len(step.models) > 1:
            name = self._averages[frozenset(step.models)]
        return Hop(name, step.layer)

    def _starts(self) -> Iterator[tuple[str, Genome]]:
        for model in self._models:
            whole = self._whole(model)
            if whole is not None:
                yield model, self._genome(whole)
        for start in starts(self._models, self.layers, self._bounds, self._names):
            yield start.name, self._genome(start)

    def _whole(self, model: str) -> Start | None:
        """`model` whole, as a point of the first template that has it."""
        for template in (TEMPLATES[name] for name in self._names):
            numbers = template.whole(self.layers)
            if numbers is not None:
                others = [m for m in self._models if m != model]
                cast = (model,) if template.alone else (others[0], model)
                return Start(template, cast * (len(template.roles) // len(cast)), numbers)
        return None

    def _genome(self, start: Start) -> Genome:
        """The point of `start`; other templates' variables are at rest."""
        name = start.template.name
        said: dict[str, Scalar] = {"template": name}
        said |= {
            f"{name}.{role}": m for role, m in zip(start.template.roles, start.models, strict=True)
        }
        said |= {f"{name}.{number}": value for number, value in start.numbers.items()}
        return tuple(said.get(v.name, _at_rest(v)) for v in self._variables)


def _at_rest(variable: Variable) -> Scalar:
    return variable.options[0] if isinstance(variable, Choice) else variable.low

"""The parameter space: the numbers of one merge rule over one stack of layers.

Which parameters become variables and over what range is read from the rule's declaration
(`Rule.searched`, `Parameter.search`); a user's range or fixed value overrides it. How many
variables each becomes is the granularity's matter. Variables are named
`parameter[.source][.layers][.component]`, such as `weight.maths.layers_0_3.attn`.

Layer groups become slices of the recipe rather than gradients over one: mergekit 0.1.5 gives the
final norm and the head a gradient's first value, and they belong to the last layers. Knots, and a
variable per layer, are a gradient over all layers but the last, which is a slice of its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from search_spaces.errors import InputError
from search_spaces.granularity import (
    Depth,
    Granularity,
    Stretch,
    components_of,
    depth_of,
)
from search_spaces.layout import Layout, settings_of
from search_spaces.ranges import Given, variations
from search_spaces.recipe import Input, Recipe, Slice
from search_spaces.roles import COMPONENTS
from search_spaces.rules import Rule, rule_named
from search_spaces.settings import Scalar, parameters
from search_spaces.space import check_genome
from search_spaces.variables import Choice, Genome, Variable


@dataclass(frozen=True)
class ParameterSpace:
    """Search space over a merge rule's parameters; a `SearchSpace`.

    Attributes:
        rule: a merge rule's name.
        base: the base's name; needed by rules on deltas and by `slerp`, a source as any other for
            `linear`.
        experts: the other sources' names.
        layers: number of layers of each source.
        components: the components the model has, a subset of `COMPONENTS` (tied models have no
            `lm_head`).
        granularity: which weights share a variable.
        ranges: by parameter: [low, high] to search, a value to fix, or for switches the options to
            search; parameters not named are searched as the rule declares, or have its defaults.
            Switches are one variable for the whole model whatever the granularity.
        seed: of the random masks.
        dtype: storage type of the result.

    Raises:
        InputError: unknown rule or parameter, a range outside the valid one, sources that the rule
            cannot take, a granularity that does not fit the model.
    """

    rule: str
    base: str | None
    experts: Sequence[str]
    layers: int
    components: Sequence[str] = COMPONENTS
    granularity: Granularity = field(default_factory=Granularity)
    ranges: Mapping[str, Given] = field(default_factory=dict[str, Given])
    seed: int = 0
    dtype: str | None = None

    def __post_init__(self) -> None:
        _check_sources(self._rule, self.base, self.experts)
        if self.layers < 1:
            raise InputError(
                f"layers = {self.layers}",
                "a model has layers",
                "layers",
                "count the sources' layers",
            )
        # A recipe checks what it is made of: sources, ranges, dtype, seed.
        self.decode(self._genome(None))

    @property
    def variables(self) -> tuple[Variable, ...]:
        """The variables: per parameter, per source, per component, from the first layer up."""
        return self._layout.variables

    def decode(self, genome: Genome) -> Recipe:
        """The recipe `genome` stands for.

        Raises:
            InputError: wrong number of values, or one outside its variable's range.
        """
        check_genome(self, genome)
        layout = self._layout
        return Recipe(
            method=self.rule,
            slices=tuple(self._slice(genome, stretch) for stretch in self._depth.stretches),
            base=self.base,
            parameters=parameters(layout.fixed | layout.switches(genome)),
            dtype=self.dtype,
            seed=self.seed,
        )

    def seeds(self) -> dict[str, Genome]:
        """Known good starting points: `uniform` (the plain average), and each source alone.

        A value outside a variable's range is moved to its nearest end. Points that coincide with
        an earlier one are left out.
        """
        names: list[str] = [self.base] if self.base is not None else []
        found = {"uniform": self._genome(None)}
        for source in [*names, *self.experts]:
            genome = self._genome(source)
            if genome not in found.values():
                found[source] = genome
        return found

    @cached_property
    def _rule(self) -> Rule:
        return rule_named(self.rule, "rule")

    @cached_property
    def _depth(self) -> Depth:
        return depth_of(self.granularity, self.layers)

    @cached_property
    def _weighted(self) -> tuple[str, ...]:
        """The sources with parameters of their own, in the recipe's order."""
        base = [self.base] if self.base is not None and not self._rule.needs_base else []
        return (*base, *self.experts)

    @cached_property
    def _layout(self) -> Layout:
        groups = components_of(self.granularity, self.components)
        layout = Layout()
        for variation in variations(self._rule, self.ranges):
            layout.add(variation, self._weighted, groups, self._depth)
        return layout

    def _slice(self, genome: Genome, stretch: Stretch) -> Slice:
        whole = len(self._depth.stretches) == 1
        span = None if whole else (stretch.start, stretch.stop)
        rows = self._layout.rows
        inputs = tuple(
            Input(source, span, settings_of(rows.get(source, ()), genome, stretch))
            for source in self._weighted
        )
        return Slice(inputs, settings_of(rows.get(None, ()), genome, stretch))

    def _genome(self, source: str | None) -> Genome:
        """The point that gives `source` alone, or the plain average (None)."""
        owners = self._layout.owners
        return tuple(
            self._target(variable, *owner, source)
            for variable, owner in zip(self.variables, owners, strict=True)
        )

    def _target(
        self, variable: Variable, parameter: str, owner: str | None, source: str | None
    ) -> Scalar:
        default = self._rule.default(parameter)
        if isinstance(variable, Choice):
            chosen = default is not None and variable.has(default)
            return default if chosen and default is not None else variable.options[0]
        if parameter == "weight":
            target = 1.0 / len(self._weighted) if source is None else float(owner == source)
        elif parameter == "t":
            target = 0.5 if source is None else float(source != self.base)
        else:
            target = 1.0 if default is None else float(default)
        return min(max(target, float(variable.low)), float(variable.high))


def _check_sources(rule: Rule, base: str | None, experts: Sequence[str]) -> None:
    names = [*([base] if base is not None else []), *experts]
    if len(set(names)) < len(names) or "uniform" in names or not experts:
        raise InputError(
            f"sources {', '.join(names) or '(none)'}",
            "there is an expert, names are used once, and 'uniform' is the plain average's",
            "experts",
            "rename the experts",
        )
    if rule.needs_base and base is None:
        raise InputError(
            "no base", f"rule '{rule.name}' needs the base of the experts", "base", "name the base"
        )
    most = rule.sources[1]
    if most is not None and len(experts) > most:
        raise InputError(
            f"{len(experts)} experts",
            f"rule '{rule.name}' takes {most} besides the base",
            "experts",
            "leave experts out, or choose another rule",
        )

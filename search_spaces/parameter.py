"""The parameter space: the numbers of merge rules over one stack of layers, and their stages.

Which parameters become variables and over what range is read from the rules' declaration
(`Rule.searched`, `Rule.search`); a user's range or fixed value overrides it. How many variables
each becomes is the granularity's matter. Variables are named
`parameter[.source][.layers][.component]`, such as `weight.maths.layers_0_3.attn`. With several
rules, `method` is a variable, and a number counts where a rule is chosen whose own search varies
it (or where the user gave it a range): such a space is the union of the rules' spaces.

Layer groups become slices of the recipe rather than gradients over one: mergekit 0.1.5 gives the
final norm and the head a gradient's first value, and they belong to the last layers. Knots, and a
variable per layer, are a gradient over all layers but the last, which is a slice of its own.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from search_spaces.composition import compose
from search_spaces.errors import InputError
from search_spaces.granularity import (
    Depth,
    Granularity,
    Stretch,
    components_of,
    depth_of,
    is_outer,
)
from search_spaces.layout import Layout, Rows, settings_of
from search_spaces.places import Place, places_of
from search_spaces.ranges import Given, choices_in, variants, variations
from search_spaces.recipe import Input, Recipe, Slice, folded
from search_spaces.roles import COMPONENTS
from search_spaces.rules import METHOD, OVERRIDES, RULES, Rule, rule_named
from search_spaces.settings import Parameters, Scalar, parameters
from search_spaces.slots import Slots
from search_spaces.space import Conditions, check_genome
from search_spaces.space_rules import SIMPLEST, check_rules, gives_alone, with_epsilon_in_reach
from search_spaces.stages import STAGES
from search_spaces.variables import Choice, Genome, Variable


@dataclass(frozen=True)
class ParameterSpace:
    """Search space over a merge rule's parameters; a `SearchSpace`.

    Attributes:
        rule: a merge rule's name, or several: which one is then searched too.
        base: the base's name; needed by rules on deltas and by `slerp`, a source as any other for
            `linear`.
        experts: the other sources' names.
        layers: number of layers of each source.
        components: the components the model has, a subset of `COMPONENTS` (tied models have no
            `lm_head`).
        granularity: which weights share a variable.
        ranges: by parameter: [low, high] to search, a value to fix, or for switches and stages
            (`sparsify: [magnitude, random]`) the options to search; parameters not named are
            searched as the rules declare, or have their defaults. The numbers of a stage's choices
            that are named here are searched too. Switches are one variable for the whole model
            whatever the granularity; the method and stages are too, unless it says `rules`.
        seed: of the random masks.
        dtype: storage type of the result.

    Raises:
        InputError: unknown rule or parameter, a range outside the valid one, sources that a rule
            cannot take, rules that do not agree on what the base is, stages that cannot work
            together, a granularity that does not fit the model.
    """

    rule: str | Sequence[str]
    base: str | None
    experts: Sequence[str]
    layers: int
    components: Sequence[str] = COMPONENTS
    granularity: Granularity = field(default_factory=Granularity)
    ranges: Mapping[str, Given] = field(default_factory=dict[str, Given])
    seed: int = 0
    dtype: str | None = None

    def __post_init__(self) -> None:
        if self.layers < 1:
            raise InputError(
                f"layers = {self.layers}",
                "a model has layers",
                "layers",
                "count the sources' layers",
            )
        check_rules(self._rules, self.base, self.experts, self.ranges)
        # A recipe checks what it is made of: sources, ranges, dtype, seed.
        for genome in self._corners():
            self.decode(genome)

    @property
    def variables(self) -> tuple[Variable, ...]:
        """The variables: what is chosen first, then per parameter, per source, per component, from
        the first layer up."""
        return self._layout.variables

    @property
    def slots(self) -> Slots | None:
        """None: every variable stands for itself."""
        return None

    @property
    def conditions(self) -> Conditions:
        """None: every variable always counts."""
        return ()

    @property
    def fragile(self) -> bool:
        """False: most mixtures of models work."""
        return False

    @property
    def most_layers(self) -> int:
        """The sources' layers."""
        return self.layers

    @property
    def layered(self) -> tuple[bool, ...]:
        """Per variable, whether it speaks of layers; else of the whole recipe, or only of tensors
        outside the stack."""
        groups = components_of(self.granularity, self.components)
        outer = {label for label, members in groups if is_outer(members)}
        searched = (METHOD, *OVERRIDES) if self.granularity.rules else ()
        owners = zip(self.variables, self._layout.owners, self._layout.groups, strict=True)
        return tuple(
            group not in outer and (not isinstance(variable, Choice) or parameter in searched)
            for variable, (parameter, _), group in owners
        )

    @cached_property
    def places(self) -> tuple[Place, ...]:
        """Per variable, the weights it speaks of."""
        groups = components_of(self.granularity, self.components)
        return places_of(self._layout, self._depth, groups, self.layers)

    @property
    def fixed(self) -> dict[str, Scalar]:
        """The parameters that the space gives one value."""
        return {name: s.clauses[0].values[0] for name, s in self._layout.fixed.items()}

    @property
    def rules(self) -> tuple[Rule, ...]:
        """The merge rules to choose from."""
        return self._rules

    def decode(self, genome: Genome) -> Recipe:
        """The recipe `genome` stands for. Where it chooses the rule, numbers that the chosen one
        does not read, or that only another's search varies, are no part of it.

        Raises:
            InputError: wrong number of values, or one outside its variable's range.
        """
        check_genome(self, genome)
        layout = self._layout
        whole = parameters(layout.fixed | layout.switches(genome))
        rows = layout.rows
        several = len(self._rules) > 1
        if several:
            rows, genome = self._of_chosen_rules(genome)
        slices = tuple(
            self._slice(genome, rows, stretch, whole) for stretch in self._depth.stretches
        )
        method, slices, whole = folded(self._rules[0].name, self._based, slices, whole)
        return Recipe(
            method=method,
            slices=slices,
            base=self.base,
            parameters=whole,
            dtype=self.dtype,
            seed=self.seed,
        )

    def seeds(self) -> dict[str, Genome]:
        """Known good starting points: `uniform` (every source alike: the plain average where the
        rule has it), and each source alone where a rule can give it.

        A value outside a variable's range is moved to its nearest end. Points that coincide with
        an earlier one are left out.
        """
        names: list[str] = [self.base] if self.base is not None else []
        found = {"uniform": self._genome(self._rules[0], None)}
        for source in [*names, *self.experts]:
            rule = self._rule_giving(source)
            genome = None if rule is None else self._genome(rule, source)
            if genome is not None and genome not in found.values():
                found[source] = genome
        return found

    @cached_property
    def _rules(self) -> tuple[Rule, ...]:
        names = (self.rule,) if isinstance(self.rule, str) else tuple(self.rule)
        if not names or len(set(names)) < len(names):
            raise InputError(
                f"rules {', '.join(names) or '(none)'}",
                "a space has at least one rule, and each once",
                "rule",
                "correct the list",
            )
        return tuple(rule_named(name, "rule") for name in names)

    @cached_property
    def _based(self) -> bool:
        """Whether the sources are seen from the base, which is none of them."""
        return self.base is not None and self._rules[0].takes_base

    @cached_property
    def _depth(self) -> Depth:
        return depth_of(self.granularity, self.layers)

    @cached_property
    def _weighted(self) -> tuple[str, ...]:
        """The sources with parameters of their own, in the recipe's order."""
        base = [self.base] if self.base is not None and not self._based else []
        return (*base, *self.experts)

    @cached_property
    def _layout(self) -> Layout:
        groups = components_of(self.granularity, self.components)
        layout = Layout()
        for variation in variations(self._rules, self.ranges, self._based):
            grouped = self.granularity.rules and variation.parameter in (METHOD, *OVERRIDES)
            layout.add(variation, self._weighted, groups, self._depth, grouped)
        return layout

    @cached_property
    def _has_della(self) -> bool:
        tried = variants(self._rules, self.ranges, self._based)
        return any(rule.sparsify == "della" for rule in tried)

    @cached_property
    def _foreign(self) -> Mapping[str, frozenset[str]]:
        """Per rule, the parameters that are searched for the sake of other rules only."""
        of_stages = {
            parameter
            for stage in OVERRIDES
            for choice in choices_in(stage, self.ranges)
            for parameter in STAGES[stage][choice]
        }
        searched = {name for name, _ in self._layout.owners} - {METHOD, *self.ranges, *of_stages}
        return {rule.name: frozenset(searched - set(rule.searched)) for rule in self._rules}

    def _of_chosen_rules(self, genome: Genome) -> tuple[Rows, Genome]:
        """What is left of the layout's rows, and the genome, with other rules' numbers at rest."""
        layout = self._layout
        where = zip(layout.owners, layout.groups, genome, strict=True)
        chosen = {group: str(v) for (name, _), group, v in where if name == METHOD}
        foreign = frozenset[str].intersection(*(self._foreign[name] for name in chosen.values()))
        rows = {
            source: tuple(row for row in listed if row.parameter not in foreign)
            for source, listed in layout.rows.items()
        }
        rested: list[Scalar] = []
        for (name, _), group, value in zip(layout.owners, layout.groups, genome, strict=True):
            method = chosen.get(group, chosen.get("", ""))
            rest = RULES[method].default(name) if name in self._foreign.get(method, ()) else None
            rested.append(value if rest is None else rest)
        return rows, tuple(rested)

    def _slice(self, genome: Genome, rows: Rows, stretch: Stretch, whole: Parameters) -> Slice:
        alone = len(self._depth.stretches) == 1
        span = None if alone else (stretch.start, stretch.stop)
        inputs: list[Input] = []
        for source in self._weighted:
            settings = settings_of(rows.get(source, ()), genome, stretch)
            if self._has_della:
                settings = with_epsilon_in_reach(settings, whole)
            inputs.append(Input(source, span, settings))
        return Slice(tuple(inputs), settings_of(rows.get(None, ()), genome, stretch))

    def _corners(self) -> Iterator[Genome]:
        """The plain point, and for each option of each choice that point with it."""
        plain = self._genome(self._rules[0], None)
        yield plain
        for place, variable in enumerate(self.variables):
            for option in variable.options if isinstance(variable, Choice) else ():
                yield (*plain[:place], option, *plain[place + 1 :])

    def _rule_giving(self, source: str) -> Rule | None:
        """A rule of the space that can give `source` alone, its stages as `_picked`."""
        for rule in self._rules:
            said = {
                stage: self._picked(stage, rule, True)
                for stage in OVERRIDES
                if stage in self.ranges
            }
            if gives_alone(compose(rule, self._based, said), source == self.base, self._based):
                return rule
        return None

    def _picked(self, stage: str, rule: Rule, alone: bool) -> Scalar:
        """The choice of `stage`, of those in the space, that a starting point has."""
        options = choices_in(stage, self.ranges)
        wanted = [SIMPLEST[stage], rule.choice(stage)] if alone else [rule.choice(stage)]
        return next((choice for choice in wanted if choice in options), options[0])

    def _genome(self, rule: Rule, source: str | None) -> Genome:
        """The point of `rule` that gives `source` alone, or every source alike (None)."""
        owners = self._layout.owners
        return tuple(
            self._target(variable, *owner, rule, source)
            for variable, owner in zip(self.variables, owners, strict=True)
        )

    def _target(
        self,
        variable: Variable,
        parameter: str,
        owner: str | None,
        rule: Rule,
        source: str | None,
    ) -> Scalar:
        if parameter == METHOD:
            return rule.name
        if parameter in OVERRIDES:
            return self._picked(parameter, rule, source is not None)
        default = rule.default(parameter)
        if isinstance(variable, Choice):
            chosen = default is not None and variable.has(default)
            return default if chosen and default is not None else variable.options[0]
        low, high = float(variable.low), float(variable.high)
        if parameter == "weight":
            target = 1.0 / len(self._weighted) if source is None else float(owner == source)
        elif parameter == "t":
            target = (low + high) / 2 if source is None else float(source != self.base)
        else:
            target = 1.0 if default is None else float(default)
        return min(max(target, low), high)

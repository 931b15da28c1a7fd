"""Where each variable of a parameter space goes in a recipe."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from search_spaces.granularity import OTHER, Depth, Stretch, is_outer
from search_spaces.ranges import Variation
from search_spaces.settings import Parameters, Setting
from search_spaces.variables import Choice, Genome, Real, Variable


@dataclass(frozen=True, slots=True)
class Row:
    """One parameter (of one source): per clause its filter and its values' place in the genome."""

    parameter: str
    clauses: tuple[tuple[str | None, int, int], ...]

    def setting(self, genome: Genome, stretch: Stretch) -> Setting:
        """The parameter's setting for one stretch of layers."""
        return Setting(tuple([stretch.clause(genome[a:b], c) for c, a, b in self.clauses]))


Rows = Mapping[str | None, tuple[Row, ...]]
"""Rows by source; those under None are the tensor's."""


class Layout:
    """The variables of a space, and where each one's value goes in a recipe.

    Attributes:
        variables: in the genome's order.
        owners: per variable its parameter and its source (None: the parameter is the tensor's).
        groups: per variable the part of its name that says which weights share it ("": all do).
        rows: by source, the settings that variables make.
        fixed: settings of the whole recipe.
    """

    def __init__(self) -> None:
        """A layout without variables."""
        self.variables: tuple[Variable, ...] = ()
        self.owners: tuple[tuple[str, str | None], ...] = ()
        self.groups: tuple[str, ...] = ()
        self.rows: dict[str | None, tuple[Row, ...]] = {}
        self.fixed: dict[str, Setting] = {}
        self._switches: dict[str, int] = {}

    def switches(self, genome: Genome) -> dict[str, Setting]:
        """The settings of the whole recipe that variables make."""
        return {name: Setting.constant(genome[i]) for name, i in self._switches.items()}

    def add(
        self,
        variation: Variation,
        sources: Sequence[str],
        groups: Sequence[tuple[str, tuple[str, ...]]],
        depth: Depth,
        grouped: bool = False,
    ) -> None:
        """Give `variation` its variables (none if its value is fixed).

        Args:
            variation: of one parameter.
            sources: those with parameters of their own.
            groups: the cut across components.
            depth: the cut along depth.
            grouped: whether options, too, have a variable per group (else one for the model).
        """
        name = variation.parameter
        if variation.fixed is not None:
            self.fixed[name] = Setting.constant(variation.fixed)
        elif variation.options and not grouped:
            self._switches[name] = len(self.variables)
            self._append(variation, None, [""])
        else:
            for source in sources if variation.per_source else (None,):
                clauses = self._clauses(variation, source, groups, depth)
                rows = (*self.rows.get(source, ()), Row(name, _in_order(clauses, groups)))
                self.rows[source] = tuple(sorted(rows, key=lambda row: row.parameter))

    def _clauses(
        self,
        variation: Variation,
        source: str | None,
        groups: Sequence[tuple[str, tuple[str, ...]]],
        depth: Depth,
    ) -> dict[str, tuple[int, int]]:
        """Append the variables; per group label, where its values stand in the genome."""
        clauses: dict[str, tuple[int, int]] = {}
        for label, members in groups:
            levels = ("",) if is_outer(members) else depth.labels or ("",)
            names = [".".join(filter(None, (level, label))) for level in levels]
            clauses[label] = (len(self.variables), len(self.variables) + len(names))
            self._append(variation, source, names)
        return clauses

    def _append(self, variation: Variation, source: str | None, groups: Sequence[str]) -> None:
        stem = (variation.parameter, source or "")
        for group in groups:
            name = ".".join(filter(None, (*stem, group)))
            self.variables += (_variable(name, variation),)
        self.owners += ((variation.parameter, source),) * len(groups)
        self.groups += tuple(groups)


def _variable(name: str, variation: Variation) -> Variable:
    if variation.options:
        return Choice(name, variation.options)
    return Real(name, variation.low, variation.high)


def _in_order(
    places: Mapping[str, tuple[int, int]], groups: Sequence[tuple[str, tuple[str, ...]]]
) -> tuple[tuple[str | None, int, int], ...]:
    """The clauses of one setting, in an order in which mergekit selects the same tensors.

    mergekit looks for the filter in the tensor's name, and `self_attn.q_norm` is a norm: norms are
    spoken of before attention, also where they only belong to the rest.
    """
    rest = dict(groups).get(OTHER, ())
    first = [("norm", *places[OTHER])] if "norm" in rest else []
    own = [
        (None if label in ("", OTHER) else label, start, stop)
        for label, (start, stop) in places.items()
    ]
    return (*first, *own)


def settings_of(rows: Sequence[Row], genome: Genome, stretch: Stretch) -> Parameters:
    """The settings that `rows` make of a genome for one stretch of layers."""
    return tuple((row.parameter, row.setting(genome, stretch)) for row in rows)

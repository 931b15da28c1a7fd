"""Merge rules, declared once: stages, parameters with their ranges, and the published presets.

A merge rule is a pipeline `reference -> sparsify -> rescale -> consensus -> combine -> scale`. This
file is plain data. Search spaces take their ranges from it, the recipe reader its checks, the
documentation its table and the test battery its cases; `evomerge.merge.stages` computes it.
Adding a published method is one line in `RULES` (and one function if it needs a new stage).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf

from search_spaces.errors import InputError, nearest

STAGES: Mapping[str, tuple[str, ...]] = {
    "reference": ("none", "base"),
    "sparsify": ("none", "magnitude", "random"),
    "rescale": ("none", "inverse", "l1"),
    "consensus": ("none", "sum", "count"),
    "combine": ("sum", "mean", "slerp"),
}
"""Stage -> its choices. `evomerge.merge.stages` implements each of them and no other (tested)."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """A number (or switch) of a merge rule.

    Attributes:
        name: as mergekit's YAML dialect spells it.
        per_source: True if each source has its own value, False if the tensor has one.
        default: value where a recipe is silent; None means the recipe must say it.
        low, high: closed interval a recipe may use.
        search: closed interval a search covers unless the run file says otherwise.
        choices: the values of a discrete parameter; a search leaves those alone.
        doc: one line, with the unit.
    """

    name: str
    per_source: bool
    default: float | bool | str | None
    low: float
    high: float
    search: tuple[float, float] | None
    doc: str
    choices: tuple[bool | str, ...] = ()


PARAMETERS: Mapping[str, Parameter] = {
    parameter.name: parameter
    for parameter in (
        Parameter("weight", True, None, -inf, inf, (0.0, 1.2), "weight of a source (ratio)"),
        Parameter(
            "density", True, 1.0, 0.0, 1.0, (0.2, 1.0), "share of a source's deltas kept (ratio)"
        ),
        Parameter("lambda", False, 1.0, -inf, inf, (0.5, 1.5), "scale of the merged delta (ratio)"),
        Parameter(
            "t", False, None, 0.0, 1.0, (0.0, 1.0), "place between base (0) and the other (1)"
        ),
        Parameter(
            "normalize", False, None, 0, 1, None, "divide by the surviving weight", (False, True)
        ),
        Parameter(
            "rescale", False, None, 0, 1, None, "rescale what sparsification kept", (False, True)
        ),
        Parameter(
            "rescale_norm", False, "l1", 0, 0, None, "what rescaling restores", ("l1", "inverse")
        ),
    )
}


@dataclass(frozen=True, slots=True)
class Rule:
    """A named pipeline of stages.

    Attributes:
        name: the name in recipes, run files and on the command line (mergekit's where it has one).
        reference, sparsify, rescale, consensus, combine: one choice per stage (see `STAGES`).
        parameters: names in `PARAMETERS` a recipe may set.
        searched: the ones of them a search space makes variables of, in this order.
        paper: author, year, title.
        sources: least and greatest number of sources that go in, besides the base where the rule
            needs one.
        needs_base: whether a base must be named (for `linear` it is a source as any other).
        defaults: values that differ from `PARAMETERS[...].default` for this rule.
    """

    name: str
    reference: str
    sparsify: str
    rescale: str
    consensus: str
    combine: str
    parameters: tuple[str, ...]
    searched: tuple[str, ...]
    paper: str
    sources: tuple[int, int | None] = (1, None)
    needs_base: bool = False
    defaults: Mapping[str, float | bool | str] = field(
        default_factory=dict[str, float | bool | str], hash=False
    )

    def default(self, parameter: str) -> float | bool | str | None:
        """The value of `parameter` where a recipe does not say it; None if it has to."""
        if parameter in self.defaults:
            return self.defaults[parameter]
        return PARAMETERS[parameter].default


_DELTA = ("weight", "density", "lambda", "normalize", "rescale", "rescale_norm")
_ILHARCO = "Ilharco et al. 2023, Editing Models with Task Arithmetic"
_YADAV = "Yadav et al. 2023, TIES-Merging, eqs. 1-3"
_YU = "Yu et al. 2024, Language Models are Super Mario (DARE), eq. 1"


def _delta_rule(
    name: str, paper: str, sparsify: str = "none", consensus: str = "none", normalize: bool = False
) -> Rule:
    """A rule on deltas from the base; those with random masks rescale them as mergekit does."""
    sparse = sparsify != "none"
    return Rule(
        name=name,
        reference="base",
        sparsify=sparsify,
        rescale="l1" if sparsify == "random" else "none",
        consensus=consensus,
        combine="mean" if normalize else "sum",
        parameters=_DELTA,
        searched=("weight", "density") if sparse else ("weight",),
        paper=paper,
        needs_base=True,
        defaults={"normalize": normalize, "rescale": sparsify == "random"},
    )


RULES: Mapping[str, Rule] = {
    rule.name: rule
    for rule in (
        Rule(
            name="linear",
            reference="none",
            sparsify="none",
            rescale="none",
            consensus="none",
            combine="mean",
            parameters=("weight", "normalize"),
            searched=("weight",),
            paper="Wortsman et al. 2022, Model Soups",
            defaults={"normalize": True},
        ),
        Rule(
            name="slerp",
            reference="none",
            sparsify="none",
            rescale="none",
            consensus="none",
            combine="slerp",
            parameters=("t",),
            searched=("t",),
            paper="Shoemake 1985, Animating Rotation with Quaternion Curves",
            sources=(1, 1),
            needs_base=True,
        ),
        _delta_rule("task_arithmetic", _ILHARCO),
        _delta_rule("ties", _YADAV, sparsify="magnitude", consensus="sum", normalize=True),
        _delta_rule("dare_linear", _YU, sparsify="random"),
        _delta_rule("dare_ties", _YU, sparsify="random", consensus="sum"),
    )
}
"""Every merge rule by name."""


def rule_named(name: str, where: str) -> Rule:
    """The rule called `name`.

    Raises:
        InputError: there is none; the nearest name is suggested.
    """
    if name not in RULES:
        raise InputError(
            f"merge method '{name}'", "it is not a known merge method", where, nearest(name, RULES)
        )
    return RULES[name]

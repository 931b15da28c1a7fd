"""Merge rules, declared once: parameters with their ranges, and the published presets.

This file and `search_spaces.stages` are plain data. Search spaces take their ranges from it, the
recipe reader its checks, the documentation its table and the test battery its cases;
`evomerge.merge.pipeline` computes it. Adding a published method is one line in `RULES` (and one
function if it needs a new choice of a stage).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from math import inf
from typing import TypeVar

from search_spaces.errors import InputError, nearest
from search_spaces.stages import STAGES

Value = float | bool | str
T = TypeVar("T")


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
        whole: whether it is a whole number, which has no gradients.
    """

    name: str
    per_source: bool
    default: Value | None
    low: float
    high: float
    search: tuple[float, float] | None
    doc: str
    choices: tuple[Value, ...] = ()
    whole: bool = False


def _switch(name: str, default: bool | None, doc: str) -> Parameter:
    return Parameter(name, False, default, 0, 1, None, doc, (False, True))


def _choice(name: str, default: str | None, doc: str, choices: tuple[Value, ...]) -> Parameter:
    return Parameter(name, False, default, 0, 0, None, doc, choices)


_PARAMETERS: dict[str, Parameter] = {
    parameter.name: parameter
    for parameter in (
        Parameter("weight", True, None, -inf, inf, (0.0, 1.2), "weight of a source (ratio)"),
        Parameter(
            "density", True, 1.0, 0.0, 1.0, (0.2, 1.0), "share of a source's deltas kept (ratio)"
        ),
        Parameter(
            "gamma",
            True,
            0.01,
            0.0,
            1.0,
            (0.0, 0.05),
            "share of the largest deltas dropped (ratio)",
        ),
        Parameter(
            "epsilon",
            True,
            0.15,
            0.0,
            1.0,
            (0.01, 0.15),
            "della: half the spread of the probabilities to keep; ram: least |delta| that counts",
        ),
        Parameter("scale", True, 1.0, -inf, inf, (0.5, 1.5), "factor on a source (ratio)"),
        Parameter("lambda", False, 1.0, -inf, inf, (0.5, 1.5), "scale of the merged delta (ratio)"),
        Parameter(
            "alpha",
            False,
            1.0,
            -inf,
            inf,
            (0.0, 1.0),
            "depth ramp: scale of the first layer and of tensors outside the stack (ratio)",
        ),
        Parameter(
            "beta",
            False,
            0.0,
            -inf,
            inf,
            (0.0, 1.5),
            "depth ramp: what the last layer's scale is above the first's (ratio)",
        ),
        Parameter(
            "t",
            False,
            None,
            0.0,
            1.0,
            (0.0, 1.0),
            "slerp: place between base (0) and the other "
            "(1); nearswap: greatest change of an element",
        ),
        Parameter(
            "select_topk",
            False,
            1.0,
            0.0,
            1.0,
            (0.05, 1.0),
            "share of elements kept where the sources vary most (ratio)",
        ),
        Parameter(
            "eta", False, 0.4, 0.0, 1.0, (0.2, 0.8), "share of the nuclear norm kept (ratio)"
        ),
        Parameter(
            "rank", False, 0.08, 0.0, 1.0, (0.02, 0.32), "share of the full rank kept (ratio)"
        ),
        Parameter(
            "k", False, 2.0, 1.0, inf, None, "sources that must need an element (count)", whole=True
        ),
        Parameter(
            "support",
            False,
            0.4,
            0.0,
            inf,
            (0.2, 0.6),
            "a source needs an element if |tau| is "
            "above this times its distance from the merged delta (ratio)",
        ),
        Parameter("eps", False, 1e-8, 0.0, 1.0, None, "norms below this count as zero"),
        Parameter("max_iter", False, 10.0, 1, 1000, None, "iterations at most (count)", whole=True),
        Parameter("tol", False, 1e-5, 0.0, 1.0, None, "stop at steps shorter than this (radians)"),
        _choice("m", "256", "elements in a row that compete (count)", ("32", "64", "128", "256")),
        _choice("scope", "tensor", "what density is a share of", ("tensor", "model")),
        _switch("normalize", None, "divide by the surviving weight"),
        _switch("rescale", None, "rescale what sparsification kept"),
        _choice("rescale_norm", "l1", "what rescaling restores", ("l1", "inverse")),
        _switch("normalize_weights", True, "divide the weights by their sum"),
        _switch("nuslerp_flatten", True, "one angle for the tensor, not one per row"),
        _switch("nuslerp_row_wise", False, "angles of columns instead of rows"),
        _switch("filter_wise", False, "one angle per row, not for the tensor"),
        *(
            _choice(stage, None, f"another choice of the stage `{stage}`", tuple(choices))
            for stage, choices in STAGES.items()
            if stage != "rescale"  # `rescale` and `rescale_norm` choose it
        ),
    )
}

PARAMETERS: Mapping[str, Parameter] = _PARAMETERS
"""Every parameter by name. One named like a stage puts another choice in place of the rule's, and
`method` another rule."""

OVERRIDES: tuple[str, ...] = tuple(stage for stage in STAGES if stage != "rescale")
"""The stages that a parameter of the same name can choose."""

METHOD = "method"
"""The parameter that chooses the rule."""

_DEFAULT_WITH: Mapping[tuple[str, str], Value] = {
    ("above", "epsilon"): 1e-5,
    ("pcb", "density"): 0.1,
}
_SEARCH_WITH: Mapping[tuple[str, str], tuple[float, float]] = {
    ("above", "epsilon"): (1e-6, 1e-3),
    ("clip", "t"): (1e-5, 1e-2),
    ("pcb", "density"): (0.02, 0.3),
}
"""What differs from the parameter's own default and range next to a choice of a stage."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A named pipeline of stages.

    Attributes:
        name: the name in recipes, run files and on the command line (mergekit's where it has one).
        own: parameters that do not come with a stage's choice.
        searched: the parameters a search space makes variables of, in this order.
        paper: author, year, title.
        reference, sparsify, rescale, spectral, consensus, combine: one choice per stage.
        sources: least and greatest number of sources that go in, besides the base where the rule
            needs one.
        base: "needed": the sources are seen from it; "optional": if one is named; "source": it is
            a source as any other; "either": the same, also where other rules of the recipe see
            their sources from it.
        defaults: values that differ from `PARAMETERS[...].default` for this rule.
        ranges: search ranges that differ from `PARAMETERS[...].search` for this rule.
    """

    name: str
    own: tuple[str, ...]
    searched: tuple[str, ...]
    paper: str
    reference: str = "none"
    sparsify: str = "none"
    rescale: str = "none"
    spectral: str = "none"
    consensus: str = "none"
    combine: str = "sum"
    sources: tuple[int, int | None] = (1, None)
    base: str = "source"
    defaults: Mapping[str, Value] = field(default_factory=dict[str, Value], hash=False)
    ranges: Mapping[str, tuple[float, float]] = field(
        default_factory=dict[str, tuple[float, float]], hash=False
    )

    @property
    def needs_base(self) -> bool:
        """Whether a base must be named."""
        return self.base == "needed"

    @property
    def takes_base(self) -> bool:
        """Whether a base that is named is what the sources are seen from."""
        return self.base in ("needed", "optional")

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names in `PARAMETERS` a recipe may set: the rule's own, and those of its stages."""
        return _parameters(self)

    def choice(self, stage: str) -> str:
        """The choice of `stage`."""
        return str(getattr(self, stage))

    def default(self, parameter: str) -> Value | None:
        """The value of `parameter` where a recipe does not say it; None if it has to."""
        if parameter in self.defaults:
            return self.defaults[parameter]
        if parameter in OVERRIDES:
            return self.choice(parameter)
        return self._next_to_choices(_DEFAULT_WITH, parameter, PARAMETERS[parameter].default)

    def search(self, parameter: str) -> tuple[float, float] | None:
        """The interval of `parameter` that a search covers unless a run file says otherwise."""
        otherwise = PARAMETERS[parameter].search
        return self.ranges.get(parameter) or self._next_to_choices(
            _SEARCH_WITH, parameter, otherwise
        )

    def with_stages(self, **choices: str) -> "Rule":
        """The rule with other choices of stages; its name stays."""
        return replace(self, **choices) if choices else self  # pyright: ignore[reportArgumentType]

    def _next_to_choices(
        self, table: Mapping[tuple[str, str], T], parameter: str, otherwise: T | None
    ) -> T | None:
        """The entry of `table` for `parameter` and one of the rule's choices."""
        found = (table.get((self.choice(stage), parameter)) for stage in STAGES)
        return next((value for value in found if value is not None), otherwise)


@lru_cache(maxsize=4096)
def _parameters(rule: Rule) -> tuple[str, ...]:
    of_stages = (p for stage in STAGES for p in STAGES[stage][rule.choice(stage)])
    return tuple(dict.fromkeys((*rule.own, *of_stages)))


_DELTA = ("weight", "density", "lambda", "normalize", "rescale", "rescale_norm")
_COMPOSED = (*_DELTA, "alpha", "beta", *OVERRIDES)
_ILHARCO = "Ilharco et al. 2023, Editing Models with Task Arithmetic"
_YADAV = "Yadav et al. 2023, TIES-Merging, eqs. 1-3"
_YU = "Yu et al. 2024, Language Models are Super Mario (DARE), eq. 1"
_DEEP = "Deep et al. 2024, DELLA-Merging"
_DAVARI = "Davari and Belilovsky 2024, Model Breadcrumbs"


def _delta(
    name: str,
    paper: str,
    searched: tuple[str, ...] = ("weight",),
    normalize: bool | None = None,
    sources: tuple[int, int | None] = (1, None),
    ranges: Mapping[str, tuple[float, float]] | None = None,
    defaults: Mapping[str, Value] | None = None,
    **stages: str,
) -> Rule:
    """A rule on deltas from the base, with weights; `normalize` chooses between sum and mean."""
    on_mean = {"normalize": bool(normalize)} if "combine" not in stages else {}
    choices = {"reference": "base", "combine": "mean" if normalize else "sum"} | stages
    norm = stages.get("rescale", "none")
    rescaling = {"rescale": False} if norm == "none" else {"rescale": True, "rescale_norm": norm}
    own = _COMPOSED if on_mean else tuple(p for p in _COMPOSED if p != "normalize")
    return Rule(
        name=name,
        own=own,
        searched=searched,
        paper=paper,
        sources=sources,
        base="needed",
        defaults={**rescaling, **on_mean, **(defaults or {})},
        ranges=ranges or {},
        **choices,
    )


def _free(name: str, paper: str, searched: tuple[str, ...] = ("lambda",), **stages: str) -> Rule:
    """A rule on deltas from the base without weights."""
    own = ("lambda", "alpha", "beta", *OVERRIDES)
    return Rule(name, own, searched, paper, base="needed").with_stages(
        **({"reference": "base"} | stages)
    )


RULES: Mapping[str, Rule] = {
    rule.name: rule
    for rule in (
        # On the models themselves.
        Rule("linear", ("weight", "normalize"), ("weight",), "Wortsman et al. 2022, Model Soups",
             combine="mean", defaults={"normalize": True}),
        Rule("passthrough", ("scale",), ("scale",), "mergekit: layers copied, at most scaled",
             sources=(1, 1), base="either"),
        Rule("slerp", (), ("t",), "Shoemake 1985, Animating Rotation with Quaternion Curves",
             combine="slerp", sources=(1, 1), base="needed"),
        Rule("nuslerp", ("weight",), ("weight",), "mergekit: slerp by weights, of deltas if a base is named",
             combine="nuslerp", sources=(2, 2), base="optional"),
        Rule("multislerp", ("weight",), ("weight",), "Goddard 2024, Multi-SLERP (mergekit)",
             combine="multislerp", base="optional"),
        Rule("karcher", (), (), "Karcher 1977, Riemannian Center of Mass", combine="karcher"),
        # On deltas from the base.
        _delta("task_arithmetic", _ILHARCO),
        _delta("wise_ft", "Wortsman et al. 2022, Robust Fine-Tuning (WiSE-FT)", sources=(1, 1),
               ranges={"weight": (0.0, 1.0)}),
        _delta("chat_vector", "Huang et al. 2024, Chat Vector", sources=(2, None),
               defaults={"weight": 1.0}, ranges={"weight": (0.3, 1.2)}),
        _delta("ties", _YADAV, ("weight", "density"), True, sparsify="magnitude", consensus="sum"),
        _delta("ties_whole", _YADAV + ", trimmed over the whole model as in the paper",
               ("weight", "density"), True, defaults={"scope": "model"},
               ranges={"density": (0.05, 0.9)}, sparsify="magnitude", consensus="sum"),
        _delta("dare_linear", _YU, ("weight", "density"), False, sparsify="random", rescale="l1"),
        _delta("dare_ties", _YU, ("weight", "density"), False, sparsify="random", rescale="l1",
               consensus="sum"),
        _delta("della", _DEEP, ("weight", "density", "epsilon"), True, sparsify="della",
               rescale="l1", consensus="sum"),
        _delta("della_linear", _DEEP, ("weight", "density", "epsilon"), False, sparsify="della",
               rescale="l1"),
        _delta("breadcrumbs", _DAVARI, ("weight", "density", "gamma"), False, sparsify="outliers"),
        _delta("breadcrumbs_ties", _DAVARI, ("weight", "density", "gamma"), False,
               sparsify="outliers", consensus="sum"),
        _delta("consensus", "Wang et al. 2024, TALL-masks and Consensus Merging, eqs. 3-5",
               ("weight", "support"), False, consensus="support"),
        _delta("lines", "Wang et al. 2025, LiNeS", ("weight", "alpha", "beta"), False),
        _delta("magmax", "Marczak et al. 2024, MagMax", ("weight",), combine="largest",
               defaults={"weight": 1.0}, ranges={"weight": (0.3, 1.2)}),
        _delta("cabs", "Yang et al. 2025, CABS", ("weight", "density"), False, sparsify="n_of_m",
               ranges={"weight": (0.3, 2.0), "density": (0.125, 0.5)}),
        _delta("star", "Lee et al. 2025, STAR", ("weight", "eta"), False, spectral="star"),
        _delta("cart", "Choi et al. 2025, Revisiting Weight Averaging (CART)", ("weight", "rank"),
               False, reference="mean", spectral="truncate", ranges={"weight": (0.5, 2.0)}),
        _delta("iso_c", "Marczak et al. 2025, No Task Left Behind (Iso-C)", ("weight", "lambda"),
               combine="iso_c", ranges={"lambda": (0.5, 2.0)}),
        _delta("pcb", "Du et al. 2024, Parameter Competition Balancing", ("weight", "density"),
               combine="pcb", ranges={"weight": (0.8, 1.3)}),
        _free("sce", "Wan et al. 2024, FuseChat (SCE)", ("select_topk", "lambda"),
              sparsify="variance", consensus="sum", combine="energy"),
        Rule("model_stock", (), (), "Jang et al. 2024, Model Stock, eqs. 3-4", reference="base",
             combine="model_stock", sources=(2, None), base="needed"),
        Rule("nearswap", (), ("t",), "alchemonaut 2024, NearSwap (mergekit)", reference="base",
             sparsify="clip", sources=(1, 1), base="needed"),
        Rule("arcee_fusion", (), (), "Arcee AI 2025, Arcee Fusion (mergekit)", reference="base",
             sparsify="importance", sources=(1, 1), base="needed"),
        _free("ram", "Yuan et al. 2026, Reinforced Agent Merging (RAM)", sparsify="above",
              combine="survivors"),
    )
}  # fmt: skip
"""Every merge rule by name."""

_PARAMETERS[METHOD] = _choice(METHOD, None, "another rule in place of `merge_method`", tuple(RULES))


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

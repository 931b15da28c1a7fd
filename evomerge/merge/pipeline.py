"""One output tensor: reference -> sparsify -> rescale -> spectral -> consensus -> combine -> scale.

A plan becomes an `ElementPass`, and a kernel carries it out. Stages that an element-wise pass
cannot express (`evomerge.merge.whole`) turn the sources' deltas into new ones first; what remains is
a pass over those.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from evomerge.merge.bands import BANDS, KEEP_ALL, RESCALE, Source, ratio
from evomerge.merge.deltas import Delta
from evomerge.merge.elements import CONSENSUS, ElementPass, InputPass, Region
from evomerge.merge.kernels import kernel_for, readable
from evomerge.merge.materials import Materials
from evomerge.merge.random_masks import mask_key
from evomerge.merge.statistics import Exact, Statistics, variance
from evomerge.merge.whole.angles import COEFFICIENTS
from evomerge.merge.whole.combine import WHOLE_COMBINE
from evomerge.merge.whole.sparsify import WHOLE_SPARSIFY
from evomerge.merge.whole.spectral import SPECTRAL
from search_spaces.errors import InputError
from search_spaces.recipe import Scalar, TensorPlan
from search_spaces.stages import STAGES

_ELEMENTWISE = ("sum", "mean", "survivors", "largest", "energy")
IMPLEMENTED: Mapping[str, frozenset[str]] = {
    "reference": frozenset(("none", "base", "mean")),
    "sparsify": frozenset((*BANDS, *WHOLE_SPARSIFY, "variance")),
    "rescale": frozenset(RESCALE),
    "spectral": frozenset(("none", *SPECTRAL)),
    "consensus": frozenset(CONSENSUS),
    "combine": frozenset((*_ELEMENTWISE, *COEFFICIENTS, *WHOLE_COMBINE)),
}
"""Stage -> the choices that are carried out; the same as `STAGES` declares (tested)."""


def merge_tensor(
    plan: TensorPlan,
    base: torch.Tensor | None,
    inputs: Sequence[torch.Tensor],
    *,
    dtype: torch.dtype = torch.float32,
    statistics: Statistics | None = None,
) -> torch.Tensor:
    """The merged tensor, of the inputs' shape; NaN and infinity are not looked for.

    With reference r, inputs theta_i, weights w_i and scale lambda:

        tau_i  = theta_i - r                        reference
        tau_i <- f_i * mask_i * tau_i               sparsify (mask), rescale (f)
        tau_i <- U_i g(S_i) V_i                     spectral
        agree  = consensus(w_1 tau_1, ...)          consensus
        result = r + lambda * combine(w_i tau_i over agree)

    Raises:
        InputError: normalised weights that sum to zero.
    """
    check_plan(plan)
    out = torch.empty(inputs[0].shape, dtype=dtype, device=inputs[0].device)
    materials = Materials(base, inputs, statistics or Exact())
    ready(plan, materials).write(out, Region.whole(out.numel()))
    return out


@dataclass(frozen=True)
class ReadyTensor:
    """An output tensor all of whose stages but the element-wise ones are done.

    Attributes:
        work: what is left to do.
        base, inputs: flat tensors that kernels read.
    """

    work: ElementPass
    base: torch.Tensor | None
    inputs: Sequence[torch.Tensor]

    def write(self, out: torch.Tensor, region: Region) -> bool:
        """Put the elements of `region` into `out` (contiguous, of as many elements).

        Returns:
            Whether all of them are finite in `out`'s dtype.
        """
        return kernel_for(out)(self.work, self.base, self.inputs, out.view(-1), region)


def ready(plan: TensorPlan, materials: Materials) -> ReadyTensor:
    """Go through the stages of `plan`, a plan that passed `check_plan`."""
    stages = _Work.of(plan, materials)
    inputs = [readable(tensor) for tensor in stages.prepare()]
    base = stages.reference_tensor()
    return ReadyTensor(stages.element_pass(), None if base is None else readable(base), inputs)


def check_plan(plan: TensorPlan) -> None:
    """Refuse numbers that no merge can be made with.

    Raises:
        InputError: a plain weighted mean whose weights sum to zero.
    """
    choices = plan.choices()
    if choices["reference"] != "none" or choices["combine"] != "mean":
        return
    if abs(sum(_weight(i.parameters) for i in plan.inputs)) < 1e-8:
        raise InputError(
            "weights that sum to zero",
            f"method '{plan.rule.name}' divides by their sum",
            f"tensor {plan.tensor}",
            "change the weights, or set normalize: false",
        )


@dataclass
class _Work:
    """A plan on its way to a pass: what each stage has left, in the order of the stages.

    Attributes:
        deltas: tau_i of each of `plan.merged`, unsparsified.
        own: each one's parameters.
        taus: what whole-tensor stages made of them, float32; None while they are as the sources'.
        bands: what sparsification does to each in the pass.
        factors: of rescaling.
        weights: of the sources.
        shares: factors on the weights after consensus; empty: 1.
    """

    plan: TensorPlan
    materials: Materials
    choices: Mapping[str, str]
    deltas: list[Delta]
    own: list[Mapping[str, Scalar]]
    bands: list[InputPass]
    factors: list[float]
    weights: list[float]
    taus: list[torch.Tensor] | None = None
    shares: Sequence[float] = ()
    combine: str = "sum"
    divisor: float = 1.0

    @classmethod
    def of(cls, plan: TensorPlan, materials: Materials) -> _Work:
        own = [source.parameters for source in plan.inputs]
        if len(plan.merged) > len(plan.inputs):
            own = [*own, *own]  # both ends are treated alike
        deltas = materials.deltas(plan)
        count, weights = len(deltas), [_weight(numbers) for numbers in own]
        return cls(plan, materials, plan.choices(), deltas, own, [KEEP_ALL] * count, [1.0] * count,
                   weights)  # fmt: skip

    def prepare(self) -> list[torch.Tensor]:
        """Go through the stages; what the kernel reads."""
        self._sparsify()
        self._edit_spectra()
        self._choose_combination()
        return self.taus if self.taus is not None else [delta.theta for delta in self.deltas]

    def element_pass(self) -> ElementPass:
        """The pass that is left after `prepare`."""
        shares = self.shares or [1.0] * len(self.bands)
        inputs = tuple(
            InputPass(
                *(band.low, band.high, band.key, band.limit, band.clip),
                elect=weight * factor,
                factor=share,
                weight=weight * share,
            )
            for band, factor, weight, share in zip(
                self.bands, self.factors, self.weights, shares, strict=True
            )
        )
        if self.combine == "mean" and self.choices["consensus"] == "none":
            self.combine, divisor = "divided", sum(i.weight for i in inputs)
            self.divisor = 1.0 if abs(divisor) < 1e-8 else divisor
        reference = self.choices["reference"]
        numbers = self.plan.parameters
        return ElementPass(
            reference="base" if reference == "mean" and self.taus is not None else reference,
            inputs=inputs,
            consensus=self.choices["consensus"],
            combine=self.combine,
            k=int(float(numbers.get("k", 2))),
            support=float(numbers.get("support", 0.4)),
            divisor=self.divisor,
            scale=_scale(self.plan),
            deltas=self.taus is not None,
        )

    def reference_tensor(self) -> torch.Tensor | None:
        """What the kernel gets as the base."""
        if self.choices["reference"] == "mean" and self.taus is not None:
            total = torch.stack([t.float() for t in self.materials.inputs]).sum(0)
            return total / torch.full((), len(self.materials.inputs), device=total.device)
        return self.materials.base if self.choices["reference"] == "base" else None

    def _sparsify(self) -> None:
        choice, shared = self.choices["sparsify"], self.plan.parameters
        rescale = RESCALE[self._rescale()]
        if choice in BANDS:
            for i, delta in enumerate(self.deltas):
                source = self._source(i, delta)
                self.bands[i] = BANDS[choice](source)
                self.factors[i] = rescale(source, self.bands[i])
            return
        least = 0.0
        if choice == "variance":
            least = self.materials.statistics.variance_threshold(
                self.deltas, float(shared["select_topk"])
            )
            if least == 0:  # every element stays: nothing of a tensor's size need be made
                return
        before = self._whole_taus()
        if choice == "variance":
            keep = (variance(before) >= least).float()
            self.taus = [tau * keep for tau in before]
        else:
            keys = [mask_key(*delta.mask_name) for delta in self.deltas]
            base = self.materials.base
            self.taus = WHOLE_SPARSIFY[choice](before, self.own, shared, keys, base)
        if self._rescale() == "l1":
            self.factors = [ratio(_l1(old), _l1(new)) for old, new in
                            zip(before, self.taus, strict=True)]  # fmt: skip
        else:
            self.factors = [rescale(self._source(i, d), InputPass()) for i, d in
                            enumerate(self.deltas)]  # fmt: skip
        if self.choices["combine"] == "survivors":
            self.bands = [InputPass(low=0.0)] * len(self.deltas)  # dropped elements are 0 now

    def _rescale(self) -> str:
        """The choice of rescale; none where sparsification has no density to invert."""
        rescale = self.choices["rescale"]
        known = "density" in STAGES["sparsify"][self.choices["sparsify"]]
        return "none" if rescale == "inverse" and not known else rescale

    def _edit_spectra(self) -> None:
        if self.choices["spectral"] != "none":
            edit = SPECTRAL[self.choices["spectral"]]
            self._settle()
            assert self.taus is not None
            self.taus = [edit(tau, self.plan.parameters) for tau in self.taus]

    def _choose_combination(self) -> None:
        """Turn combinations that are no choice of a pass into weights, or into one new delta."""
        choice, shared = self.choices["combine"], self.plan.parameters
        if _by_rows(choice, shared) or choice not in (*_ELEMENTWISE, *COEFFICIENTS):
            self._settle(agreeing=True)
            assert self.taus is not None
            merged = WHOLE_COMBINE[choice](self.taus, self.weights, self.own, shared)
            self.taus, self.weights = [merged], [1.0]
            self.bands, self.factors = [KEEP_ALL], [1.0]
            self.choices = {**self.choices, "consensus": "none"}
        elif choice in COEFFICIENTS:
            if self._untouched() and self.choices["consensus"] == "none":
                gram = self.materials.statistics.gram(self.deltas)
            else:
                self._settle(agreeing=True)
                gram = Exact().gram([Delta(tau) for tau in self.taus or ()])
            self.weights = COEFFICIENTS[choice](gram, self.weights, shared)
            self.choices = {**self.choices, "consensus": "none"}
        else:
            self.shares = self._energies() if choice == "energy" else ()
            self.combine = "mean" if choice == "energy" else choice

    def _energies(self) -> list[float]:
        """Each source's share of the mean squares of what sparsification left (Wan et al. 2024)."""
        if not self.materials.inputs[0].numel():
            squares = [0.0] * len(self.deltas)
        elif self._untouched():
            squares = self.materials.statistics.energies(self.deltas, 0.0)
        else:
            self._settle()
            squares = [tau.double().square().mean().item() for tau in self.taus or ()]
        total = sum(squares)
        return [s / total for s in squares] if total > 0 else [1 / len(squares)] * len(squares)

    def _settle(self, agreeing: bool = False) -> None:
        """Carry out sparsification and rescaling (and consensus) on the taus, without weights."""
        taus = [
            tau if band is KEEP_ALL and factor == 1 else _alone(band, factor, tau)
            for tau, band, factor in zip(self._whole_taus(), self.bands, self.factors, strict=True)
        ]
        self.taus, self.bands = taus, [KEEP_ALL] * len(taus)
        self.factors = [1.0] * len(taus)
        if agreeing and self.choices["consensus"] != "none":
            whole = replace(self.element_pass(), reference="none", deltas=True, combine="sum",
                            scale=1.0)  # fmt: skip
            self.taus = [
                torch.where(_only(i, whole, taus) != 0, tau, 0.0) for i, tau in enumerate(taus)
            ]

    def _untouched(self) -> bool:
        """Whether the deltas are still as they came."""
        return self.taus is None and all(band is KEEP_ALL for band in self.bands)

    def _whole_taus(self) -> list[torch.Tensor]:
        if self.taus is not None:
            return self.taus
        shape = self.materials.inputs[0].shape
        return [delta.chunk(0, delta.count).view(shape) for delta in self.deltas]

    def _source(self, i: int, delta: Delta) -> Source:
        numbers = {**self.plan.parameters, **self.own[i]}
        over = self.materials.over_model[i] if i < len(self.materials.over_model) else None
        return Source(delta, numbers, self.materials.statistics, over)


def _weight(parameters: Mapping[str, Scalar]) -> float:
    """A source's weight; `passthrough` calls it scale, rules without weights have 1."""
    return float(parameters.get("weight", parameters.get("scale", 1.0)))


def _scale(plan: TensorPlan) -> float:
    """lambda times the depth's ramp alpha + beta * l / (L - 1) (Wang et al. 2025, LiNeS, eq. 2)."""
    numbers = plan.parameters
    ramp = float(numbers.get("alpha", 1.0)) + float(numbers.get("beta", 0.0)) * (plan.depth or 0.0)
    return float(numbers.get("lambda", 1.0)) * ramp


def _by_rows(combine: str, shared: Mapping[str, Scalar]) -> bool:
    """Whether angles are those of rows or columns, not of the tensor."""
    if combine == "nuslerp":
        return not shared["nuslerp_flatten"]
    return combine == "model_stock" and bool(shared["filter_wise"])


def _alone(band: InputPass, factor: float, tau: torch.Tensor) -> torch.Tensor:
    """What one source's band leaves, rescaled."""
    return _passed(ElementPass("none", (replace(band, elect=factor),)), [tau])


def _only(i: int, work: ElementPass, taus: Sequence[torch.Tensor]) -> torch.Tensor:
    """The i-th source's part in a sum."""
    inputs = tuple(replace(s, factor=float(j == i)) for j, s in enumerate(work.inputs))
    return _passed(replace(work, inputs=inputs), taus)


def _passed(work: ElementPass, taus: Sequence[torch.Tensor]) -> torch.Tensor:
    out = torch.empty_like(taus[0], memory_format=torch.contiguous_format)
    flat = [tau.reshape(-1) for tau in taus]
    kernel_for(out)(work, None, flat, out.view(-1), Region.whole(out.numel()))
    return out


def _l1(tau: torch.Tensor) -> float:
    return tau.abs().sum(dtype=torch.float64).item()

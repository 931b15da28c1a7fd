"""Kinship: do the experts descend from this base, and how alike is what they learnt?

Merging by deltas (Ilharco et al. 2023, task arithmetic, and everything built on it) takes experts that
were fine-tuned from the base. Their deltas tau_i = theta_i - base are then small beside it, and the
cosines between them tell how much two experts learnt the same thing (Hu et al. 2024, Model Kinship).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from evomerge.checks.advice import Advice

if TYPE_CHECKING:
    import torch

    from evomerge.merge.sources import Sources

SAMPLE = 2**21
"""Weights of each source that are looked at. A cosine of n independent pairs has a standard error below
1/sqrt(n); neighbouring weights are not independent, so count on 1 %."""

_RUN = 512
"""Weights that lie beside each other, read together: a page of memory or less."""

FAR = 0.5
"""||theta - base|| / ||base|| above which an expert is far from the base: fine-tunes lie below 0.2, models
of other families near sqrt(2)."""

UNRELATED = 0.5
"""Cosine of two models' weights below which one does not descend from the other: fine-tunes lie above
0.9, models that were trained apart near 0."""

ALIKE = 0.98
"""Cosine of two deltas above which two experts are as good as one."""


@dataclass(frozen=True)
class Kinship:
    """What the sources' weight matrices have to do with each other (norms and biases left out).

    Attributes:
        base: the base's name; None: there is none.
        names: the sources that are compared: the experts.
        sampled: weights of each that were looked at.
        of: weights that each has.
        distances: expert -> ||theta - base|| / ||base||; empty without a base.
        to_base: expert -> cosine of its weights and the base's; empty without a base.
        cosines: [experts, experts], of the deltas, or of the weights where there is no base.
        equal: pairs (the base among them) that do not differ in a single weight.
    """

    base: str | None
    names: tuple[str, ...]
    sampled: int
    of: int
    distances: dict[str, float]
    to_base: dict[str, float]
    cosines: tuple[tuple[float, ...], ...]
    equal: tuple[tuple[str, str], ...]

    def as_json(self) -> dict[str, Any]:
        """As `check --json` has it; `cosines` of `deltas` or `weights`."""
        return {
            "base": self.base,
            "experts": list(self.names),
            "sampled": self.sampled,
            "of": self.of,
            "distances": self.distances,
            "cosines_to_base": self.to_base,
            "cosines_of": "deltas" if self.base else "weights",
            "cosines": [list(row) for row in self.cosines],
            "equal": [list(pair) for pair in self.equal],
        }


def measure_kinship(sources: "Sources", base: str | None, sample: int = SAMPLE) -> Kinship:
    """Compare the sources on a sample of their weights, the same in every process.

    Every matrix gives its share of the sample, in runs of neighbours spread evenly over it; what is
    found in a matrix counts by its size. Matrices that a source lacks are left out.

    Args:
        sources: opened and compatible.
        base: the base's name; None: there is none.
        sample: weights per source; of smaller models all are looked at.
    """
    names = list(sources.names)
    experts = [name for name in names if name != base]
    count = len(names)
    inner = np.zeros((count, count))  # of the weights
    deltas = np.zeros((count, count))  # of the differences from the base
    same = set(combinations(range(count), 2))  # pairs that do not differ so far
    sampled = total = 0
    for part, size in _parts(sources, sample):
        scale = size / part.shape[1]
        inner += scale * _products(part)
        if base is not None:
            tau = part - part[names.index(base)]
            deltas += scale * _products(tau)
        same = {(i, j) for i, j in same if np.array_equal(part[i], part[j])}
        sampled, total = sampled + part.shape[1], total + size
    rows = [names.index(name) for name in experts]
    gram = inner if base is None else deltas
    equal = tuple(
        (names[i], names[j]) for i, j in sorted(same) if _equal(sources, names[i], names[j])
    )
    away: dict[str, float] = {}
    cosines: dict[str, float] = {}
    if base is not None:
        root = names.index(base)
        for name, row in zip(experts, rows, strict=True):
            away[name] = _ratio(math.sqrt(deltas[row, row]), math.sqrt(inner[root, root]))
            cosines[name] = _cosine(inner, row, root)
    matrix = tuple(tuple(_cosine(gram, i, j) for j in rows) for i in rows)
    return Kinship(base, tuple(experts), sampled, total, away, cosines, matrix, equal)


def _parts(sources: "Sources", sample: int) -> Iterator[tuple[np.ndarray, int]]:
    """Per matrix that all sources have: weights of each, float64 [sources, sampled], and its size."""
    import torch

    matrices = [
        name
        for name, shape in sources.shapes.items()
        if len(shape) > 1
        and math.prod(shape)
        and sources.floating(name)
        and all(sources.holds(source, name) for source in sources.names)
    ]
    total = sum(math.prod(sources.shapes[name]) for name in matrices)
    for number, name in enumerate(matrices):
        size = math.prod(sources.shapes[name])
        starts = _starts(size, math.ceil(sample * size / total), number)
        rows: list[np.ndarray] = []
        for source in sources.names:
            flat = sources.tensor(source, name).reshape(-1)
            taken = _taken(flat, starts) if starts is not None else flat
            rows.append(taken.to("cpu", torch.float64).numpy())
        yield np.stack(rows), size


def _starts(size: int, wanted: int, seed: int) -> np.ndarray | None:
    """Where the runs begin, one in each of equally long stretches; None: take everything."""
    runs = math.ceil(wanted / _RUN)
    stretch = size // runs
    if wanted >= size or stretch <= _RUN:
        return None
    jitter = np.random.default_rng(seed).integers(0, stretch - _RUN + 1, runs)
    return np.arange(runs) * stretch + jitter


def _taken(flat: "torch.Tensor", starts: np.ndarray) -> "torch.Tensor":
    import torch

    return torch.cat([flat[start : start + _RUN] for start in starts.tolist()])


def _equal(sources: "Sources", one: str, other: str) -> bool:
    """Whether two sources hold the same numbers in every tensor; reads on only while they do."""
    import torch

    return all(
        sources.holds(one, name) == sources.holds(other, name)
        and (
            not sources.holds(one, name)
            or torch.equal(sources.tensor(one, name), sources.tensor(other, name))
        )
        for name in sources.shapes
    )


def _products(rows: np.ndarray) -> np.ndarray:
    """Inner products of all rows; not by a library that takes every core, which others work on."""
    return np.einsum("ik,jk->ij", rows, rows)


def _cosine(gram: np.ndarray, i: int, j: int) -> float:
    found = _ratio(float(gram[i, j]), math.sqrt(gram[i, i] * gram[j, j]))
    return max(-1.0, min(1.0, found))


def _ratio(over: float, under: float) -> float:
    return over / under if under > 0 else 0.0


def advise_on_kinship(found: Kinship, by_base: Sequence[str]) -> list[Advice]:
    """Experts that are the base, or each other, or nobody's child.

    Args:
        found: the kinship.
        by_base: the rules of the run file that work with deltas from the base.
    """
    rules = (
        f"{', '.join(by_base)} adds deltas to the base, and that one" if by_base else "its delta"
    )
    advice = [_of_equal(one, other, found.base) for one, other in found.equal]
    for name, distance in found.distances.items():
        cosine = found.to_base[name]
        if cosine < UNRELATED:
            advice.append(
                Advice(
                    f"'{name}' does not descend from the base (cosine of their weights {cosine:.2f}; "
                    f"of fine-tunes above 0.9): {rules} is no fine-tuning",
                    "name the model it was trained from as base, leave it out, or search stacks "
                    "(space.kind: path)",
                )
            )
        elif distance > FAR:
            advice.append(
                Advice(
                    f"'{name}' is far from the base (||delta|| is {distance:.2f} of ||base||; of "
                    "fine-tunes below 0.2): it was trained long, or from another base",
                    "check what it was trained from; allow small weights (weight: [0, 1])",
                )
            )
    return advice + _of_pairs(found)


def _of_equal(one: str, other: str, base: str | None) -> Advice:
    if base in (one, other):
        expert = other if one == base else one
        return Advice(
            f"expert '{expert}' is the base, weight for weight: its delta is 0 and its variables "
            "change nothing",
            f"correct the path in models.experts.{expert}, or leave it out",
        )
    return Advice(
        f"experts '{one}' and '{other}' are equal, weight for weight",
        f"correct the path in models.experts.{other}, or leave it out",
    )


def _of_pairs(found: Kinship) -> list[Advice]:
    advice: list[Advice] = []
    # Two that descend from elsewhere differ from this base by the same: that it is not theirs.
    strangers = {name for name, cosine in found.to_base.items() if cosine < UNRELATED}
    for (i, one), (j, other) in combinations(enumerate(found.names), 2):
        cosine = found.cosines[i][j]
        if (one, other) in found.equal:
            continue
        if found.base is None and cosine < UNRELATED:
            advice.append(
                Advice(
                    f"'{one}' and '{other}' share no ancestor (cosine of their weights {cosine:.2f}; "
                    "of fine-tunes of one base above 0.9): their average is neither",
                    "merge fine-tunes of one base, or search stacks (space.kind: path)",
                )
            )
        if found.base is not None and cosine > ALIKE and not strangers & {one, other}:
            advice.append(
                Advice(
                    f"'{one}' and '{other}' learnt the same (cosine of their deltas {cosine:.3f}): "
                    "their variables do the same twice",
                    "leave one of them out",
                )
            )
    return advice

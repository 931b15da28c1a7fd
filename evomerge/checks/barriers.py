"""Loss barriers: is the way from one source to another through worse models than both?

Frankle et al. 2020 (Linear Mode Connectivity and the Lottery Ticket Hypothesis): the barrier between
two models is the loss of models on the line between them above the mean of the ends. Fine-tunes of one
base usually have none; models that cannot be averaged have a high one.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from evomerge.checks.advice import Advice

MOST_PAIRS = 10
"""Pairs that are looked at, at most."""

SECONDS = 120.0
"""After which no further pair is begun."""

HIGH = 0.1
"""Share of the ends' loss above which a barrier is worth a warning, if its error does not explain it."""

Losses = Callable[[Sequence[str]], Sequence[float] | str]
"""The losses of the average of some sources, item by item (nats per token); or why there are none."""


@dataclass(frozen=True, slots=True)
class Barrier:
    """Between two sources.

    Attributes:
        pair: their names.
        value: the loss half way minus the mean of the ends' losses, nats per token, over all items;
            None: the model half way could not be asked.
        se: its standard error over the items.
        ends: the mean of the ends' losses.
        tasks: the same difference by task.
        failure: why there is no value; empty if there is.
    """

    pair: tuple[str, str]
    value: float | None
    se: float = 0.0
    ends: float = 0.0
    tasks: Mapping[str, float] | None = None
    failure: str = ""

    @property
    def high(self) -> bool:
        """Whether the average of the two is clearly worse than they are."""
        if self.value is None:
            return True
        return self.value > 2 * self.se and self.value > HIGH * self.ends


@dataclass(frozen=True)
class Barriers:
    """What was found.

    Attributes:
        pairs: barrier by barrier.
        losses: source -> task -> its mean loss.
        items: how many right answers every model was asked the loss of.
        skipped: pairs that were not looked at, for lack of time or because there are so many.
        without: task -> why it has no loss.
    """

    pairs: tuple[Barrier, ...]
    losses: Mapping[str, Mapping[str, float]]
    items: int
    skipped: int
    without: Mapping[str, str]

    def as_json(self) -> dict[str, Any]:
        """As `check --json` has it."""
        return {
            "pairs": [
                {
                    "pair": list(b.pair),
                    "value": b.value,
                    "se": b.se,
                    "ends": b.ends,
                    "tasks": dict(b.tasks or {}),
                    "failure": b.failure,
                }
                for b in self.pairs
            ],
            "losses": {name: dict(by_task) for name, by_task in self.losses.items()},
            "items": self.items,
            "skipped": self.skipped,
            "without": dict(self.without),
        }


def measure_barriers(
    experts: Sequence[str],
    base: str | None,
    tasks: Sequence[str],
    ask: Losses,
    without: Mapping[str, str],
    seconds: float = SECONDS,
) -> Barriers:
    """The barriers between experts; of a single one, between it and the base.

    Args:
        experts: their names.
        base: the base's name; None: there is none.
        tasks: the task of each item whose loss `ask` gives.
        ask: gives the losses.
        without: task -> why it has no loss.
        seconds: after which no further pair is begun.
    """
    names = [*([base] if base and len(experts) == 1 else []), *experts]
    pairs = list(combinations(names, 2))
    began = time.monotonic()
    alone: dict[str, Sequence[float] | str] = {}
    found: list[Barrier] = []
    for pair in pairs[:MOST_PAIRS] if tasks else []:
        if time.monotonic() - began > seconds:
            break
        for name in pair:
            if name not in alone:
                alone[name] = ask([name])
        found.append(_barrier(pair, alone, ask(pair), tasks))
    told = {
        name: _by_task(losses, tasks)
        for name, losses in alone.items()
        if losses and not isinstance(losses, str)
    }
    return Barriers(tuple(found), told, len(tasks), len(pairs) - len(found), without)


def _barrier(
    pair: tuple[str, str],
    alone: Mapping[str, Sequence[float] | str],
    middle: Sequence[float] | str,
    tasks: Sequence[str],
) -> Barrier:
    first, second = alone[pair[0]], alone[pair[1]]
    for losses in (first, second, middle):
        if isinstance(losses, str):
            return Barrier(pair, None, failure=losses)
    ends = [(float(a) + float(b)) / 2 for a, b in zip(first, second, strict=True)]
    gaps = [float(m) - end for m, end in zip(middle, ends, strict=True)]
    count, value = len(gaps), sum(gaps) / len(gaps)
    spread = sum((gap - value) ** 2 for gap in gaps) / max(1, count - 1)
    error = math.sqrt(spread / count) if count > 1 else abs(value)
    return Barrier(pair, value, error, sum(ends) / count, _by_task(gaps, tasks))


def _by_task(values: Sequence[float], tasks: Sequence[str]) -> dict[str, float]:
    grouped: dict[str, list[float]] = {}
    for task, value in zip(tasks, values, strict=True):
        grouped.setdefault(task, []).append(float(value))
    return {task: sum(group) / len(group) for task, group in grouped.items()}


def advise_on_barriers(found: Barriers) -> list[Advice]:
    """Pairs whose average is clearly worse than they are."""
    advice = [
        Advice(
            f"the average of '{barrier.pair[0]}' and '{barrier.pair[1]}' could not be asked "
            f"({barrier.failure})",
            "use engine.dtype: bfloat16 or float32, and check that both descend from one base",
        )
        for barrier in found.pairs
        if barrier.value is None
    ]
    high = [
        f"'{barrier.pair[0]}' and '{barrier.pair[1]}' ({barrier.value:.2f} ± {barrier.se:.2f})"
        for barrier in found.pairs
        if barrier.value is not None and barrier.high
    ]
    if high:
        advice.append(
            Advice(
                "a loss barrier, in nats per token, makes the plain average clearly worse than the two "
                f"it is made of: {', '.join(high)}",
                "let the search use small weights (weight: [0, 0.6]) and sparse rules (dare_ties, "
                "ties), or leave one of them out",
            )
        )
    return advice

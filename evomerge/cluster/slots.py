"""Slots: places for evaluators, and which of them suits a job that failed elsewhere."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from evomerge.cluster.jobs import Attempt

ELSEWHERE_SECONDS = 30.0
"""How long a job that failed waits, at most, for an evaluator that it was not tried on."""


class Phase(Enum):
    """What a slot's actor is doing."""

    PLACING = auto()
    """Waiting for a node with room, or being started there. No deadline: nodes come when they come."""
    BUILDING = auto()
    IDLE = auto()
    WORKING = auto()
    GIVEN_UP = auto()
    """There is no actor any more: its evaluator cannot be built."""


@dataclass(slots=True, eq=False)
class Slot:
    """A place for one evaluator.

    Attributes:
        name: `evaluator-N`; stays when the evaluator is replaced.
        phase: what its actor is doing.
        actor: the actor, if it has one.
        call: what the actor works on: a call of that phase.
        since: when the call began, in seconds of `time.monotonic`.
        attempt: the job it works on, while it works.
        node: id of the node the actor is on, or was on last.
        host: that machine's name.
        failed_builds: in a row.
        failures: evaluations of this actor that failed, in a row.
        finished: evaluations of this actor that are over.
    """

    name: str
    phase: Phase = Phase.GIVEN_UP
    actor: Any = None
    call: Any = None
    since: float = 0.0
    attempt: Attempt | None = None
    node: str = ""
    host: str = ""
    failed_builds: int = 0
    failures: int = 0
    finished: int = 0


def suited(attempt: Attempt, slots: Iterable[Slot], now: float) -> Slot | None:
    """The idle slot on which to try a job again; None: wait for a better one.

    Best is an evaluator, on a node, that it was not tried on; next best a new evaluator on an old
    node. While a better one is busy the job waits for it, but not for long.

    Args:
        attempt: the job, and where it was tried.
        slots: of all evaluators.
        now: seconds of `time.monotonic`.
    """

    def repeats(slot: Slot) -> tuple[bool, bool]:
        return slot.name in attempt.tried, slot.node in attempt.tried

    slots = list(slots)
    idle = [slot for slot in slots if slot.phase is Phase.IDLE]
    if not idle:
        return None
    best = min(idle, key=repeats)
    busy = [slot for slot in slots if slot.phase in (Phase.BUILDING, Phase.WORKING)]
    patient = now - attempt.since < ELSEWHERE_SECONDS
    if patient and any(repeats(slot) < repeats(best) for slot in busy):
        return None
    return best

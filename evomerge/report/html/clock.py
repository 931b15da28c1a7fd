"""When a run worked: its sessions, without the hours between them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

BEGINS = ("started", "resumed")
ENDS = ("stopped", "finished")


@dataclass(frozen=True)
class Timed:
    """An evaluation, as it took time.

    Attributes:
        recipe_hash, split, part: what was evaluated.
        outcome: how it ended.
        merge, score: seconds.
        worker: which evaluator.
        finished: when it was recorded, seconds since 1970.
        answers: items answered for it.
        reason: why it failed; empty where it did not.
    """

    recipe_hash: str
    split: str
    part: int
    outcome: str
    merge: float
    score: float
    worker: str
    finished: float
    answers: int
    reason: str

    @property
    def seconds(self) -> float:
        """How long its worker was busy with it."""
        return self.merge + self.score


class Clock:
    """Time at work.

    Args:
        sessions: begin and end of each, seconds since 1970, in order.
    """

    def __init__(self, sessions: Sequence[tuple[float, float]]) -> None:
        self.sessions = tuple(sessions)

    @property
    def total(self) -> float:
        """Seconds of all sessions."""
        return sum(end - begin for begin, end in self.sessions)

    def at_work(self, moment: float) -> float:
        """Seconds of work before `moment` (seconds since 1970)."""
        return sum(max(0.0, min(moment, end) - begin) for begin, end in self.sessions)


def clock_of(events: Iterable[tuple[str, str]], finished: Iterable[float]) -> Clock:
    """The sessions of a run.

    A session that was killed has no end on record: its last evaluation stands for it.

    Args:
        events: when (ISO 8601) and of which kind, in order.
        finished: when evaluations were recorded, seconds since 1970.
    """
    marks = [(seconds(at), kind) for at, kind in events]
    begins = [at for at, kind in marks if kind in BEGINS]
    known = sorted([*(at for at, kind in marks if kind in ENDS), *finished])
    sessions: list[tuple[float, float]] = []
    for number, begin in enumerate(begins):
        before = begins[number + 1] if number + 1 < len(begins) else float("inf")
        within = [at for at in known if begin <= at < before]
        sessions.append((begin, within[-1] if within else begin))
    return Clock(sessions)


def seconds(text: str) -> float:
    """A moment (ISO 8601) as seconds since 1970."""
    return datetime.fromisoformat(text).timestamp()

"""The crew: evaluators in Ray actors, built where there is room, replaced when they fail."""

import logging
import math
import time
from typing import Any, Literal

from evomerge.cluster.jobs import USER_ERRORS, EvaluatorBuildError, EvaluatorCallError
from evomerge.cluster.ray_session import RaySession
from evomerge.cluster.room import Share, capacity, evaluators_wanted
from evomerge.cluster.slots import Phase, Slot

logger = logging.getLogger(__name__)

_BUILDS = 3
"""How often in a row an evaluator may fail to be built."""

_LOOK_SECONDS = 2.0
"""How often a cluster is asked for its nodes (a call of a millisecond)."""

_PATIENT_SECONDS, _ALONE_SECONDS = 30.0, 300.0
"""When it is said that every evaluator waits for room, and how often."""


class Crew:
    """The evaluators of one executor.

    An evaluator is *placed* (its actor waits for room and starts), *built*, and then idle or at
    work. Replacing one means killing its actor and placing another. The wait for room has no end
    and counts for nothing: nodes come and go. A build that fails three times in a row is given up.

    Args:
        session: Ray.
        make_evaluator: what `session.shared` returned.
        evaluators: how many, or `auto`.
        share: what each reserves.
        build_seconds: longest time a build may take; None: as long as it likes.
        elastic: nodes may join and leave; with `auto`, evaluators with them.

    Raises:
        InputError: more evaluators than the cluster has room for.
    """

    def __init__(
        self,
        session: RaySession,
        make_evaluator: Any,
        evaluators: int | Literal["auto"],
        share: Share,
        build_seconds: float | None,
        *,
        elastic: bool,
    ) -> None:
        self._session = session
        self._make_evaluator = make_evaluator
        self._share = share
        self._build_seconds = build_seconds
        self._grows = elastic and evaluators == "auto"
        nodes = session.nodes()
        self._room = capacity(nodes.values(), share)
        self._next_look = time.monotonic() + _LOOK_SECONDS
        self._said_alone = -math.inf
        self._names = 0
        self._built = False
        self.slots: list[Slot] = []
        self._add(
            max(self._room, 1)  # where nodes come later, one waits for the first
            if self._grows
            else evaluators_wanted(list(nodes.values()), evaluators, share)
        )

    @property
    def workers(self) -> int:
        """Evaluators that work or are being built: as far as the cluster has room for them."""
        return min(self._room, sum(slot.phase is not Phase.GIVEN_UP for slot in self.slots))

    @property
    def given_up(self) -> bool:
        """Whether no evaluator is left, nor being built."""
        return all(slot.phase is Phase.GIVEN_UP for slot in self.slots)

    def idle(self) -> list[Slot]:
        """Evaluators without a job."""
        return [slot for slot in self.slots if slot.phase is Phase.IDLE]

    def working(self) -> list[Slot]:
        """Evaluators with a job."""
        return [slot for slot in self.slots if slot.phase is Phase.WORKING]

    def due(self, slot: Slot) -> float:
        """When the slot's build is overdue, in seconds of `time.monotonic`; infinity: never."""
        if slot.phase is not Phase.BUILDING or self._build_seconds is None:
            return math.inf
        return slot.since + self._build_seconds

    def advance(self, slot: Slot) -> None:
        """Take the next step of a slot that was placed, or built.

        Raises:
            InputError, FitnessError: the build failed, and the user has to mend it.
            EvaluatorBuildError: it failed once too often, and no evaluator is left.
        """
        try:
            value = self._session.result(slot.call)
        except EvaluatorCallError as failure:
            if isinstance(failure.cause, USER_ERRORS) and not self._built:
                raise failure.cause from None  # later the same words have another cause
            if failure.node_lost:
                logger.warning("%s: its node left while it was being built", slot.name)
                self.replace(slot)
            else:
                self._build_failed(slot, failure.reason)
            return
        if slot.phase is Phase.PLACING:
            slot.node, slot.host = value.node, value.host
            slot.phase, slot.since = Phase.BUILDING, time.monotonic()
            slot.call = self._session.build(slot.actor)
        else:
            slot.phase, slot.call, slot.failed_builds = Phase.IDLE, None, 0
            self._built = True

    def overdue(self, slot: Slot) -> None:
        """Give up on a build that takes too long (see `advance` for what it raises)."""
        self._build_failed(slot, f"not built after {self._build_seconds:g} s")

    def replace(self, slot: Slot) -> None:
        """Kill the slot's actor, whatever it is doing, and place another."""
        self._dismiss(slot)
        slot.actor = self._session.actor(self._make_evaluator, self._share)
        slot.phase, slot.since = Phase.PLACING, time.monotonic()
        slot.failures = slot.finished = 0
        slot.call = self._session.where(slot.actor)

    def look(self, now: float) -> float:
        """Look at the cluster if it is time to, and adapt to the room there is.

        Args:
            now: seconds of `time.monotonic`.

        Returns:
            Seconds until the next look.
        """
        if now >= self._next_look:
            self._next_look = now + _LOOK_SECONDS
            nodes = self._session.nodes()
            self._room = capacity(nodes.values(), self._share)
            if self._grows:
                self._shrink(nodes)
                self._add(max(self._room, 1) - len(self.slots))
            self._tell_if_alone(now)
        return self._next_look - now

    def close(self) -> tuple[list[Any], list[Any]]:
        """Leave the slots empty; the actors that were idle, and the others."""
        idle = [slot.actor for slot in self.idle()]
        busy = [slot.actor for slot in self.slots if slot.call is not None]
        self.slots = []
        return idle, busy

    def _add(self, count: int) -> None:
        for _ in range(count):
            slot = Slot(f"evaluator-{self._names}")
            self._names += 1
            self.slots.append(slot)
            self.replace(slot)

    def _shrink(self, nodes: Any) -> None:
        """Drop what was given up on nodes that left, and those that wait for room in vain."""
        gone = [s for s in self.slots if s.phase is Phase.GIVEN_UP and s.node not in nodes]
        vain = [s for s in self.slots if s.phase is Phase.PLACING]
        able = sum(slot.phase is not Phase.GIVEN_UP for slot in self.slots)
        surplus = min(len(self.slots) - len(gone) - max(self._room, 1), able - 1)
        for slot in gone + vain[: max(0, surplus)]:
            self._dismiss(slot)
            self.slots.remove(slot)

    def _dismiss(self, slot: Slot) -> None:
        if slot.actor is not None:
            self._session.kill(slot.actor)
        slot.actor = slot.call = slot.attempt = None
        slot.phase = Phase.GIVEN_UP

    def _build_failed(self, slot: Slot, reason: str) -> None:
        slot.failed_builds += 1
        logger.warning("%s could not be built (%d): %s", slot.name, slot.failed_builds, reason)
        if slot.failed_builds < _BUILDS:
            self.replace(slot)
            return
        self._dismiss(slot)
        if self.given_up:
            raise EvaluatorBuildError(f"{slot.name} could not be built {_BUILDS} times: {reason}")

    def _tell_if_alone(self, now: float) -> None:
        """Say now and then that everybody waits for room."""
        able = [slot for slot in self.slots if slot.phase is not Phase.GIVEN_UP]
        waiting = all(
            slot.phase is Phase.PLACING and now - slot.since >= _PATIENT_SECONDS for slot in able
        )
        if waiting and now - self._said_alone >= _ALONE_SECONDS:
            self._said_alone = now
            taken = "what there is is taken" if self._room else "a node with enough has to join"
            logger.warning(
                "every evaluator waits for %g CPU(s) and %g GPU(s) on one node: %s",
                self._share.cpus,
                self._share.gpus,
                taken,
            )

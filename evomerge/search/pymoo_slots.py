"""Algorithms on pymoo whose population is a row of slots: DE, PSO, MOEA/D. (Slots of a population;
those of a list in a genome are `search_spaces.slots`.)

A trial belongs to the slot it was made for: the target vector it may replace, the particle that it
moves, the direction in which it looks for a compromise. So slots can be served one by one, in any
order. A failed trial leaves its slot as it was. Choices without an order are rounded: the algorithm
goes on in [0, 1], and what is evaluated is the cell that it is in (Lampinen and Zelinka 1999).
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from pymoo.algorithms.moo.moead import MOEAD
from pymoo.algorithms.soo.nonconvex.de import DE
from pymoo.algorithms.soo.nonconvex.pso import PSO
from pymoo.core.individual import Individual
from pymoo.core.population import Population
from pymoo.core.termination import NoTermination

from evomerge.search.edits import random_points
from evomerge.search.pending import Pending, distinct, random_start
from evomerge.search.pymoo_operators import operators, redraw
from evomerge.search.pymoo_tools import directions, evaluated, unit_cube
from evomerge.search.searcher import Array, Problem


class Slots(Protocol):
    """One of pymoo's algorithms, served slot by slot. Started by its first population."""

    def trials(self, slots: Sequence[int]) -> list[Individual]:
        """A new individual for each of these slots."""
        ...

    def learn(self, slots: Sequence[int], trials: Population) -> None:
        """What evaluated trials, each made for its slot, change; no slot twice."""
        ...

    def failed(self, slots: Sequence[int]) -> None:
        """The trials for these slots failed."""
        ...

    def members(self) -> Array:
        """[slots, variables]: the best point of each slot."""
        ...


Start = Callable[[Problem, Array, Array, Array, int], Slots]
"""Slots from a first population: problem, points, losses, violations, seed."""


def _started(algorithm: Any, problem: Problem, seed: int, losses: Array, violations: Array) -> None:
    cube = unit_cube(problem)
    algorithm.setup(cube, termination=NoTermination(), seed=seed, verbose=False)
    algorithm.tell(infills=evaluated(cube, algorithm.ask(), losses, violations))


class DifferentialEvolution:
    """DE/best/1/bin, F 0.5, CR 0.5: a trial replaces its target if it is better. Storn, Price 1997.

    (pymoo's own steady state makes trials for the first targets only; so
    a whole generation of trials is made, and those that were asked for are used.)
    """

    def __init__(
        self, problem: Problem, points: Array, losses: Array, violations: Array, seed: int
    ) -> None:
        start: Any = points
        variant = {"variant": "DE/best/1/bin", "CR": 0.5}
        self._algorithm: Any = DE(pop_size=len(points), sampling=start, **variant)
        _started(self._algorithm, problem, seed, losses, violations)

    def trials(self, slots: Sequence[int]) -> list[Individual]:
        """Target and donor vectors, crossed."""
        made = self._algorithm.ask()
        return [made[slot] for slot in slots]

    def learn(self, slots: Sequence[int], trials: Population) -> None:
        """Replace the targets that were not better."""
        trials.set("index", np.array(slots))
        self._algorithm.tell(infills=trials)

    def failed(self, slots: Sequence[int]) -> None:
        """The targets stay."""

    def members(self) -> Array:
        """The targets."""
        return self._algorithm.pop.get("X").astype(float)


class ParticleSwarm:
    """Particles drawn to their own best and to the swarm's. Kennedy and Eberhart 1995.

    Inertia and attraction adapt to how far the swarm has gathered (Zhan et al. 2009, Adaptive
    Particle Swarm Optimization), once per move of the whole swarm, not per particle.
    """

    def __init__(
        self, problem: Problem, points: Array, losses: Array, violations: Array, seed: int
    ) -> None:
        start: Any = points
        self._algorithm: Any = PSO(pop_size=len(points), sampling=start)
        self._problem, self._moves = problem, 0
        _started(self._algorithm, problem, seed, losses, violations)
        self._algorithm.ask()  # notes the best of the swarm, which late points may come before

    def trials(self, slots: Sequence[int]) -> list[Individual]:
        """Where these particles move, their velocities with them; choices are redrawn at times.

        (Without that a swarm is of one mind about an option as soon as its particles are near.)
        """
        made = self._algorithm.ask()
        if any(self._problem.levels):
            points = redraw(made.get("X"), self._problem.levels, self._algorithm.random_state)
            made.set("X", points)
        return [made[slot] for slot in slots]

    def learn(self, slots: Sequence[int], trials: Population) -> None:
        """Move these particles; the others stay where they are."""
        swarm = self._algorithm.particles.copy()
        for slot, trial in zip(slots, trials, strict=True):
            if trial.get("V") is None:  # a random point of the start that came late
                trial.set("V", np.zeros(self._problem.variables))
            swarm[slot] = trial
        before = self._moves // len(swarm)
        self._moves += len(trials)
        self._algorithm.adaptive = self._moves // len(swarm) > before
        self._algorithm.tell(infills=swarm)

    def failed(self, slots: Sequence[int]) -> None:
        """These particles stay where they are and stop: they were on their way out."""
        for slot in slots:
            self._algorithm.particles[slot].set("V", np.zeros(self._problem.variables))

    def members(self) -> Array:
        """Each particle's best point so far."""
        return self._algorithm.pop.get("X").astype(float)


class Decomposition:
    """MOEA/D: a direction per slot, mated with and improving its neighbours. Zhang and Li 2007.

    Losses are divided by their spread over the first population (section V-G): a direction between
    an accuracy and a number of tokens means something. Neighbourhoods are a fifth of the slots, at
    least 3. Without constraints, as in the paper.
    """

    def __init__(
        self, problem: Problem, points: Array, losses: Array, violations: Array, seed: int
    ) -> None:
        start: Any = points
        self._algorithm: Any = MOEAD(
            ref_dirs=directions(problem.objectives, len(points)),
            n_neighbors=max(3, len(points) // 5),
            sampling=start,
            **operators(problem, 20, 1.0),
        )
        width = np.ptp(losses, axis=0)
        self._width = np.where(width > 0, width, 1.0)
        _started(self._algorithm, problem, seed, losses / self._width, violations)

    @staticmethod
    def population(problem: Problem, wanted: int) -> int:
        """The number of directions that comes nearest below `wanted` and holds the initial points."""
        return len(directions(problem.objectives, wanted, len(problem.initial)))

    def trials(self, slots: Sequence[int]) -> list[Individual]:
        """A child of two neighbours of each slot (of any two slots, one time in ten)."""
        return [self._child(slot) for slot in slots]

    def learn(self, slots: Sequence[int], trials: Population) -> None:
        """Each replaces the neighbours for whose directions it is better."""
        algorithm = self._algorithm
        trials.set("F", trials.get("F") / self._width)
        algorithm.ideal = np.min(np.vstack([algorithm.ideal, trials.get("F")]), axis=0)
        for slot, trial in zip(slots, trials, strict=True):
            algorithm._replace(slot, trial)

    def failed(self, slots: Sequence[int]) -> None:
        """Nothing changes."""

    def members(self) -> Array:
        """What each direction has found."""
        return self._algorithm.pop.get("X").astype(float)

    def _child(self, slot: int) -> Individual:
        # the body of pymoo's loop over slots (MOEAD._next), which waits for each child's losses;
        # its ParallelMOEAD gives children to other slots than their parents'
        algorithm = self._algorithm
        shared: dict[str, Any] = {"random_state": algorithm.random_state}
        parents = algorithm.selection.do(
            algorithm.problem, algorithm.pop, 1, 2, neighbors=[algorithm.neighbors[slot]], **shared
        )
        mate = algorithm.mating.do
        return mate(
            algorithm.problem, algorithm.pop, 1, parents=parents, n_max_iterations=1, **shared
        )[0]


class SlotGenerations:
    """Generations of slots: a trial for each, and every result compared when all are in.

    The first generation has to fill the slots: those of its points that failed are replaced by
    random ones until as many succeeded as there are slots.
    """

    def __init__(self, problem: Problem, population: int, start: Start) -> None:
        self._problem, self._start = problem, start
        self._generator = np.random.default_rng(problem.seed)
        self._slots: Slots | None = None
        self._cube = unit_cube(problem)
        self._points = random_start(problem, self._generator, population)
        self._losses = np.full((population, problem.objectives), np.nan)
        self._violations = np.zeros((population, problem.constraints))
        self._missing = np.ones(population, dtype=bool)
        self._trials: Any = None

    def ask(self) -> Array:
        """[batch, variables]: a trial per slot; at first, points for the slots that are empty."""
        if self._slots is None:
            return self._points[self._missing]
        self._trials = Population.create(*self._slots.trials(range(len(self._points))))
        points, members = self._trials.get("X").astype(float), self._slots.members()
        self._trials.set("X", distinct(points, self._problem, self._generator, members))
        return points

    def tell(self, losses: Array, violations: Array) -> None:
        """Fill slots, or let those trials that succeeded compete for theirs."""
        succeeded = ~np.isnan(losses).any(axis=1)
        if self._slots is not None:
            self._slots.failed(np.flatnonzero(~succeeded).tolist())
            if succeeded.any():
                told = self._trials[succeeded]
                evaluated(self._cube, told, losses[succeeded], violations[succeeded])
                self._slots.learn(np.flatnonzero(succeeded).tolist(), told)
            return
        self._losses[self._missing], self._violations[self._missing] = losses, violations
        self._missing = np.isnan(self._losses).any(axis=1)
        if self._missing.any():
            missing = int(self._missing.sum())
            self._points[self._missing] = random_points(self._problem, self._generator, missing)
            self._points = distinct(self._points, self._problem, self._generator)
            return
        seed = int(self._generator.integers(2**31))
        self._slots = self._start(self._problem, self._points, self._losses, self._violations, seed)


class SteadySlots:
    """Slots that are served whenever there is an ask: the one idle for longest, trials pending least.

    Until `population` candidates have succeeded, in whatever order, asks are the initial points and
    then random ones; of these, what comes later competes for a slot like a trial.
    """

    def __init__(self, problem: Problem, population: int, start: Start) -> None:
        self._problem, self._population, self._start = problem, population, start
        self._generator = np.random.default_rng(problem.seed)
        self._cube = unit_cube(problem)
        self._slots: Slots | None = None
        self._pending: Pending[tuple[int, Individual] | None] = Pending(problem, self._generator)
        self._known = list(problem.initial)
        self._first: list[tuple[Array, Array, Array]] = []
        self._served = [0] * population
        self._turn = 0

    @property
    def batch(self) -> int:
        """The population."""
        return self._population

    def ask(self) -> Array:
        """[variables]: a trial for a slot, or a random point while there are none."""
        return self._pending.ask(self._draw)

    def tell(self, number: int, losses: Array, violations: Array) -> None:
        """Let the point compete for its slot, if it did not fail."""
        point, note = self._pending.tell(number)
        if np.isnan(losses).any():
            if note and self._slots:
                self._slots.failed([note[0]])
            return
        if self._slots is None:
            self._first.append((point, losses, violations))
            if len(self._first) == self._population:
                points, scores, broken = map(np.stack, zip(*self._first, strict=True))
                seed = int(self._generator.integers(2**31))
                self._slots = self._start(self._problem, points, scores, broken, seed)
                self._first.clear()
            return
        slot, trial = note or (self._idle(), Individual())
        trial.set("X", point)
        told = evaluated(self._cube, Population.create(trial), losses[None], violations[None])
        self._slots.learn([slot], told)

    def _draw(self) -> tuple[Array, tuple[int, Individual] | None]:
        if self._known:
            return self._known.pop(0), None
        if self._slots is None:
            return random_points(self._problem, self._generator, 1)[0], None
        slot = self._idle()
        [trial] = self._slots.trials([slot])
        point = np.array(trial.get("X"), dtype=float)[None]
        members = self._slots.members()
        return distinct(point, self._problem, self._generator, members)[0], (slot, trial)

    def _idle(self) -> int:
        """The slot with the fewest trials pending, of these the one served longest ago."""
        busy = [0] * self._population
        for note in self._pending.notes():
            if note is not None:
                busy[note[0]] += 1
        self._turn += 1
        slot = min(range(self._population), key=lambda s: (busy[s], self._served[s]))
        self._served[slot] = self._turn
        return slot

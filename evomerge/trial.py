"""A trial: one candidate in the engine, answering rung after rung."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence

from evomerge.asking import Asking
from evomerge.evaluation import Evaluation, Outcome
from evomerge.judging import Judge
from fitness.engine import Engine
from fitness.estimate import Estimate
from fitness.items import Reply, Request, Response
from fitness.objectives import SPEED
from fitness.objectives.speed import Timing, speed_estimate, tokens_handled
from search_spaces.errors import InputError
from search_spaces.neighbours import neighbours
from search_spaces.recipe import Recipe

Costs = Callable[[Recipe, Collection[str]], Mapping[str, float]]
"""Costs of what a recipe makes, of those names: what `RecipeCosts.of` tells."""


def no_costs(recipe: Recipe, names: Collection[str]) -> Mapping[str, float]:
    """Nothing is known: for judges that ask for no cost of the model."""
    return {}


class Trial:
    """Merges a candidate when its first answer is needed, and judges it by its answers.

    Args:
        engine: holds the model.
        judge: compiled tasks.
        recipe: the candidate.
        split: whose items are asked. On test items it is merged exactly, as it is exported; elsewhere
            with thresholds that are looked up.
        asking: which items, and when to stop.
        costs: knows what the model costs, by its recipe.
    """

    def __init__(
        self,
        engine: Engine,
        judge: Judge,
        recipe: Recipe,
        split: str,
        asking: Asking,
        costs: Costs = no_costs,
    ) -> None:
        self._engine, self._judge = engine, judge
        self._recipe, self._split, self._asking = recipe, split, asking
        self._costs = costs
        self._of_model: dict[str, Estimate] = {}
        self._timings: list[Timing] = []
        self._timed = [s.name for s in judge.specs if s.of_model and s.cost == SPEED]
        self._answered: dict[int, Response] = {}
        self._merge_seconds = self._score_seconds = 0.0
        self._answers = 0
        self._agreement: dict[tuple[str, int], float] = {}
        self._loaded = False
        self.merging = False
        self.so_far: Evaluation | None = None

    def run(self) -> Evaluation:
        """Answer until the last rung, or the first after which the bar is not passed.

        Raises:
            Exception: whatever the engine or the scoring does; `merging` tells which, and `so_far` is
                what the rungs before it came to.
        """
        rungs = self._asking.rungs or (range(self._judge.size(self._split)),)
        objectives: dict[str, Estimate] = {}
        self._ask_costs()
        for rung in rungs:
            self._climb(rung)
            self._clock()
            objectives = self._judge.measure(
                self._split, self._answered, self._asking, self._agreement, self._of_model
            )
            self.so_far = self._evaluation(objectives)
            if self._asking.bar and not self._asking.bar.passed(objectives):
                break
        assert self.so_far is not None
        return self.so_far

    def _ask_costs(self) -> None:
        """The costs that follow from the recipe; a recipe that has none cannot be merged either."""
        names = [spec.cost for spec in self._judge.specs if spec.of_model and spec.cost != SPEED]
        self.merging = True
        found = self._costs(self._recipe, names) if names else {}
        self.merging = False
        self._of_model = {name: Estimate(value, 0.0) for name, value in found.items()}

    def _clock(self) -> None:
        """The speed so far, of this time's answers and of what is known of earlier ones'."""
        if self._timed:
            before = self._asking.before.get(self._timed[0])
            self._of_model[SPEED] = speed_estimate(self._timings, before)

    def _evaluation(self, objectives: dict[str, Estimate]) -> Evaluation:
        positions = tuple(sorted(self._answered))
        return Evaluation(
            outcome=Outcome.SCORED,
            objectives=objectives,
            responses=tuple(self._answered[position] for position in positions),
            merge_seconds=self._merge_seconds,
            score_seconds=self._score_seconds,
            positions=positions,
            items=len(positions),
            answers=self._answers,
        )

    def _climb(self, rung: Sequence[int]) -> None:
        """Have a rung's items answered, but for those whose answers are known."""
        known = self._asking.known
        self._answered |= {position: known[position] for position in rung if position in known}
        fresh = [position for position in rung if position not in known]
        if not fresh:
            return
        if not self._loaded:
            self._load(self._recipe)
        requests = self._judge.requests(self._split, fresh)
        began = time.perf_counter()
        replies = self._engine.answer(requests)
        if self._timed:
            seconds = time.perf_counter() - began
            tokens = tokens_handled(self._engine, requests, replies)
            self._timings.append(Timing(tokens, seconds))
        responses = self._judge.responses(self._split, fresh, replies)
        self._answered |= dict(zip(fresh, responses, strict=True))
        self._answers += len(fresh)
        self._score_seconds += time.perf_counter() - began
        if self._judge.step is not None:
            others = self._ask_neighbours(requests, self._judge.step) or [replies]
            self._agreement |= self._judge.agreement(self._split, fresh, replies, others)
            self._loaded = False

    def _ask_neighbours(self, requests: list[Request], step: float) -> list[Sequence[Reply]]:
        """Their replies; none where there is nothing to merge less of, as in a source alone."""
        try:
            recipes = neighbours(self._recipe, step)
        except InputError:
            return []
        found: list[Sequence[Reply]] = []
        for recipe in recipes:
            self._load(recipe)
            began = time.perf_counter()
            found.append(self._engine.answer(requests))
            self._score_seconds += time.perf_counter() - began
        return found

    def _load(self, recipe: Recipe) -> None:
        from evomerge.merge.weights import Exactly

        began = time.perf_counter()
        self.merging = True
        self._engine.load(Exactly(recipe) if self._split == "test" else recipe)
        self.merging = False
        self._loaded = True
        self._merge_seconds += time.perf_counter() - began

"""A trial: one candidate in the engine, answering rung after rung."""

import time
from collections.abc import Sequence

from evomerge.asking import Asking
from evomerge.evaluation import Evaluation, Outcome
from evomerge.judging import Judge
from fitness.engine import Engine
from fitness.estimate import Estimate
from fitness.items import Reply, Request, Response
from search_spaces.errors import InputError
from search_spaces.neighbours import neighbours
from search_spaces.recipe import Recipe


class Trial:
    """Merges a candidate when its first answer is needed, and judges it by its answers.

    Args:
        engine: holds the model.
        judge: compiled tasks.
        recipe: the candidate.
        split: whose items are asked. On test items it is merged exactly, as it is exported; elsewhere
            with thresholds that are looked up.
        asking: which items, and when to stop.
    """

    def __init__(
        self, engine: Engine, judge: Judge, recipe: Recipe, split: str, asking: Asking
    ) -> None:
        self._engine, self._judge = engine, judge
        self._recipe, self._split, self._asking = recipe, split, asking
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
        for rung in rungs:
            self._climb(rung)
            objectives = self._judge.measure(
                self._split, self._answered, self._asking, self._agreement
            )
            self.so_far = self._evaluation(objectives)
            if self._asking.bar and not self._asking.bar.passed(objectives):
                break
        assert self.so_far is not None
        return self.so_far

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
        began = time.perf_counter()
        requests = self._judge.requests(self._split, fresh)
        replies = self._engine.answer(requests)
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

"""The dry run: the real engine on real items, for two candidates that are not recorded."""

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from evomerge.asking import Asking
from evomerge.checks.advice import Advice
from evomerge.checks.barriers import Barriers, advise_on_barriers, measure_barriers
from evomerge.checks.dry_failures import refusal, remedied
from evomerge.checks.losses import LOSSES, GoldAnswers, ObserverFactory, gold_answers, losses_of
from evomerge.cluster.jobs import Executor, Job
from evomerge.config import RunFile
from evomerge.evaluation import Evaluation, Outcome
from evomerge.evaluator import EvaluatorFactory
from evomerge.search.algorithms import build_searcher
from evomerge.search.baselines import average
from evomerge.search.driver import problem_of
from evomerge.search.plan import Plan
from fitness.items import Response
from search_spaces.space import from_unit

if TYPE_CHECKING:
    from collections.abc import Callable

    from evomerge.preflight import Prepared
    from search_spaces.recipe import Recipe

FIRST_ITEMS = 16
"""Search items that candidates answer at first, while all is compiled and looked up that is needed
later on (but one of each task)."""

SECONDS = 20.0
"""What answering may take when it is timed."""

CUT_OFF = 0.25
"""Share of a task's answers that are cut off from which on it is worth a warning."""

UNPARSED = 0.75
"""Share of a task's answers in which no answer is found, likewise."""


@dataclass(frozen=True, slots=True)
class DryCandidate:
    """A candidate of the dry run.

    Attributes:
        name: of the starting point, or `random`.
        merge_seconds: to merge it and write it into the engine.
        score_seconds: to answer and score its items.
        items: how many it answered.
        scores: task -> mean score of its answers.
        truncated: task -> share of answers cut off at the limit of tokens.
        unparsed: task -> share of answers in which the task's filter found nothing.
        failure: why it could not be scored; empty if it was.
    """

    name: str
    merge_seconds: float
    score_seconds: float
    items: int
    scores: Mapping[str, float]
    truncated: Mapping[str, float]
    unparsed: Mapping[str, float]
    failure: str = ""


@dataclass(frozen=True)
class DryRun:
    """What the dry run found.

    Attributes:
        start_seconds: until the engine had answered its first request.
        candidates: a starting point of the search, then a random one.
        barriers: between the sources.
        seconds: in all.
    """

    start_seconds: float
    candidates: tuple[DryCandidate, ...]
    barriers: Barriers
    seconds: float

    @property
    def timed(self) -> DryCandidate:
        """Whose times are like those to come: the last that was scored."""
        return [c for c in self.candidates if not c.failure][-1]

    def as_json(self) -> dict[str, Any]:
        """As `check --json` has it, without the barriers."""
        return {
            "start_seconds": self.start_seconds,
            "seconds": self.seconds,
            "candidates": [asdict(candidate) for candidate in self.candidates],
        }


def run_dry(prepared: "Prepared", say: "Callable[[str], None]") -> DryRun:
    """Start one evaluator as the run would, have two candidates answer a sample of the search items,
    and measure barriers. Nothing is recorded.

    Args:
        prepared: the run file, thoroughly checked.
        say: told what is going on.

    Raises:
        InputError, FitnessError: the engine does not start, or the starting point could not be scored:
            out of memory, out of time, logits that are not finite.
        EvaluatorBuildError: the same for a reason that is no input's.
    """
    from evomerge.session import executor_for

    began = time.monotonic()
    gold = _gold(prepared)
    factory = ObserverFactory(
        EvaluatorFactory(
            prepared.config,
            prepared.folder,
            prepared.folders,
            prepared.banks,
            layers=prepared.layers,
        ),
        gold,
    )
    say("dry run: starting one evaluator")
    started = time.monotonic()
    with remedied(prepared.config), closing(executor_for(_of_one(prepared.config), factory)) as ex:
        trials = _Trials(prepared, ex, started)
        first, second = _recipes(prepared)
        found = [trials.candidate(*first, FIRST_ITEMS), trials.candidate(*second, FIRST_ITEMS)]
        if not found[1].failure:
            rate = found[1].score_seconds / max(1, found[1].items)
            most = max(FIRST_ITEMS, int(SECONDS / max(rate, 1e-9)))
            found[1] = trials.candidate(*second, most)  # its rule is known by now
        say("dry run: loss barriers")
        barriers = trials.barriers(gold)
    return DryRun(trials.start_seconds, tuple(found), barriers, time.monotonic() - began)


class _Trials:
    """Jobs on one evaluator, one after the other."""

    def __init__(self, prepared: "Prepared", executor: Executor, began: float) -> None:
        self._prepared, self._executor = prepared, executor
        self._began, self._jobs = began, 0
        self.start_seconds = 0.0

    def candidate(self, name: str, recipe: "Recipe", most: int) -> DryCandidate:
        """Have a candidate scored on a sample of the search items.

        Raises:
            InputError, EvaluatorBuildError: it failed, and so would others.
        """
        first = self._jobs == 0
        asking = Asking(rungs=(sample(self._prepared, most),))
        evaluation = self._run(recipe, "search", asking)
        if not evaluation.scored:
            if first or evaluation.outcome in (Outcome.OUT_OF_MEMORY, Outcome.WORKER_LOST):
                raise refusal(self._prepared.config, name, evaluation)
            reason = f"{evaluation.outcome.value}: {evaluation.reason}"
            return DryCandidate(name, 0.0, 0.0, 0, {}, {}, {}, reason)
        if first:
            worked = evaluation.merge_seconds + evaluation.score_seconds
            self.start_seconds = time.monotonic() - self._began - worked
        return _described(name, evaluation)

    def barriers(self, gold: GoldAnswers) -> Barriers:
        """Between the sources."""
        models = self._prepared.config.models

        def ask(names: Sequence[str]) -> Sequence[float] | str:
            evaluation = self._run(average(names, None), LOSSES, Asking())
            if evaluation.scored:
                return losses_of(evaluation)
            return f"{evaluation.outcome.value}: {evaluation.reason}"

        tasks = [task for task, _ in gold.items]
        base = "base" if models.base else None
        return measure_barriers(list(models.experts), base, tasks, ask, gold.without)

    def _run(self, recipe: "Recipe", split: str, asking: Asking) -> Evaluation:
        job = Job(self._jobs, recipe, split, asking)
        self._jobs += 1
        [(_, evaluation)] = list(self._executor.run([job]))
        return evaluation


def _gold(prepared: "Prepared") -> GoldAnswers:
    assert prepared.lengths is not None, "the dry run follows a thorough check"
    return gold_answers(prepared.config, prepared.folder, prepared.judge, prepared.lengths)


def _of_one(config: RunFile) -> RunFile:
    """The same run file with a single evaluator, which nobody takes for a straggler."""
    cluster = config.cluster.model_copy(update={"evaluators": 1, "straggler": None})
    return config.model_copy(update={"cluster": cluster})


def _recipes(prepared: "Prepared") -> list[tuple[str, "Recipe"]]:
    """A starting point of the search (the uniform merge, if it is one), and a random candidate."""
    space = prepared.space
    seeds = dict(space.seeds())
    name = "uniform" if "uniform" in seeds else next(iter(seeds))
    plan = Plan("random", "random", None, prepared.config.search.seed, 2, seeded=False)
    searcher = build_searcher("random", problem_of(plan, space, prepared.goals))
    drawn = space.decode(from_unit(space, searcher.ask()))
    return [(name, space.decode(seeds[name])), ("random", drawn)]


def sample(prepared: "Prepared", most: int) -> tuple[int, ...]:
    """Positions of search items: of every task the same share, at least one, the first ones (they lie
    in random order)."""
    items = prepared.judge.items["search"]
    share = min(1.0, most / len(items))
    by_task: dict[str, list[int]] = {}
    for position, item in enumerate(items):
        by_task.setdefault(item.task, []).append(position)
    taken = (places[: math.ceil(share * len(places))] for places in by_task.values())
    return tuple(sorted(position for places in taken for position in places))


def _described(name: str, evaluation: Evaluation) -> DryCandidate:
    by_task: dict[str, list[Response]] = {}
    for response in evaluation.responses:
        by_task.setdefault(response.task, []).append(response)

    def share(of: "Callable[[Response], float]") -> dict[str, float]:
        return {task: sum(map(of, group)) / len(group) for task, group in by_task.items()}

    return DryCandidate(
        name=name,
        merge_seconds=evaluation.merge_seconds,
        score_seconds=evaluation.score_seconds,
        items=len(evaluation.responses),
        scores=share(lambda response: response.score),
        truncated=share(lambda response: float(response.truncated)),
        unparsed=share(lambda response: float(response.parse_failure)),
    )


def advise_on_dry_run(found: DryRun) -> list[Advice]:
    """Answers that are cut off or empty, a random candidate that fails, barriers."""
    first = found.candidates[0]
    advice = [
        Advice(
            f"{share:.0%} of the answers of {first.name} to {task} were cut off at the limit of tokens",
            f"raise fitness.tasks.{task}.generation.max_gen_toks, or give stop strings (until)",
        )
        for task, share in first.truncated.items()
        if share >= CUT_OFF
    ]
    advice += [
        Advice(
            f"the filter of {task} found nothing in {share:.0%} of the answers of {first.name}",
            "look at the prompt above: does it say how to answer, and is a chat template missing?",
        )
        for task, share in first.unparsed.items()
        if share >= UNPARSED
    ]
    advice += [
        Advice(
            f"a {candidate.name} candidate could not be scored ({candidate.failure})",
            "narrow the ranges of the space if many fail; failed candidates cost their time",
        )
        for candidate in found.candidates
        if candidate.failure
    ]
    return advice + advise_on_barriers(found.barriers)

"""Costs of the model itself, which no answer tells; and how fast it answered."""

import math
import statistics

import numpy as np
import pytest

from fitness.errors import FitnessError
from fitness.estimate import Estimate
from fitness.items import Reply, Request, Response
from fitness.objectives import COSTS, MODEL_COSTS, Objectives, ObjectiveSpec
from fitness.objectives.speed import ONE_TIMING, Timing, speed_estimate, tokens_handled

LAYERS = ObjectiveSpec("depth", "cost", "minimize", cost="layers")
ANSWERS = [Response("maths", i, 1.0, tokens=4) for i in range(4)]


def test_a_cost_of_the_model_is_what_was_passed():
    specs = [LAYERS, ObjectiveSpec("maths", "task", tasks={"maths": 1})]
    objectives = Objectives(specs, {"maths": 9}, None)
    model = {"layers": Estimate(32.0, 0.0), "parameters": Estimate(7e9, 0.0)}
    for finite in (True, False):
        found = objectives.measure(ANSWERS, finite=finite, model=model)
        assert found["depth"] == Estimate(32.0, 0.0)
        assert found["maths"].se > 0
    with pytest.raises(FitnessError, match="objective 'depth': cost 'layers': no answer tells it"):
        objectives.measure(ANSWERS)


def test_it_needs_no_answers_of_any_task():
    objectives = Objectives([LAYERS], {"maths": 9}, None)
    assert objectives.measure([], model={"layers": Estimate(5.0, 0.0)})["depth"].value == 5


@pytest.mark.parametrize("cost", MODEL_COSTS)
def test_it_has_no_tasks(cost):
    assert cost in COSTS
    spec = ObjectiveSpec("c", "cost", tasks={"maths": 1}, cost=cost)
    with pytest.raises(FitnessError, match=r"of tasks \['maths'\]: it is the model's, whatever"):
        Objectives([spec], {"maths": 9}, None)


class Words:
    """Counts words; the answer to a prompt may have as many as the request allows."""

    def token_lengths(self, requests):
        return [
            len(r.context.split())
            + (r.generation["max_gen_toks"] if r.kind == "generate" else len(r.continuation))
            for r in requests
        ]


def test_tokens_of_prompts_and_answers_count():
    requests = [
        Request("generate", "one two three", generation={"max_gen_toks": 100, "until": ["."]}),
        Request("loglikelihood", "one two", "abcd"),
        Request("generate", "one", generation={"max_gen_toks": 7}),
    ]
    replies = [Reply("x", tokens=5), Reply(logprob=-1.0, tokens=4), Reply("y", tokens=1)]
    assert tokens_handled(Words(), requests, replies) == (3 + 5) + (2 + 4) + (1 + 1)
    assert tokens_handled(Words(), [], []) == 0


def test_one_timing_is_right_to_a_tenth():
    assert speed_estimate([Timing(300, 2.0)]) == Estimate(150.0, 150.0 * ONE_TIMING)


def test_the_speed_of_several_is_that_of_all():
    found = speed_estimate([Timing(300, 1.0), Timing(100, 1.0), Timing(200, 2.0)])
    assert found.value == 150
    # By hand: speeds 2, 2/3, 2/3 of the whole's at weights 1/4, 1/4, 1/2; 3 timings.
    off = 1 / 4 * 1 + 1 / 4 * (1 / 3) ** 2 + 1 / 2 * (1 / 3) ** 2
    squares = (1 + 1 + 4) / 16
    variance = (0.01 + 2 * off / (1 - squares)) / 3 * squares
    assert found.se == pytest.approx(150 * math.sqrt(variance))


@pytest.mark.parametrize("noise", [0.05, 0.1, 0.2])
def test_intervals_hold_the_true_speed(noise):
    """Timings of unlike length whose speed is off by `noise`: the interval's share of hits."""
    generator = np.random.default_rng(1)
    hits, errors, off = 0, [], []
    for _ in range(600):
        sizes = generator.integers(50, 400, 4)
        factors = np.exp(noise * generator.standard_normal(4))
        timings = [Timing(int(n), n / 100 * f) for n, f in zip(sizes, factors, strict=True)]
        found = speed_estimate(timings)
        errors.append(found.se)
        off.append(found.value - 100)
        hits += abs(found.value - 100) <= 1.645 * found.se
    assert 0.8 <= hits / 600 <= 0.99
    assert 0.8 <= statistics.fmean(errors) / statistics.stdev(off) <= 1.8


def test_an_earlier_estimate_counts_by_its_precision():
    now = speed_estimate([Timing(1000, 10.0)])
    before = Estimate(200.0, 5.0)
    both = speed_estimate([Timing(1000, 10.0)], before)
    weights = np.array([1 / 5**2, 1 / now.se**2])
    assert both.value == pytest.approx(np.average([200, 100], weights=weights))
    assert both.se == pytest.approx(1 / math.sqrt(weights.sum()))
    assert speed_estimate([], before) == before
    assert speed_estimate([Timing(1000, 10.0)], Estimate(200.0, 0.0)) == now
    with pytest.raises(FitnessError, match="cost 'tokens_per_second': no timing: every answer was"):
        speed_estimate([])

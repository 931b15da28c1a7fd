"""Loss barriers: the arithmetic by hand, the losses against those of the run's own objective."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from evomerge.asking import Asking
from evomerge.checks.barriers import Barriers, advise_on_barriers, measure_barriers
from evomerge.checks.dry_run import run_dry
from evomerge.checks.trial_text import trial_text
from evomerge.evaluator import EvaluatorFactory
from evomerge.preflight import Prepared
from evomerge.search.baselines import average
from tests.checks.test_sources import experts
from tests.checks.zoo import copied, permuted

Check = Callable[..., Prepared]

LOSSES = {("a",): [1.0, 2.0, 3.0], ("b",): [3.0, 2.0, 1.0], ("a", "b"): [4.0, 2.5, 2.5]}


def known(names: Sequence[str]) -> Sequence[float] | str:
    return LOSSES.get(tuple(names), "merge failed: no such model")


def test_by_hand() -> None:
    found = measure_barriers(["a", "b"], "base", ["t", "t", "u"], known, {"v": "no target"})
    [barrier] = found.pairs
    assert barrier.pair == ("a", "b")
    assert barrier.value == pytest.approx((2 + 0.5 + 0.5) / 3)
    assert barrier.se == pytest.approx((((1) ** 2 + 0.5**2 * 2) / 2 / 3) ** 0.5)
    assert barrier.ends == pytest.approx(2)
    assert barrier.tasks == {"t": pytest.approx(1.25), "u": pytest.approx(0.5)}
    assert found.losses == {"a": {"t": 1.5, "u": 3.0}, "b": {"t": 2.5, "u": 1.0}}
    assert (found.items, found.skipped, dict(found.without)) == (3, 0, {"v": "no target"})
    assert not barrier.high  # two standard errors


def test_a_model_that_cannot_be_asked() -> None:
    found = measure_barriers(["a", "c"], None, ["t", "t", "u"], known, {})
    assert found.pairs[0].value is None
    [advice] = advise_on_barriers(found)
    assert "no such model" in advice.warning


def test_one_expert_is_held_against_the_base() -> None:
    asked: list[tuple[str, ...]] = []

    def ask(names: Sequence[str]) -> Sequence[float]:
        asked.append(tuple(names))
        return [1.0]

    measure_barriers(["a"], "base", ["t"], ask, {})
    assert asked == [("base",), ("a",), ("base", "a")]


def test_ten_pairs_at_most_and_none_after_the_time() -> None:
    many = list("abcdefg")
    found = measure_barriers(many, None, ["t"], lambda names: [1.0], {})
    assert (len(found.pairs), found.skipped) == (10, 11)
    late = measure_barriers(many, None, ["t"], lambda names: [1.0], {}, seconds=-1)
    assert (len(late.pairs), late.skipped) == (0, 21)
    assert measure_barriers(many, None, [], known, {}).pairs == ()


def test_against_the_losses_that_the_objective_measures(
    prepared: Check, quickstart: dict[str, Any], tmp_path: Path
) -> None:
    """The same items, asked as `objectives: [{loss: ...}]` asks them; and a planted barrier."""
    copied(tmp_path / "shuffled", "lunari", permuted)
    own = {"lunari": quickstart["models"]["experts"]["lunari"], "shuffled": "shuffled"}
    tasks = {
        "lunari_words": {"items": 8, "selection": 8},
        "lunari_words_mc": {"items": 8, "selection": 8},
    }
    changes = {"models.experts": own, "fitness.tasks": tasks, "fitness.objectives": None}
    found = run_dry(prepared(changes), lambda text: None)
    [barrier] = found.barriers.pairs
    assert found.barriers.items == 16

    lossy = changes | {"fitness.objectives": [{"loss": [*tasks], "name": "loss"}]}
    same = prepared(lossy)
    evaluator = EvaluatorFactory(same.config, same.folder, same.folders)()
    losses: dict[tuple[str, ...], list[float]] = {}
    for names in (("lunari",), ("shuffled",), ("lunari", "shuffled")):
        evaluation = evaluator.evaluate(average(names, None), "search", Asking())
        losses[names] = [r.loss for r in evaluation.responses if r.loss is not None]
    mean = {names: sum(each) / 16 for names, each in losses.items()}
    ends = (mean[("lunari",)] + mean[("shuffled",)]) / 2
    assert mean[("lunari",)] == pytest.approx(mean[("shuffled",)], abs=0.01)  # one function
    assert barrier.ends == pytest.approx(ends, abs=1e-4)
    assert barrier.value == pytest.approx(mean[("lunari", "shuffled")] - ends, abs=1e-4)
    assert barrier.high
    [advice] = advise_on_barriers(found.barriers)
    assert "a loss barrier" in advice.warning
    assert "'lunari' and 'shuffled' (" in advice.warning
    assert advice.remedy


def test_a_task_that_does_not_say_what_is_right(
    prepared: Check, quickstart: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "tasks").mkdir()
    rows = "".join(f'{{"prompt": "add:{i}+1="}}\n' for i in range(1, 60))
    (tmp_path / "tasks" / "open.jsonl").write_text(rows)
    (tmp_path / "tasks" / "open.yaml").write_text(
        "task: open\ndataset_path: json\n"
        "dataset_kwargs: {data_files: {test: open.jsonl}}\n"
        'test_split: test\noutput_type: generate_until\ndoc_to_text: "{{prompt}}"\n'
        'doc_to_target: ""\ngeneration_kwargs: {until: ["\\n"], max_gen_toks: 4}\n'
        "process_results: !function score.score\n"
        "metric_list: [{metric: long, aggregation: mean, higher_is_better: true}]\n"
    )
    (tmp_path / "tasks" / "score.py").write_text(
        "def score(doc, results):\n    return {'long': float(len(results[0]) > 1)}\n"
    )
    changes = {
        "fitness.include": "tasks",
        "fitness.tasks": {"open": {"items": 8, "selection": 8}},
        "fitness.objectives": None,
    }
    found = run_dry(prepared(experts(quickstart) | changes), lambda text: None)
    assert found.barriers.pairs == ()
    assert "no right answer" in found.barriers.without["open"]


def test_text() -> None:
    from evomerge.checks.dry_run import DryCandidate, DryRun
    from evomerge.checks.estimate import Estimate, Phase

    barriers = measure_barriers(["a", "b", "c"], None, ["t", "t", "u"], known, {"v": "no target"})
    assert isinstance(barriers, Barriers)
    dry = DryRun(2.0, (DryCandidate("uniform", 0.1, 1.0, 4, {"t": 0.5}, {}, {}),), barriers, 5.0)
    estimated = Estimate(
        2, True, 2.0, 0.1, 0.25, 4, 40, (3.0, 10.1), (712.9, 2400.0),
        (Phase("search", 100, (12.0, 40.0), (0.05, 3.0)),), (0.1, 60.0), 10.0, ("tokens", "patience"),
    )  # fmt: skip
    text = trial_text(dry, estimated)
    assert "a - b                  +1.00 ± 0.50  (t +1.25, u +0.50)" in text
    assert "a - c                  merge failed: no such model" in text
    assert "v has no loss          no target" in text
    assert "3.0 s to 10.1 s on one evaluator, extrapolated from 4 of 40 items" in text
    assert "713 to 2,400 by 2 evaluator(s)" in text
    assert (
        "the whole run          6 min to 2.5 days; search.budget.hours ends the search after 10 h"
        in text
    )
    sooner = "less where search.budget.tokens, search.budget.patience ends the search before that"
    assert sooner in " ".join(text.split())

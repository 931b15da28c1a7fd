"""Both executors: what comes back, in which order, and what is tried again."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from evomerge.cluster.executor import EvaluatorBuildError, Job, RayExecutor, SerialExecutor
from evomerge.evaluation import Evaluation, Outcome
from fitness.errors import FitnessError
from search_spaces.errors import InputError
from tests.cluster.arithmetic import MakeArithmetic, recipe, score

EVALUATORS = 2


@pytest.fixture(scope="module")
def ray_cluster():
    """One local Ray for the module, with cores and GPUs that exist on paper only."""
    import ray

    ray.init(
        address="local",
        num_cpus=4,
        num_gpus=2,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=128 * 2**20,
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("notes")


@pytest.fixture(scope="module")
def on_ray(ray_cluster, folder):
    executor = RayExecutor(MakeArithmetic(str(folder)), evaluators=EVALUATORS, deadline_seconds=3.0)
    yield executor
    executor.close()


@pytest.fixture(scope="module")
def serial(folder):
    executor = SerialExecutor(MakeArithmetic(str(folder)))
    yield executor
    executor.close()


@pytest.fixture(params=["on_ray", "serial"])
def executor(request):
    return request.getfixturevalue(request.param)


counter = iter(range(10**6))


def jobs(*splits):
    """One job per split (see `arithmetic`), each with a recipe that no other test evaluates."""
    return [Job(number, recipe(next(counter), 0.5), split) for number, split in enumerate(splits)]


def run(executor, given):
    """Evaluation by job number; each job exactly once."""
    done = list(executor.run(given))
    evaluations = {job.number: evaluation for job, evaluation in done}
    assert len(evaluations) == len(done) == len(given)
    assert all(job in given for job, _ in done)
    return evaluations


def tries(folder, job):
    """The processes that evaluated a job, in order."""
    return (folder / f"evaluated-{job.recipe.hash}").read_text().split()


def ended(processes, patience=10.0):
    """Whether all of them end within so many seconds (a zombie has ended)."""

    def alive(process):
        try:
            return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text()
        except FileNotFoundError:
            return False

    until = time.monotonic() + patience
    while any(map(alive, processes)) and time.monotonic() < until:
        time.sleep(0.1)
    return not any(map(alive, processes))


class TestResults:
    def test_every_job_comes_back_scored(self, executor):
        given = jobs(*["search"] * 20)
        evaluations = run(executor, given)
        for job in given:
            evaluation = evaluations[job.number]
            assert evaluation.scored
            assert evaluation.objectives["nearness"].value == score(job.recipe)
        names = {evaluation.worker for evaluation in evaluations.values()}
        assert names <= {f"evaluator-{index}" for index in range(executor.workers)}

    def test_no_jobs(self, executor):
        assert run(executor, []) == {}

    def test_an_executor_serves_many_runs(self, executor):
        for _ in range(3):
            assert run(executor, jobs("search", "search"))[1].scored

    def test_both_evaluators_work_with_as_many_threads_as_cores(self, on_ray, folder):
        evaluations = run(on_ray, jobs("nap", "nap"))
        assert {e.worker for e in evaluations.values()} == {"evaluator-0", "evaluator-1"}
        assert all(e.objectives["nearness"].se == 1 for e in evaluations.values())

    def test_results_come_in_the_order_of_completion(self, on_ray):
        order = [job.number for job, _ in on_ray.run(jobs("nap", "search", "search", "search"))]
        assert order[-1] == 0
        assert sorted(order) == [0, 1, 2, 3]


class TestPulling:
    def test_a_job_is_pulled_only_when_an_evaluator_is_free(self, executor):
        pulled = []

        def endless():
            for job in jobs(*["search"] * 10):
                pulled.append(job)
                yield job

        for finished, _ in enumerate(executor.run(endless()), start=1):
            assert len(pulled) <= finished + executor.workers - 1
        assert finished == 10

    def test_none_waits_for_the_next_result(self, executor):
        """A second generation that depends on the first one's last result."""
        first, second = jobs("search", "search"), jobs("search", "search")
        done = []

        def generations():
            yield from first
            while len(done) < 2:
                yield None
            yield from second

        for job, _ in executor.run(generations()):
            done.append(job)
        assert set(done[2:]) == set(second)

    def test_none_while_nothing_runs_is_an_error(self, executor):
        with pytest.raises(RuntimeError, match="gave None while no job was running"):
            list(executor.run([None]))

    def test_a_run_that_was_left_early_does_not_reach_into_the_next(self, on_ray):
        left = on_ray.run(jobs("search", "hang"))
        next(left)
        left.close()
        assert run(on_ray, jobs("search", "search", "search"))[2].scored


class TestRetries:
    @pytest.mark.parametrize(
        "outcome", ["merge failed", "scoring failed", "out of memory", "timed out", "worker lost"]
    )
    def test_failures_are_tried_twice(self, executor, folder, outcome):
        word = outcome.replace(" ", "_")
        given = jobs(word, "search", f"{word} once")
        evaluations = run(executor, given)
        assert evaluations[0].outcome is Outcome(outcome)
        assert evaluations[0].reason == "as told"
        assert [len(tries(folder, job)) for job in given] == [2, 1, 2]
        assert evaluations[1].scored
        assert evaluations[2].objectives["nearness"].value == score(given[2].recipe)

    @pytest.mark.parametrize("outcome", ["invalid recipe", "cancelled"])
    def test_what_a_retry_cannot_mend_is_tried_once(self, executor, folder, outcome):
        given = jobs(outcome.replace(" ", "_"))
        assert run(executor, given)[0].outcome is Outcome(outcome)
        assert len(tries(folder, given[0])) == 1

    def test_an_exception_is_recorded_after_one_retry(self, executor, folder):
        built = len((folder / "built").read_text().splitlines())
        given = jobs("raise", "search", "raise once")
        evaluations = run(executor, given)
        assert evaluations[0].outcome is Outcome.SCORING_FAILED
        assert evaluations[0].reason == "the evaluator raised ArithmeticError: lost count"
        assert evaluations[0].worker.startswith("evaluator-")
        assert evaluations[1].scored
        assert evaluations[2].scored
        assert len(tries(folder, given[0])) == len(tries(folder, given[2])) == 2
        assert run(executor, jobs("search"))[0].scored
        # An evaluator that raised is in a state nobody knows: it is replaced.
        assert len((folder / "built").read_text().splitlines()) >= built + 2


class TestDeath:
    def test_a_killed_worker_is_replaced_and_its_job_scored(self, on_ray, folder):
        given = jobs("search", "die once", "search", "search")
        evaluations = run(on_ray, given)
        assert all(evaluation.scored for evaluation in evaluations.values())
        first, second = tries(folder, given[1])
        assert first != second

    def test_a_job_that_always_kills_is_recorded(self, on_ray, folder):
        given = jobs("search", "die", "search", "search")
        evaluations = run(on_ray, given)
        assert evaluations[1].outcome is Outcome.WORKER_LOST
        assert "died" in evaluations[1].reason
        assert len(tries(folder, given[1])) == 2
        assert all(evaluations[number].scored for number in (0, 2, 3))
        assert on_ray.workers == EVALUATORS

    def test_overrunning_the_deadline_is_recorded(self, on_ray, folder):
        given = jobs("spawn", "hang once", "search", "search")
        evaluations = run(on_ray, given)
        assert evaluations[0].outcome is Outcome.TIMED_OUT
        assert "not done after 3 s" in evaluations[0].reason
        assert all(evaluations[number].scored for number in (1, 2, 3))
        killed, spawned = tries(folder, given[0]), (folder / "spawned").read_text().split()
        assert len(killed) == len(spawned) == 2
        assert ended([*killed, *tries(folder, given[1])[:1], *spawned])


class TestBuilding:
    def build(self, tmp_path, trouble, **options):
        return RayExecutor(MakeArithmetic(str(tmp_path), trouble), **options)

    @pytest.mark.parametrize(
        ("trouble", "error", "message"),
        [
            ("input", InputError, "models: expert 'maths': there is no folder; name another"),
            ("fitness", FitnessError, "fitness.tasks: task 'gsm9k': there is none; use gsm8k"),
        ],
    )
    def test_what_the_user_has_to_mend_is_raised_at_once(
        self, ray_cluster, tmp_path, trouble, error, message
    ):
        for executor in (
            self.build(tmp_path, trouble, evaluators=1),
            SerialExecutor(MakeArithmetic(str(tmp_path), trouble)),
        ):
            with pytest.raises(error) as raised:
                list(executor.run(jobs("search")))
            assert str(raised.value) == message
            executor.close()
        assert len((tmp_path / "built").read_text().splitlines()) == 2

    @pytest.mark.parametrize(
        ("trouble", "reason"), [("bug", "KeyError: 'weights'"), ("die", "died")]
    )
    def test_building_is_given_up_after_three_tries(self, ray_cluster, tmp_path, trouble, reason):
        executor = self.build(tmp_path, trouble, evaluators=1)
        with pytest.raises(EvaluatorBuildError, match=f"3 times: .*{reason}"):
            list(executor.run(jobs("search")))
        assert len((tmp_path / "built").read_text().splitlines()) == 3
        with pytest.raises(EvaluatorBuildError, match="no evaluator is left"):
            list(executor.run(jobs("search")))
        executor.close()

    def test_the_others_work_on_when_one_cannot_be_built(self, ray_cluster, tmp_path):
        executor = self.build(tmp_path, "only one", evaluators=2)
        given = jobs(*["search"] * 6)
        evaluations = run(executor, given)
        assert all(evaluation.scored for evaluation in evaluations.values())
        for _ in range(10):
            if executor.workers == 1:
                break
            run(executor, jobs("nap"))
        assert executor.workers == 1
        executor.close()


class TestRoom:
    def test_auto_takes_a_gpu_each_or_a_core_each(self, ray_cluster, on_ray, tmp_path):
        # `on_ray` holds cores of this cluster: only what the cluster has counts, not what is free.
        for options, expected in (
            ({"gpus_per_evaluator": 1}, 2),
            ({"gpus_per_evaluator": 0.5}, 4),
            ({"cpus_per_evaluator": 2}, 2),
            ({}, 4),
        ):
            executor = RayExecutor(MakeArithmetic(str(tmp_path)), **options)
            assert executor.workers == expected
            executor.close()

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"evaluators": 5}, r"5 evaluator\(s\) of 1 CPU.* 4 CPU\(s\) and 2 GPU\(s\).*for 4"),
            ({"evaluators": 3, "gpus_per_evaluator": 1}, r"and 1 GPU\(s\) each.*room for 2"),
            ({"gpus_per_evaluator": 4}, r"1 evaluator\(s\) of .*4 GPU\(s\) each.*room for 0"),
            ({"evaluators": 0}, "evaluators = 0: it is at least 1; use 'auto'"),
            ({"cpus_per_evaluator": 0}, "cpus_per_evaluator = 0: it is greater than 0"),
            ({"gpus_per_evaluator": -1}, "gpus_per_evaluator = -1: it is 0 or greater"),
        ],
    )
    def test_more_than_the_cluster_has_is_refused(self, ray_cluster, tmp_path, options, message):
        with pytest.raises(InputError, match=message):
            RayExecutor(MakeArithmetic(str(tmp_path)), **options)

    def test_no_evaluator_is_spread_over_two_nodes(self):
        from evomerge.cluster.ray_session import capacity

        nodes = [{"CPU": 6.0, "GPU": 3.0}, {"CPU": 6.0, "GPU": 1.0}, {"CPU": 8.0}]
        assert capacity(nodes, 1, 0) == 20
        assert capacity(nodes, 4, 0) == 4
        assert capacity(nodes, 1, 2) == 1
        assert capacity(nodes, 1, 0.5) == 8
        assert capacity(nodes, 4, 1) == 2
        assert capacity([{"CPU": 0.3}], 0.1, 0) == 3
        assert capacity([], 1, 0) == 0


def test_reading_the_room_does_not_load_ray():
    code = "import sys, evomerge.cluster.executor; print('ray' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"


def test_an_evaluator_that_cannot_even_be_closed_is_dropped(tmp_path):
    class Broken:
        def evaluate(self, recipe, split):
            raise ArithmeticError("lost count")

        def close(self):
            raise OSError("already gone")

    evaluators = iter([Broken(), MakeArithmetic(str(tmp_path))()])
    executor = SerialExecutor(evaluators.__next__)
    assert run(executor, jobs("search"))[0].scored


def test_closing_is_idempotent_and_reaches_the_evaluator(tmp_path):
    executor = SerialExecutor(MakeArithmetic(str(tmp_path)))
    executor.close()
    run(executor, jobs("search"))
    executor.close()
    executor.close()
    assert (tmp_path / "closed").read_text().split() == [str(os.getpid())]
    assert isinstance(next(executor.run(jobs("search")))[1], Evaluation)

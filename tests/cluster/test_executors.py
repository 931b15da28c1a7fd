"""Both executors: what comes back, in which order, and what is tried again."""

import os
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from evomerge.cluster.executor import EvaluatorBuildError, Job, RayExecutor, SerialExecutor
from evomerge.evaluation import Evaluation, Outcome
from fitness.errors import FitnessError
from search_spaces.errors import InputError
from tests.cluster.arithmetic import MakeArithmetic, recipe, score
from tests.cluster.processes import ended

EVALUATORS = 2
HOST = socket.gethostname().split(".")[0]


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
    executor = RayExecutor(
        MakeArithmetic(str(folder)),
        evaluators=EVALUATORS,
        gpus_per_evaluator=0,  # they are for the other executors
        deadline_seconds=3.0,
    )
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


def wait_for_all(executor):
    """Let jobs run until every evaluator is built and takes part."""
    for _ in range(60):
        done = run(executor, jobs(*["nap"] * executor.workers))
        if len({evaluation.worker for evaluation in done.values()}) == executor.workers:
            return
    raise AssertionError("some evaluator never came")


class TestResults:
    def test_every_job_comes_back_scored(self, executor):
        given = jobs(*["search"] * 20)
        evaluations = run(executor, given)
        for job in given:
            evaluation = evaluations[job.number]
            assert evaluation.scored
            assert evaluation.objectives["nearness"].value == score(job.recipe)
        names = {evaluation.worker for evaluation in evaluations.values()}
        assert names <= {f"evaluator-{index}@{HOST}" for index in range(executor.workers)}

    def test_no_jobs(self, executor):
        assert run(executor, []) == {}

    def test_an_executor_serves_many_runs(self, executor):
        for _ in range(3):
            assert run(executor, jobs("search", "search"))[1].scored

    def test_both_evaluators_work_with_as_many_threads_as_cores(self, on_ray, folder):
        wait_for_all(on_ray)
        evaluations = run(on_ray, jobs("nap", "nap"))
        assert {e.worker for e in evaluations.values()} == {
            f"evaluator-0@{HOST}",
            f"evaluator-1@{HOST}",
        }
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
        ("outcome", "expected"),
        [
            ("merge failed", 2),
            ("scoring failed", 3),
            ("out of memory", 3),
            ("timed out", 3),
            ("worker lost", 3),
        ],
    )
    def test_failures_are_tried_again_elsewhere(self, executor, folder, request, outcome, expected):
        word = outcome.replace(" ", "_")
        wait_for_all(executor)
        given = jobs(word, "search", f"{word} once")
        evaluations = run(executor, given)
        assert evaluations[0].outcome is Outcome(outcome)
        assert evaluations[0].reason == "as told"
        assert [len(tries(folder, job)) for job in given] == [expected, 1, 2]
        assert evaluations[1].scored
        assert evaluations[2].objectives["nearness"].value == score(given[2].recipe)
        if "on_ray" in request.node.name:
            assert all(len({*tries(folder, given[job])}) >= 2 for job in (0, 2))

    @pytest.mark.parametrize("outcome", ["invalid recipe", "cancelled"])
    def test_what_a_retry_cannot_mend_is_tried_once(self, executor, folder, outcome):
        given = jobs(outcome.replace(" ", "_"))
        assert run(executor, given)[0].outcome is Outcome(outcome)
        assert len(tries(folder, given[0])) == 1

    def test_an_exception_is_recorded_after_two_retries(self, executor, folder):
        """Lack of memory, a bug, a GPU that fell off the bus: raised, not returned."""
        built = len((folder / "built").read_text().splitlines())
        given = jobs("forget", "search", "raise once", "break once")
        evaluations = run(executor, given)
        assert evaluations[0].outcome is Outcome.OUT_OF_MEMORY
        assert (
            evaluations[0].reason == "the evaluator raised MemoryError: no room for the activations"
        )
        assert evaluations[0].worker.startswith("evaluator-")
        assert all(evaluations[number].scored for number in (1, 2, 3))
        assert [len(tries(folder, job)) for job in given] == [3, 1, 2, 2]
        assert run(executor, jobs("search"))[0].scored
        # An evaluator that raised is in a state nobody knows: it is replaced.
        assert len((folder / "built").read_text().splitlines()) >= built + 4

    def test_an_evaluator_that_fails_at_everything_is_replaced(self, ray_cluster, tmp_path):
        """Memory that leaks, or a GPU gone bad without a word, must not cost the whole night."""
        executor = RayExecutor(MakeArithmetic(str(tmp_path)), evaluators=1)
        given = jobs("out_of_memory", "search")
        evaluations = run(executor, given)
        assert [evaluations[number].outcome for number in (0, 1)] == ["out of memory", "scored"]
        assert len({*tries(tmp_path, given[0])}) == 1
        assert tries(tmp_path, given[0])[0] != tries(tmp_path, given[1])[0]
        executor.close()


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
        assert len({*tries(folder, given[1])}) == 3
        assert all(evaluations[number].scored for number in (0, 2, 3))
        assert on_ray.workers == EVALUATORS

    def test_overrunning_the_deadline_is_recorded(self, on_ray, folder):
        """Also in the middle of C code that never lets Python run again."""
        given = jobs("spawn", "freeze once", "search", "search")
        evaluations = run(on_ray, given)
        assert evaluations[0].outcome is Outcome.TIMED_OUT
        assert "not done after 3 s" in evaluations[0].reason
        assert all(evaluations[number].scored for number in (1, 2, 3))
        killed, spawned = tries(folder, given[0]), (folder / "spawned").read_text().split()
        assert len(killed) == len(spawned) == 3
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

    def test_a_build_that_hangs_is_killed(self, ray_cluster, tmp_path):
        executor = self.build(tmp_path, "hang", evaluators=1, build_seconds=1.0)
        with pytest.raises(EvaluatorBuildError, match="3 times: not built after 1 s"):
            list(executor.run(jobs("search")))
        processes = (tmp_path / "built").read_text().split()
        assert len(processes) <= 3
        assert ended(processes)
        executor.close()

    def test_waiting_for_room_is_no_failed_build(self, ray_cluster, tmp_path):
        """Two evaluators of two GPUs on a machine of two: the second waits for the first."""
        first, second = (
            self.build(tmp_path, "slow", evaluators=1, gpus_per_evaluator=2, build_seconds=30)
            for _ in range(2)
        )
        assert run(first, jobs("search"))[0].scored
        with ThreadPoolExecutor() as pool:
            waiting = pool.submit(run, second, jobs("search"))
            time.sleep(2)
            assert not waiting.done()
            first.close()
            assert waiting.result()[0].scored
        second.close()

    def test_without_jobs_nobody_waits_for_evaluators(self, ray_cluster, tmp_path):
        executor = self.build(tmp_path, "hang", evaluators=1)
        assert run(executor, []) == {}
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
            ({}, 2),
            ({"tensor_parallel": 2}, 1),
            ({"gpus_per_evaluator": 0.5}, 4),
            ({"gpus_per_evaluator": 0}, 4),
            ({"device": "cpu"}, 4),
            ({"device": "cpu", "cpus_per_evaluator": 2}, 2),
        ):
            executor = RayExecutor(MakeArithmetic(str(tmp_path)), **options)
            assert executor.workers == expected
            executor.close()

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (
                {"evaluators": 5, "device": "cpu"},
                r"5 evaluator\(s\) of 1 CPU.* 4 CPU\(s\) and 2 GPU\(s\).*for 4",
            ),
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


def test_reading_the_room_does_not_load_ray():
    code = "import sys, evomerge.cluster.executor; print('ray' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"


def test_an_evaluator_that_cannot_even_be_closed_is_dropped(tmp_path):
    class Broken:
        def evaluate(self, recipe, split, asking):
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

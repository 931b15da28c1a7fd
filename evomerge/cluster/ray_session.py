"""All that is asked of Ray: a connection, room for evaluators, actors and their calls."""

import logging
import math
import os
import shutil
import socket
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import ray
from ray.exceptions import OutOfMemoryError, RayError, RayTaskError

from evomerge.cluster.jobs import USER_ERRORS, EvaluatorCallError, MakeEvaluator, raised
from evomerge.evaluation import Evaluation, Evaluator, Outcome
from search_spaces.errors import InputError
from search_spaces.recipe import Recipe

logger = logging.getLogger(__name__)

_OBJECT_STORE_BYTES = 128 * 2**20
"""Recipes and evaluations are kilobytes; Ray's default of 30 % of memory is for other work."""

_ANSWER_SECONDS = 10.0
"""How long a cluster may take to accept a connection."""

_CLOSING_SECONDS = 5.0
"""How long idle evaluators get to close by themselves before they are killed."""


class EvaluatorActor:
    """What runs in a Ray actor: an evaluator, built apart from the actor so that a failure to build
    it reaches the driver as the exception it was."""

    def __init__(self, make_evaluator: MakeEvaluator) -> None:
        self._make_evaluator = make_evaluator
        self._evaluator: Evaluator | None = None

    def build(self) -> None:
        """Build the evaluator."""
        self._evaluator = self._make_evaluator()

    def evaluate(self, recipe: Recipe, split: str) -> Evaluation:
        """Judge `recipe` on `split`."""
        assert self._evaluator is not None, "evaluate() called before build()"
        return self._evaluator.evaluate(recipe, split)

    def close(self) -> None:
        """Free the evaluator."""
        if self._evaluator is not None:
            self._evaluator.close()


_REMOTE_ACTOR: Any = ray.remote(EvaluatorActor)


class RaySession:
    """Ray for this process. What it started it also stops; a Ray that ran before stays.

    Args:
        address: `local` starts Ray here; `auto`, `HOST:PORT` or `ray://HOST:PORT` joins a cluster.
            Not used if this process is connected already.

    Raises:
        InputError: there is no cluster at `address`.
    """

    def __init__(self, address: str) -> None:
        self._owned = not ray.is_initialized()
        self._folder: str | None = None
        if not self._owned:
            return
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        if address == "local":
            self._start()
        else:
            _join(address)

    def _start(self) -> None:
        default = Path(os.environ.get("RAY_TMPDIR", tempfile.gettempdir())) / "ray"
        existing = default if default.exists() else default.parent
        if not os.access(existing, os.W_OK | os.X_OK):
            self._folder = tempfile.mkdtemp(prefix="evomerge-ray-")
        ray.init(
            address="local",
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=_OBJECT_STORE_BYTES,
            _temp_dir=self._folder,
        )

    def shared(self, make_evaluator: MakeEvaluator) -> Any:
        """`make_evaluator`, pickled once for every actor to fetch."""
        return ray.put(make_evaluator)

    def actor(self, make_evaluator: Any, cpus: float, gpus: float) -> Any:
        """A new actor for one evaluator, with as many threads as cores; to be built by a call.

        Args:
            make_evaluator: what `shared` returned.
            cpus, gpus: what Ray reserves for it.
        """
        threads = str(max(1, int(cpus)))
        environment = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        options = {"num_cpus": cpus, "num_gpus": gpus, "runtime_env": {"env_vars": environment}}
        return _REMOTE_ACTOR.options(**options).remote(make_evaluator)

    def ended(self, calls: Sequence[Any], timeout: float | None) -> list[Any]:
        """Those of `calls` that ended, at least one unless `timeout` seconds pass (None: never)."""
        ready, _ = ray.wait(list(calls), num_returns=1, timeout=timeout)
        if ready:
            # A second look, so that one busy evaluator cannot hide the others.
            ready, _ = ray.wait(list(calls), num_returns=len(calls), timeout=0)
        return ready

    def result(self, call: Any) -> Any:
        """The value of a call that ended.

        Raises:
            EvaluatorCallError: it ended without one.
        """
        try:
            return ray.get(call)
        except RayTaskError as error:
            cause = error.cause or error
            if not isinstance(cause, USER_ERRORS):
                logger.warning("%s", error)
            raise EvaluatorCallError(Outcome.SCORING_FAILED, raised(cause), cause) from None
        except OutOfMemoryError as error:
            raise EvaluatorCallError(Outcome.OUT_OF_MEMORY, _sentence(error)) from None
        except RayError as error:
            raise EvaluatorCallError(Outcome.WORKER_LOST, _sentence(error)) from None

    def kill(self, actor: Any) -> None:
        """End an actor's process at once, whatever it is doing."""
        ray.kill(actor)

    def close(self, idle: Sequence[Any] = (), busy: Sequence[Any] = ()) -> None:
        """End the actors, disconnect, and stop Ray if it was started here.

        Args:
            idle: actors that get a moment to close their evaluators by themselves.
            busy: actors that are killed at once.
        """
        if ray.is_initialized():
            closing = [actor.close.remote() for actor in idle]
            if closing:
                ray.wait(closing, num_returns=len(closing), timeout=_CLOSING_SECONDS)
            for actor in (*idle, *busy):
                ray.kill(actor)
            if self._owned:
                ray.shutdown()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


def evaluators_wanted(evaluators: int | Literal["auto"], cpus: float, gpus: float) -> int:
    """How many evaluators to start on the connected cluster.

    Args:
        evaluators: a number, or `auto`: as many as fit.
        cpus: cores per evaluator, greater than 0.
        gpus: GPUs per evaluator, 0 or more; a fraction shares a GPU.

    Raises:
        InputError: a number out of range, or more than the cluster has room for.
    """
    if not cpus > 0:
        raise _refusal("cpus_per_evaluator", cpus, "it is greater than 0", "use 1")
    if not gpus >= 0:
        raise _refusal("gpus_per_evaluator", gpus, "it is 0 or greater", "use 0 without GPUs")
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    room = capacity(nodes, cpus, gpus)
    wanted = max(room, 1) if evaluators == "auto" else int(evaluators)
    if wanted < 1:
        raise _refusal("evaluators", wanted, "it is at least 1", "use 'auto'")
    if wanted > room:
        cores, cards = (sum(n.get(kind, 0) for n in nodes) for kind in ("CPU", "GPU"))
        each = f"{cpus:g} CPU(s) and {gpus:g} GPU(s) each"
        raise InputError(
            f"{wanted} evaluator(s) of {each}",
            f"the cluster has {cores:g} CPU(s) and {cards:g} GPU(s) on {len(nodes)} node(s), room "
            f"for {room}",
            "cluster.evaluators",
            "ask for fewer evaluators or for less per evaluator, or add nodes",
        )
    return wanted


def capacity(nodes: Iterable[Mapping[str, float]], cpus: float, gpus: float) -> int:
    """How many evaluators fit, none across two nodes.

    Args:
        nodes: resources of each node (`CPU`, `GPU`).
        cpus, gpus: what an evaluator takes of each; `cpus` greater than 0.
    """

    def fitting(node: Mapping[str, float]) -> int:
        wants = [("CPU", cpus)] + ([("GPU", gpus)] if gpus > 0 else [])
        # 1e-9: 0.3 / 0.1 is 2.9999999999999996.
        return min(math.floor(node.get(kind, 0) / amount + 1e-9) for kind, amount in wants)

    return sum(fitting(node) for node in nodes)


def _join(address: str) -> None:
    try:
        if ":" in address:
            # Ray itself would try for minutes before it says that nobody listens.
            host, port = address.removeprefix("ray://").rsplit(":", 1)
            socket.create_connection((host, int(port)), timeout=_ANSWER_SECONDS).close()
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, ValueError) as error:
        raise InputError(
            f"address '{address}'",
            f"no Ray cluster answers there ({str(error).splitlines()[0]})",
            "cluster.address",
            "start one with `ray start --head`, or use `local`",
        ) from error


def _refusal(name: str, value: Any, rule: str, remedy: str) -> InputError:
    return InputError(f"{name} = {value}", rule, f"cluster.{name}", remedy)


def _sentence(error: RayError) -> str:
    """Ray's message on one line of bounded length."""
    return " ".join(str(error).split())[:500]

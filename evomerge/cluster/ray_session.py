"""All that is asked of Ray: a connection, its nodes, actors and their calls."""

import logging
import os
import pickle
import shutil
import socket
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import ActorDiedError, OutOfMemoryError, RayError, RayTaskError

from evomerge.cluster.failures import Failure, raised
from evomerge.cluster.guardian import Guardian
from evomerge.cluster.jobs import USER_ERRORS, EvaluatorCallError, Job, MakeEvaluator
from evomerge.cluster.ray_actor import EvaluatorActor
from evomerge.cluster.room import Resources, Share
from evomerge.evaluation import Outcome
from search_spaces.errors import InputError

logger = logging.getLogger(__name__)

_OBJECT_STORE_BYTES = 128 * 2**20
"""Recipes and evaluations are kilobytes; Ray's default of 30 % of memory is for other work."""

_ANSWER_SECONDS = 10.0
"""How long a cluster may take to accept a connection."""

_CLOSING_SECONDS = 5.0
"""How long idle evaluators get to close by themselves before they are killed."""

_FETCH_SECONDS = 10.0
"""How long the value of a call that ended may take to arrive; it lies on the evaluator's node, which
may be gone by now."""

_NODE_DIED = "its node has died"
"""How Ray says it (there is no field that does)."""

_REMOTE_ACTOR: Any = ray.remote(max_restarts=0, max_task_retries=0)(EvaluatorActor)


class RaySession:
    """Ray for this process. What it started it also stops; a Ray that ran before stays.

    A Ray started here ends with this process, however that ends (see `Guardian`). On a joined
    cluster Ray ends the actors of a driver that is gone, and what these started.

    Args:
        address: `local` starts Ray here; `auto`, `HOST:PORT` or `ray://HOST:PORT` joins a cluster.
            Not used if this process is connected already.

    Raises:
        InputError: there is no cluster at `address`.
    """

    def __init__(self, address: str) -> None:
        self._owned = not ray.is_initialized()
        self._folder: str | None = None
        self._guardian: Guardian | None = None
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
        # .../session_TIME_PID/sockets/plasma_store
        session = Path(ray.nodes()[0]["ObjectStoreSocketName"]).parents[1]
        self._guardian = Guardian(session, self._folder)

    def nodes(self) -> Mapping[str, Resources]:
        """The cluster's nodes that are alive: id -> resources."""
        return {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}

    def shared(self, make_evaluator: MakeEvaluator) -> Any:
        """`make_evaluator`, pickled once for every actor to fetch."""
        return ray.put(make_evaluator)

    def actor(self, make_evaluator: Any, share: Share) -> Any:
        """A new actor for one evaluator, as soon as one node has room for all of its share.

        Its resources are the actor's own, not a placement group's: a group of one bundle would
        reserve the same on one node, but outlive its actor.

        Args:
            make_evaluator: what `shared` returned.
            share: what Ray reserves for it; as many threads as cores, no GPU but its own.
        """
        threads = str(max(1, int(share.cpus)))
        environment = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        if not share.gpus:
            environment["CUDA_VISIBLE_DEVICES"] = ""  # Ray hides GPUs only from who reserves some
        return _REMOTE_ACTOR.options(
            num_cpus=share.cpus, num_gpus=share.gpus, runtime_env={"env_vars": environment}
        ).remote(make_evaluator)

    def where(self, actor: Any) -> Any:
        """The call that ends with the actor's `Place` once it has started."""
        return actor.where.remote()

    def build(self, actor: Any) -> Any:
        """The call that builds the actor's evaluator."""
        return actor.build.remote()

    def evaluate(self, actor: Any, job: Job) -> Any:
        """The call that evaluates `job`; pickled in C, which takes half the time of Ray's own."""
        return actor.evaluate.remote(pickle.dumps((job.recipe, job.split, job.asking), protocol=5))

    def ended(self, calls: Sequence[Any], timeout: float) -> list[Any]:
        """Those of `calls` that ended, at least one unless `timeout` seconds pass."""
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
            value = ray.get(call, timeout=_FETCH_SECONDS)
        except RayTaskError as error:
            cause = error.cause or error
            if not isinstance(cause, USER_ERRORS):
                logger.info("%s", error)
            raise EvaluatorCallError(Outcome.SCORING_FAILED, raised(cause), cause) from None
        except OutOfMemoryError as error:
            raise EvaluatorCallError(Outcome.OUT_OF_MEMORY, _sentence(error)) from None
        except RayError as error:
            lost = isinstance(error, ActorDiedError) and _NODE_DIED in str(error)
            reason = _sentence(error)
            raise EvaluatorCallError(Outcome.WORKER_LOST, reason, node_lost=lost) from None
        if isinstance(value, Failure):
            logger.info("%s", value.traceback)
            raise EvaluatorCallError(value.outcome, value.reason)
        return value

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
        if self._guardian is not None:
            self._guardian.dismiss()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


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


def _sentence(error: RayError) -> str:
    """Ray's message on one line of bounded length."""
    return " ".join(str(error).split())[:500]

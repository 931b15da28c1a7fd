"""What runs in a Ray actor: one evaluator."""

import pickle
import socket
from dataclasses import dataclass

import ray

from evomerge.cluster.failures import Failure, failure
from evomerge.cluster.jobs import USER_ERRORS, MakeEvaluator
from evomerge.evaluation import Evaluation, Evaluator


@dataclass(frozen=True, slots=True)
class Place:
    """Where an actor runs: the id of its node, and the name of the machine."""

    node: str
    host: str


class EvaluatorActor:
    """An evaluator, built apart from the actor: so the driver learns that the actor has room and is
    alive before the build's deadline begins, and a failure to build is no dead actor.

    Exceptions leave as `Failure`s, but for those that the user has to mend.
    """

    def __init__(self, make_evaluator: MakeEvaluator) -> None:
        self._make_evaluator = make_evaluator
        self._evaluator: Evaluator | None = None

    def where(self) -> Place:
        """Answers as soon as the cluster has room for the actor and has started it."""
        return Place(ray.get_runtime_context().get_node_id(), socket.gethostname())

    def build(self) -> Failure | None:
        """Build the evaluator."""
        try:
            self._evaluator = self._make_evaluator()
        except USER_ERRORS:
            raise
        except Exception as error:  # boundary: told to the driver as text
            return failure(error)
        return None

    def evaluate(self, asked: bytes) -> Evaluation | Failure:
        """Judge a recipe, pickled with its split and what to ask of it."""
        assert self._evaluator is not None, "evaluate() called before build()"
        try:
            return self._evaluator.evaluate(*pickle.loads(asked))
        except Exception as error:  # boundary: told to the driver as text
            return failure(error)

    def close(self) -> None:
        """Free the evaluator."""
        if self._evaluator is not None:
            self._evaluator.close()

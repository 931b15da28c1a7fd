"""The workspace: the folder that holds runs, and the answers that they share."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from evomerge.evaluation import Evaluation
from evomerge.objectives import is_timed, neighbour_step
from evomerge.preflight import Prepared
from evomerge.runs.answers import AnswerCache
from evomerge.runs.answers import Answers as Remembered
from evomerge.runs.database import items_of
from evomerge.runs.fingerprint import fingerprint
from evomerge.runs.ledger import Answers, NoAnswers
from fitness.items import Item, Response


@contextmanager
def shared_answers(run: Path, prepared: Prepared) -> Iterator[Answers]:
    """The answers that the runs beside this one paid for, for as long as it is driven.

    None where the run file does not want them, where candidates are compared with their neighbours,
    whose texts nobody keeps, and where answering is timed.

    Args:
        run: the run's folder.
        prepared: its run file.
    """
    config = prepared.config
    if not config.fitness.cache or neighbour_step(config) is not None or is_timed(config):
        yield NoAnswers()
        return
    with closing(AnswerCache(run.resolve().parent / "answers.db")) as cache:
        exact, looked_up = (
            cache.fingerprinted(
                fingerprint(config, prepared.folder, prepared.folders, exact=exactly)
            )
            for exactly in (True, False)
        )
        yield _Shared(prepared.judge.items, exact, looked_up)


class _Shared:
    """Answers by split: test items are answered by models merged exactly, others by looked-up ones."""

    def __init__(
        self, items: Mapping[str, Sequence[Item]], exact: Remembered, looked_up: Remembered
    ) -> None:
        self._items, self._exact, self._looked_up = items, exact, looked_up

    def known(self, recipe_hash: str, split: str) -> Mapping[int, Response]:
        """A recipe's responses by position in the split."""
        return self._of(split).known(recipe_hash, self._items[items_of(split)])

    def keep(self, recipe_hash: str, split: str, evaluation: Evaluation) -> None:
        """Remember a scored evaluation's responses."""
        items = self._items[items_of(split)]
        answered = [items[position] for position in evaluation.positions]
        self._of(split).keep(recipe_hash, answered, evaluation.responses)

    def _of(self, split: str) -> Remembered:
        return self._exact if split == "test" else self._looked_up

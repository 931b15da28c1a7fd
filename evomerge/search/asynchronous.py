"""Searching without a barrier: a candidate is asked whenever an evaluator is free for it.

Which results the searcher knew when it asked depends on how long evaluations took, so a run cannot
be repeated to the letter; but it can be continued exactly. With each result is recorded how many
candidates had been asked by then. Replaying the asks and tells in that order gives the searcher, its
random generator included, the state that it had when the last result was recorded; what had been
asked and not answered by then is evaluated again first.
"""

from collections.abc import Iterator
from itertools import count

from evomerge.evaluation import Evaluation
from evomerge.runs.ledger import Wanted, differs, nearly
from evomerge.runs.rows import CandidateRow
from evomerge.search.candidate import Candidate
from evomerge.search.plan import Phase
from evomerge.search.standing import Standing
from search_spaces.variables import Genome

_REPEATS = 16
"""How often in a row the searcher may ask for what is being evaluated already, before its next ask
waits for a result: in a small discrete space it would spend its budget knowing nothing."""

_DECODED = 32
"""Replayed candidates that are decoded, to notice a space that decodes otherwise than it used to."""


class Asynchronous:
    """One phase of a search; `run` is called once."""

    def __init__(self, phase: Phase) -> None:
        self._phase = phase
        self._population = phase.searcher.batch
        self._standing = Standing(phase.goals, racing=phase.race.on)
        self._genomes: list[Genome] = []
        self._done: dict[int, Candidate] = {}
        self._waiting: dict[str, list[int]] = {}
        self._unclear: list[Wanted] = []  # to be measured again, not begun
        self._again = 0  # of them, not finished
        self._replaying = True

    def run(self) -> list[Candidate]:
        """Ask, evaluate, tell until the budget is spent and the last result is in.

        Returns:
            Every candidate asked, in order, by all that it answered.
        """
        phase = self._phase
        self._replay()
        for want, evaluation in phase.ledger.stream(self._wanted(), "search", self._rows):
            if want.part:
                self._renew(want, evaluation)
                continue
            for number in self._waiting.pop(want.recipe.hash):
                self._settle(number, want.recipe.hash, evaluation)
        phase.race.clear_up(self._standing, phase.ledger, self._population)
        return phase.latest([self._done[number] for number in sorted(self._done)])

    def _replay(self) -> None:
        """Bring the searcher to where it was when the last result was recorded."""
        ledger, name = self._phase.ledger, self._phase.plan.phase
        for position, row in enumerate(ledger.told(name)):
            while len(self._genomes) < row.asked:
                self._ask()
            if not nearly(row.genome, self._genomes[row.id]):
                raise differs(row, ledger.path)
            self._genomes[row.id] = row.genome
            if position < _DECODED and self._phase.space.decode(row.genome).hash != row.recipe_hash:
                raise differs(row, ledger.path)
            evaluation = ledger.recorded(row.recipe_hash)
            self._settle(row.id, row.recipe_hash, evaluation)
            self._phase.view.finished(evaluation, False)
        hashes = {candidate.recipe_hash for candidate in self._done.values()}
        self._standing.renew((h, part) for h in hashes for part in ledger.again(h))
        self._replaying = False
        self._phase.race.look(self._standing)

    def _wanted(self) -> Iterator[Wanted | None]:
        """What to evaluate next, pulled when an evaluator is free; None: wait for a result."""
        for number in range(len(self._genomes)):
            if number not in self._done:
                yield from self._evaluated(number)
        repeats = count(1)
        while not self._over():
            if self._unclear:
                yield from self._measured_again(self._unclear.pop(0))
                continue
            wanted = list(self._evaluated(self._ask()))
            if wanted:
                repeats = count(1)
                yield wanted[0]
            elif (self._waiting or self._again) and next(repeats) % _REPEATS == 0:
                yield None

    def _measured_again(self, want: Wanted) -> Iterator[Wanted]:
        """A candidate to measure again, unless another phase had the same recipe measured so."""
        known = self._phase.ledger.known(want.recipe.hash, "search", want.part)
        if known is None:
            yield want
        else:
            self._renew(want, known)

    def _renew(self, want: Wanted, evaluation: Evaluation) -> None:
        self._again -= 1
        self._standing.renew([(want.recipe.hash, evaluation)])
        if not self._again:
            self._phase.race.look(self._standing)

    def _over(self) -> bool:
        asked = len(self._genomes)
        return asked >= self._phase.plan.evaluations or self._phase.clock.over(
            asked, self._standing
        )

    def _ask(self) -> int:
        self._genomes.append(self._phase.ask())
        return len(self._genomes) - 1

    def _evaluated(self, number: int) -> Iterator[Wanted]:
        """The recipe of candidate `number`, unless it is known or on its way already."""
        recipe = self._phase.space.decode(self._genomes[number])
        known = self._phase.ledger.known(recipe.hash, "search")
        if known is not None:
            row = self._row(number, recipe.hash, place=0, cached=True)
            self._phase.ledger.note(row, known)
            self._settle(number, recipe.hash, known)
        elif recipe.hash in self._waiting:
            self._waiting[recipe.hash].append(number)
        else:
            self._waiting[recipe.hash] = [number]
            yield Wanted(recipe, None, self._phase.race.asking())

    def _rows(self, want: Wanted) -> list[CandidateRow]:
        """The candidates that waited for a recipe, as they are recorded with its evaluation."""
        digest = want.recipe.hash
        waited = [] if want.part else self._waiting[digest]
        return [self._row(n, digest, place, place > 0) for place, n in enumerate(waited)]

    def _row(self, number: int, recipe_hash: str, place: int, cached: bool) -> CandidateRow:
        return CandidateRow(
            self._phase.plan.phase,
            number,
            number // self._population,
            self._genomes[number],
            recipe_hash,
            cached,
            told=len(self._done) + place,
            asked=len(self._genomes),
        )

    def _settle(self, number: int, recipe_hash: str, evaluation: Evaluation) -> None:
        candidate = Candidate(number, self._genomes[number], recipe_hash, evaluation)
        self._done[number] = candidate
        self._standing.add([candidate])
        self._phase.tell(number, evaluation)
        self._phase.view.told(self._standing)
        full, rest = divmod(len(self._done), self._population)
        if rest == 0:
            self._generation(full - 1)

    def _generation(self, number: int) -> None:
        """As many are told as a generation has: show it, and see whom to measure again."""
        phase, asked = self._phase, len(self._genomes)
        phase.race.generation(number, self._standing)
        phase.clock.generation(asked, self._standing)
        phase.view.generation(phase.plan.phase, number, asked, self._standing)
        if not self._again and not self._replaying:
            self._unclear = phase.race.again(self._standing, phase.ledger, self._population)
            self._again = len(self._unclear)

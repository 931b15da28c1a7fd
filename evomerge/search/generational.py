"""Searching by generations: what is asked depends on nothing but the seed and the scores."""

from collections.abc import Sequence

from evomerge.asking import Asking
from evomerge.runs.ledger import Wanted, differs
from evomerge.runs.rows import CandidateRow
from evomerge.search.candidate import Candidate
from evomerge.search.plan import Phase
from evomerge.search.standing import Standing
from search_spaces.variables import Genome


def by_generations(phase: Phase) -> list[Candidate]:
    """Ask a generation, evaluate it, tell it, until the budget is spent.

    A generation that the budget cuts short is evaluated but not told, so that a larger budget
    continues exactly where this one stopped.

    Returns:
        Every candidate asked, in order, by all that it answered.
    """
    budget = phase.plan.evaluations
    standing = Standing(phase.goals, racing=phase.race.on)
    candidates: list[Candidate] = []
    generation = 0
    while len(candidates) < budget and not phase.clock.over(len(candidates), standing):
        genomes = [phase.ask() for _ in range(phase.searcher.batch)]
        affordable = genomes[: budget - len(candidates)]
        asking = phase.race.asking()
        batch = _evaluate(phase, generation, len(candidates), affordable, asking)
        candidates += batch
        standing.add(batch)
        phase.race.clear_up(standing, phase.ledger, len(batch))
        phase.race.generation(generation, standing)
        phase.clock.generation(len(candidates), standing)
        phase.view.generation(phase.plan.phase, generation, len(candidates), standing)
        if len(batch) == len(genomes):
            for candidate in batch:
                phase.tell(candidate.id, candidate.evaluation)
        generation += 1
    return phase.latest(candidates)


def _evaluate(
    phase: Phase, generation: int, first: int, genomes: Sequence[Genome], asking: Asking
) -> list[Candidate]:
    name = phase.plan.phase
    found: dict[int, Candidate] = {}
    wanted: list[Wanted] = []
    rows: list[CandidateRow] = []
    for number, genome in enumerate(genomes, start=first):
        recorded = phase.ledger.recall(name, number, genome)
        if recorded is not None:
            known, evaluation = recorded
            # decoding is the dear part of a replay; the first generation is decoded all the same,
            # so that a space that decodes otherwise than it used to is noticed
            if generation == 0 and phase.space.decode(known.genome).hash != known.recipe_hash:
                raise differs(known, phase.ledger.path)
            found[number] = Candidate(number, known.genome, known.recipe_hash, evaluation)
            continue
        recipe = phase.space.decode(genome)
        row = CandidateRow(name, number, generation, genome, recipe.hash, cached=False)
        rows.append(row)
        wanted.append(Wanted(recipe, row, asking))
    evaluations = phase.ledger.evaluate(wanted, "search")
    for row, evaluation in zip(rows, evaluations, strict=True):
        found[row.id] = Candidate(row.id, row.genome, row.recipe_hash, evaluation)
    return [found[number] for number in sorted(found)]

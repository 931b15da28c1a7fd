"""A candidate: what the driver remembers of a recipe being judged."""

from dataclasses import dataclass

from evomerge.evaluation import Evaluation
from search_spaces.variables import Genome


@dataclass(frozen=True, slots=True)
class Candidate:
    """A recipe being judged.

    Attributes:
        id: order of ask, from 0.
        genome: what the searcher asked for.
        recipe_hash: its identity.
        evaluation: what it came to; without responses.
    """

    id: int
    genome: Genome
    recipe_hash: str
    evaluation: Evaluation

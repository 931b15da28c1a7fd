"""Which variables of a space form a list of variable length, such as the layers of a stack."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Slots:
    """A list inside a genome: slots of which the first few count, the others are at rest.

    Searchers read it to recombine lists as lists: to insert, delete and move slots with all their
    variables, instead of changing coordinates one by one.

    Attributes:
        length: place in the genome of the `Integer` that says how many slots count: its lowest value
            stands for `least` of them, its highest for all (layers that are no slots may be counted
            too); None: all of them always do.
        columns: per slot, the places in the genome of its variables; the same kinds and ranges, in
            the same order, in every slot.
        least: fewest slots that count, 1 or more.
    """

    length: int | None
    columns: tuple[tuple[int, ...], ...]
    least: int

    @property
    def most(self) -> int:
        """Most slots that count."""
        return len(self.columns)

"""What the models of a report are called."""

WINNER = "winner"
LABELS = {
    "uniform": "uniform merge",
    "greedy_soup": "greedy soup",
    "random_search": "random search",
    WINNER: "winner",
}
"""Models that are no sources: baselines and the winner."""


def label_of(name: str) -> str:
    """What people call the baseline `name`."""
    return LABELS.get(name, name)

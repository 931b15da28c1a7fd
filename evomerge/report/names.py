"""What the models of a report are called."""

WINNER = "winner"
LABELS = {
    "uniform": "uniform merge",
    "greedy_soup": "greedy soup",
    "merged": "first stage",
    "best_start": "best start",
    "random_search": "random search",
    WINNER: "winner",
}
"""Models that are no sources: baselines and the winner."""


def label_of(name: str) -> str:
    """What people call the baseline `name`."""
    return LABELS.get(name, name)

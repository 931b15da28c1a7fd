"""Numbers of unlike size in one table."""

import pytest

from evomerge.report.tables import results

SUMMARY = {
    "objectives": [{"name": "it", "direction": "minimize"}],
    "averaged": False,
}


@pytest.mark.parametrize(
    ("value", "se", "shown"),
    [
        (0.5, 0.1, "0.500 ± 0.100"),
        (1.0, 0.0, "1.000 ± 0.000"),  # a score of every item
        (32.0, 0.0, "32"),
        (10731524096.0, 0.0, "10,731,524,096"),
        (17.25, 1.5, "17.250 ± 1.500"),
        (2487.6, 248.8, "2,488 ± 249"),
    ],
)
def test_scores_counts_and_speeds(value, se, shown):
    summary = SUMMARY | {"baselines": {"base": {"it": {"value": value, "se": se}}}}
    _, [[_, cell]] = results(summary)
    assert cell == shown

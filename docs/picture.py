"""Draw a finished run: its candidates, its front, its sources and baselines, on two objectives.

    evomerge show runs/quickstart --json | python docs/picture.py docs/quickstart.svg

Candidates and front are on the items of the search; sources, baselines and winner on the test items,
with standard errors. That the winner lies below the front is what choosing the best of many does.
"""

import json
import sys
from typing import Any

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams["svg.hashsalt"] = "evomerge"  # the same picture for the same figures
import matplotlib.pyplot as plt

NEUTRAL, FRONT, WINNER, OTHER = "#b9c0c8", "#2f6fb3", "#c2410c", "#4b5563"


def draw(summary: dict[str, Any], path: str) -> None:
    """Write the picture of a run (`evomerge show --json`) with two or more objectives."""
    first, second = [o["name"] for o in summary["objectives"]][:2]
    scored = [c["objectives"] for c in summary["candidates"] if c["objectives"]]
    front = sorted(
        (c["objectives"] for c in summary["candidates"] if c["on_front"]),
        key=lambda found: found[first]["value"],
    )
    figure, axes = plt.subplots(figsize=(7.2, 4.8), layout="constrained")
    axes.scatter(*_points(scored, first, second), s=10, color=NEUTRAL, label="candidates")
    axes.plot(*_points(front, first, second), "o-", ms=4, color=FRONT, label="front (search items)")
    for name, found in summary["baselines"].items():
        color = WINNER if name == "winner" else OTHER
        x, y = found[first], found[second]
        axes.errorbar(x["value"], y["value"], y["se"], x["se"], "s", ms=4, lw=0.8, color=color)
        axes.annotate(
            name.replace("_", " "), (x["value"], y["value"]), (5, 4), color=color, fontsize=9,
            textcoords="offset points",
        )  # fmt: skip
    axes.plot([], [], "s", ms=4, color=OTHER, label="on test items, ± standard error")
    axes.set_xlabel(first)
    axes.set_ylabel(second)
    axes.legend(frameon=False, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})


def _points(
    found: list[dict[str, Any]], first: str, second: str
) -> tuple[list[float], list[float]]:
    return [f[first]["value"] for f in found], [f[second]["value"] for f in found]


if __name__ == "__main__":
    draw(json.load(sys.stdin), sys.argv[1])

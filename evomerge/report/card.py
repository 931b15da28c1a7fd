"""The model card of an export: lineage, scores with errors, how to make it again."""

from collections.abc import Mapping
from typing import Any

from evomerge.report.honest_text import answers_table, gains_table, luck_table
from evomerge.report.paths import path_text
from evomerge.report.tables import results, verdict
from search_spaces.recipe import Recipe

CARD = """\
---
library_name: transformers
tags:
- merge
- evomerge
base_model:
{parents}
---

# {title}

A merge of {count} models by `{method}`, found by evomerge:
candidate {id} of {asked} ({algorithm}, seed {seed}).
{layers}
## Scores

{scores}

## Lineage

{lineage}

## Make it again

`recipe.yaml` is the whole recipe: `evomerge merge recipe.yaml OUT` writes the same bytes.
Recipe hash `{digest}`. Versions: {versions}.
"""


def model_card(
    *,
    title: str,
    recipe: Recipe,
    candidate: Mapping[str, Any],
    summary: Mapping[str, Any],
    config: Any,
    measured: bool,
) -> str:
    """The README.md of an exported model.

    Args:
        title: of the model.
        recipe: with the sources' names of the run.
        candidate: its entry in the summary.
        summary: of the run (`summarise`).
        config: the frozen run file.
        measured: whether the candidate was scored on the test items.
    """
    sources = config.frozen.sources
    return CARD.format(
        parents="\n".join(f"- {config.models.sources[n].model}" for n in recipe.sources),
        title=title,
        count=len(recipe.sources),
        method=recipe.method,
        id=candidate["id"],
        asked=summary["budget"]["done"],
        algorithm=config.search.algorithm or "default algorithm",
        seed=config.search.seed,
        layers=f"\nLayers: {path_text(recipe)}.\n" if summary["stacks"] else "",
        scores=test_scores(summary) if measured else own_scores(candidate),
        lineage="\n".join(_source_line(name, sources[name]) for name in recipe.sources),
        digest=candidate["recipe_hash"],
        versions=", ".join(f"{name} {v}" for name, v in config.frozen.packages.items()),
    )


def test_scores(summary: Mapping[str, Any]) -> str:
    """Winner and baselines on the test items, as a Markdown table."""
    lines = ["On test items, which the search never saw (± standard error):", ""]
    lines += [*_markdown(*results(summary)), "", verdict(summary)]
    honesty = summary["honesty"]
    if honesty:
        lines += ["", "Gains in points on the same test items [95 % interval], p corrected:", ""]
        lines += [*_markdown(*gains_table(honesty)), ""]
        lines += ["The winner's scores, without the luck of being picked by them:", ""]
        lines += [*_markdown(*luck_table(honesty)), ""]
        head, rows = answers_table(honesty)
        lines += [*_markdown(head, rows), ""] if rows else []
        lines += [f"- {sentence}" for sentence in honesty["sentences"]]
    return "\n".join(lines)


def _markdown(head: list[str], rows: list[list[str]]) -> list[str]:
    return ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)]


def own_scores(candidate: Mapping[str, Any]) -> str:
    """A candidate that is not the winner: what is known, and what is not."""
    kind = "selection" if candidate["selection"] else "search"
    estimates = candidate["selection"] or candidate["objectives"]
    lines = [f"- {name}: {e['value']:.3f} ± {e['se']:.3f}" for name, e in estimates.items()]
    return (
        f"On the {kind} items (this candidate was chosen by hand and is not measured on the test"
        " items; expect a little less):\n\n" + "\n".join(lines)
    )


def _source_line(name: str, source: Any) -> str:
    weights = {file: h for file, h in source.files.items() if file.endswith(".safetensors")}
    hashes = ", ".join(f"`{file}` sha256 {digest[:16]}…" for file, digest in weights.items())
    revision = f" at {source.revision}" if source.revision else ""
    return f"- **{name}**{revision}: {hashes}"

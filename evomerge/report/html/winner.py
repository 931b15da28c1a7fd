"""The winner's recipe as a picture: its numbers over the depth, or its stack of layers."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evomerge.config import STACKS
from evomerge.report.html.drawing import COLOURS, SYMBOLS, axis, layout
from evomerge.report.html.recipes import genome_lines
from evomerge.report.html.section import (
    Section,
    bullets,
    figure,
    folded,
    lettering,
    paragraph,
    table,
)
from evomerge.report.html.story import Story
from evomerge.report.paths import origin, path_text

if TYPE_CHECKING:
    from search_spaces.plans import TensorPlan
    from search_spaces.recipe import Recipe

TENSORS = {
    "embed": "model.embed_tokens.weight",
    "attn": "model.layers.{}.self_attn.q_proj.weight",
    "mlp": "model.layers.{}.mlp.up_proj.weight",
    "norm": "model.layers.{}.input_layernorm.weight",
    "lm_head": "lm_head.weight",
}
"""A tensor of each component, by whose plan the component is shown."""
ROWS = {name: "embed, head" if name in ("embed", "lm_head") else name for name in TENSORS}
"""The row of a picture that a component stands in."""
UNKNOWN_DEPTH = 8
"""Columns of a recipe whose numbers change over a depth that nothing says."""
PICTURES = 8

Grid = dict[tuple[str, str], dict[str, float]]
"""(source or empty, component) -> column -> value."""


def winner(story: Story) -> Section:
    """What goes into the winner, where."""
    title = (
        "The best candidate so far"
        if story.feasible
        else "The candidate nearest to the constraints"
    )
    title = "The winner's recipe" if story.final else title
    if story.best is None:
        return Section("recipe", title, paragraph("No candidate has been scored yet."))
    best, sources = story.best, list(story.config.models.sources)
    html = paragraph(_words(story))
    if story.recipe is None:
        html += paragraph(
            "Its layers cannot be drawn: no recipe is recorded before the run ends, and the sources"
            " are not where the run left them. Its variables, in short:",
            "note",
        ) + bullets(genome_lines(best["genome"], sources, story.kept))
    else:
        if story.config.space.kind in STACKS:
            html += _stack(story.recipe, _layers(story, story.recipe))
        html += _pictures(story, story.recipe)
    rows = [[name, _value(value)] for name, value in best["genome"].items()]
    html += folded(
        f"Its {len(rows)} variables as a table",
        table(["variable", "value"], rows, f"Genome of candidate {best['id']}"),
    )
    return Section("recipe", title, html)


def _words(story: Story) -> str:
    assert story.best is not None
    best, recipe = story.best, story.recipe
    text = f"Candidate {best['id']}, number {best['id'] + 1} of {len(story.summary['candidates'])}"
    if recipe is None:
        return f"{text}; recipe hash {best['recipe_hash'][:16]}."
    if story.config.space.kind in STACKS:
        text += f": layers {path_text(recipe)}"
    else:
        text += f": a merge of {', '.join(recipe.sources)} by {recipe.method}"
    return (
        f"{text}; recipe hash {recipe.hash[:16]}. The recipe itself stands under “Make it again”."
    )


def _value(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _stack(recipe: "Recipe", layers: int) -> str:
    """The stack: for each of its layers, whose it is and which of theirs."""
    places: list[tuple[int, str, int, float]] = []
    for part in recipe.slices:
        span = part.inputs[0].layers or (0, layers)
        for layer in range(*span):
            scale = part.input_scale if layer == span[0] else 1.0
            places.append((len(places), origin(recipe, part), layer, scale))
    names = list(dict.fromkeys(name for _, name, _, _ in places))
    traces: list[dict[str, Any]] = [
        {
            "type": "scatter", "mode": "lines", "showlegend": False, "hoverinfo": "skip",
            "x": [p[0] for p in places], "y": [p[2] for p in places],
            "line": {"color": "var(--line)", "width": 1.5},
        }
    ]  # fmt: skip
    for number, name in enumerate(names):
        mine = [p for p in places if p[1] == name]
        scaled = any(p[3] != 1 for p in mine)
        traces.append(
            {
                "type": "scatter", "mode": "markers+text" if scaled else "markers",
                "name": lettering(name), "x": [p[0] for p in mine], "y": [p[2] for p in mine],
                "text": ["" if p[3] == 1 else f"×{p[3]:.2f}" for p in mine],
                "textposition": "top center",
                "hovertemplate": f"layer %{{x}}: {lettering(name)} %{{y}} %{{text}}<extra></extra>",
                "marker": {"size": 13, "symbol": SYMBOLS[number % len(SYMBOLS)],
                           "color": COLOURS[number % len(COLOURS)]},
            }
        )  # fmt: skip
    spec = {
        "data": traces,
        "layout": layout(
            xaxis=axis("layer of the result, bottom first"),
            yaxis=axis("layer of the model it comes from"),
        ),
    }
    says = "The stack, layer by layer: where each comes from, and the factor on what flows into it"
    rows = [[i, name, layer, f"{scale:.4g}"] for i, name, layer, scale in places]
    head = ["layer", "from", "its layer", "input scale"]
    return figure("stack-plot", spec, f"{says} (×).", height=380) + folded(
        f"The stack as a table ({len(rows)} layers)", table(head, rows, "The stack")
    )


def _pictures(story: Story, recipe: "Recipe") -> str:
    """A heat map per number of the rule."""
    layers = _layers(story, recipe)
    grids, columns = numbers_of(recipe, layers)
    same = [f"{n} {v:g}" for n, v in constants(recipe, layers).items() if n not in grids]
    if story.config.space.kind in STACKS and not grids:
        return ""
    html = paragraph(f"The same everywhere: {', '.join(same)}.") if same else ""
    if not grids:
        return html
    tables = ""
    for number, (parameter, grid) in enumerate(list(grids.items())[:PICTURES]):
        html += _heat_map(number, parameter, grid, columns)
        rows = [
            [f"{source} {part}".strip(), *(_cell(row.get(c)) for c in columns)]
            for (source, part), row in grid.items()
        ]
        tables += table(["", *columns], rows, f"{parameter}, by source, component and layer")
    return html + folded("The same as tables", tables)


def _cell(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def numbers_of(recipe: "Recipe", layers: int) -> tuple[dict[str, Grid], list[str]]:
    """Parameter -> its values by source, component and layer; and the columns' names.

    Args:
        recipe: any.
        layers: of each source.
    """
    grids, columns = _gridded(recipe, layers)
    same = constants(recipe, layers)
    found = {name: grid for name, grid in grids.items() if name not in same or name == "weight"}
    used = {c for grid in found.values() for row in grid.values() for c in row}
    return found, [c for c in columns if c in used]


def _gridded(recipe: "Recipe", layers: int) -> tuple[dict[str, Grid], list[str]]:
    """Every number of a recipe, and every column."""
    depth = recipe.depth(layers)
    grids: dict[str, Grid] = {}
    for component, pattern in TENSORS.items():
        inside = "{}" in pattern
        tensors = [pattern.format(i) for i in range(depth)] if inside else [pattern]
        for number, plan in enumerate(recipe.plans(tensors, layers)):
            column = str(number) if inside else component
            for parameter, source, value in _numbers(plan):
                row = grids.setdefault(parameter, {}).setdefault((source, ROWS[component]), {})
                row[column] = value
    return grids, ["embed", *map(str, range(depth)), "lm_head"]


def _numbers(plan: "TensorPlan") -> list[tuple[str, str, float]]:
    found: list[tuple[str, str, float]] = []
    for entry in plan.inputs:
        found += [(n, entry.source, float(v)) for n, v in entry.parameters.items() if _number(v)]
    found += [(n, "", float(v)) for n, v in plan.parameters.items() if _number(v)]
    return found


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def constants(recipe: "Recipe", layers: int) -> dict[str, float]:
    """Parameters that are one number everywhere."""
    grids, _ = _gridded(recipe, layers)
    return {
        name: values.pop()
        for name, grid in grids.items()
        if len(values := {v for row in grid.values() for v in row.values()}) == 1
    }


def _layers(story: Story, recipe: "Recipe") -> int:
    """Layers of each source: as far as the recipe reaches into them, or as their configuration says."""
    spans = [i.layers for part in recipe.slices for i in part.inputs]
    reached = [span[1] for span in spans if span is not None]
    if len(reached) == len(spans):
        return max(reached)
    assert story.config.frozen is not None
    for source in story.config.frozen.sources.values():
        try:
            config = json.loads((Path(source.folder) / "config.json").read_text())
            return int(config["num_hidden_layers"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return UNKNOWN_DEPTH


def _heat_map(number: int, parameter: str, grid: Grid, columns: Sequence[str]) -> str:
    rows = list(grid.items())[::-1]
    cells: list[list[float | None]] = [[row.get(c) for c in columns] for _, row in rows]
    known = [v for row in cells for v in row if v is not None]
    signed = min(known) < 0
    most = max(map(abs, known)) or 1.0
    heat: dict[str, Any] = {
        "type": "heatmap",
        "x": list(columns),
        "y": [lettering(f"{source} {component}".strip()) for (source, component), _ in rows],
        "z": cells,
        "zmin": -most if signed else 0,
        "zmax": most,
        "colorscale": "diverging" if signed else "sequential",
        "xgap": 1.5,
        "ygap": 1.5,
        "colorbar": {"thickness": 10, "outlinewidth": 0, "len": 0.9},
        "hovertemplate": f"{lettering(parameter)} of %{{y}}, layer %{{x}}: %{{z:.3f}}<extra></extra>",
    }
    if len(columns) <= 12:
        heat["texttemplate"] = "%{z:.2f}"
    spec = {
        "data": [heat],
        "layout": layout(
            xaxis=axis("layer", type="category"),
            yaxis=axis(type="category", tickfont={"size": 11}),
        ),
    }
    says = f"{parameter} by source and component (rows) and layer of the result (columns)."
    return figure(f"recipe-plot-{number}", spec, says, height=110 + 26 * len(rows))

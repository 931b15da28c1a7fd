"""The honest winner in words and tables: what `show` prints and the model card says."""

from collections.abc import Mapping
from typing import Any

from evomerge.report.names import WINNER, label_of

CLEAR = 0.05
"""Corrected p below which a difference is called clear."""
NOTABLE = 0.25
"""Share of a gain from unfinished answers that a reader is warned of."""

Honesty = Mapping[str, Any]
Grid = tuple[list[str], list[list[str]]]


def gains_table(honesty: Honesty) -> Grid:
    """Head and rows: the winner's gain over each model, in points, by score."""
    names = list(honesty["scores"])
    cells: dict[str, dict[str, str]] = {}
    for pair in honesty["comparisons"]:
        interval = f"{_points(pair['gain'])} [{_points(pair['low'])}, {_points(pair['high'])}]"
        cells.setdefault(pair["baseline"], {})[pair["objective"]] = (
            f"{interval}  {probability(pair['p_holm'])}"
        )
    rows = [[label_of(b), *(found[name] for name in names)] for b, found in cells.items()]
    return ["winner over", *names], rows


def luck_table(honesty: Honesty) -> Grid:
    """Head and rows: the winner's scores by the items they come from, plain and without luck."""
    rows: list[list[str]] = []
    for name, found in honesty["scores"].items():
        cells = [name]
        for split in ("search", "selection"):
            cells += [f"{found[split]['value']:.3f}", _corrected(found[split]["corrected"])]
        rows.append([*cells, f"{found['test']['value']:.3f} ± {found['test']['se']:.3f}"])
    first = next(iter(honesty["scores"].values()))
    head = ["score", f"search (of {first['search']['of']})", "without luck"]
    head += [f"selection (of {first['selection']['of']})", "without luck", "test"]
    return head, rows


def answers_table(honesty: Honesty) -> Grid:
    """Head and rows: truncated and unparsed answers by model; no rows if there are none."""
    found = honesty["answers"]
    rows = [
        [
            label_of(name),
            *(_counted(a[what], a["items"]) for what in ("truncated", "parse_failures")),
        ]
        for name, a in found.items()
    ]
    if not any(a["unfinished"] for a in found.values()):
        rows = []
    return ["model", "cut at the token limit", "no answer found"], rows


def sentences(honesty: Honesty) -> list[str]:
    """What the figures come to, for the mean or else score by score, and warnings."""
    found = [f"the winner is the same model as {label_of(other)}" for other in honesty["same"]]
    if honesty["missing"]:
        names = ", ".join(honesty["missing"])
        found.append(f"no test score for {names}: it is not known which source is the best")
    for name in honesty["judged"]:
        found += _of_score(honesty, name)
    return found


def _of_score(honesty: Honesty, name: str) -> list[str]:
    """What the figures come to for one score."""
    found: list[str] = []
    survived = next(s for s in honesty["survived"] if s["objective"] == name)
    pairs = {p["baseline"]: p for p in honesty["comparisons"] if p["objective"] == name}
    best = survived["source"]
    if best in pairs:
        found.append(_against(name, best, pairs[best], len(pairs)))
    found += _clear(name, pairs) + _left(survived)
    found.append(_luck(name, honesty["scores"][name]))
    return [*found, *filter(None, (_unfinished(p, honesty["answers"]) for p in pairs.values()))]


def _against(name: str, best: str, pair: Mapping[str, Any], tests: int) -> str:
    """The winner against the best source."""
    corrected = f", corrected for {tests} comparisons" if tests > 1 else ""
    return (
        f"{name}: {_points(pair['gain'])} points over the best source ({best}), 95 % interval"
        f" {_points(pair['low'])} to {_points(pair['high'])},"
        f" {probability(pair['p_holm'])}{corrected}"
        f" ({pair['gained']} of {pair['items']} items gained, {pair['lost']} lost)"
    )


def _clear(name: str, pairs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Whom the winner is clearly better or worse than, and from whom luck could part it."""
    kinds: dict[str, list[str]] = {}
    for other, pair in pairs.items():
        side = "better than" if pair["gain"] > 0 else "worse than"
        clear = pair["p_holm"] < CLEAR
        kind = f"clearly {side}" if clear else "within luck of"
        kinds.setdefault(kind, []).append(label_of(other))
    order = ("clearly better than", "within luck of", "clearly worse than")
    said = [f"{kind} {', '.join(kinds[kind])}" for kind in order if kind in kinds]
    return [f"{name}: the winner is {'; '.join(said)}"] if said else []


def _left(survived: Mapping[str, Any]) -> list[str]:
    """How much of the gain over the best source the test items confirm."""
    if survived["source"] is None:
        return []
    seen = [
        f"{_points(survived[split])} on {split} items"
        for split in ("search", "selection", "test")
        if survived[split] is not None
    ]
    share = survived["share"]
    kept = "" if share is None else f": {_share(share)} of the first is left"
    return [
        f"gain over the best source ({survived['source']}) in points of {survived['objective']}: "
        + ", ".join(seen)
        + kept
    ]


def _luck(name: str, found: Mapping[str, Any]) -> str:
    """What the selection items promise without the luck of the pick, beside the test score."""
    selection, test = found["selection"], found["test"]
    corrected = selection["corrected"]
    within = corrected["low"] <= test["value"] <= corrected["high"]
    return (
        f"{name} on selection items is {selection['value']:.3f}, the pick of {selection['of']};"
        f" without the luck of the pick {corrected['value']:.3f}"
        f" (95 % interval {corrected['low']:.3f} to {corrected['high']:.3f});"
        f" on test items {test['value']:.3f}" + ("" if within else ", outside that interval")
    )


def _unfinished(pair: Mapping[str, Any], answers: Mapping[str, Any]) -> str:
    """A warning where a gain goes together with fewer unfinished answers; else empty."""
    ours, theirs = (answers[name] for name in (WINNER, pair["baseline"]))
    fewer = ours["unfinished"] < theirs["unfinished"]
    if not fewer or pair["gain"] <= 0 or pair["gain_unfinished"] < NOTABLE * pair["gain"]:
        return ""
    return (
        f"warning: {_points(pair['gain_unfinished'])} of the {_points(pair['gain'])} points of"
        f" {pair['objective']} over {label_of(pair['baseline'])} come from"
        f" {pair['unfinished']} items where an answer was cut or could not be read"
        f" ({theirs['unfinished']} of its answers, {ours['unfinished']} of the"
        f" winner's); where both answered, the gain is {_points(pair['gain_finished'])}"
    )


def _points(share: float) -> str:
    return f"{100 * share:+.1f}"


def probability(p: float) -> str:
    """`p = 0.012`: two digits, as small as 0.001."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def _share(share: float) -> str:
    return "all" if share >= 1 else f"{100 * max(0.0, share):.0f} %"


def _counted(count: int, of: int) -> str:
    return f"{count} of {of} ({100 * count / of:.1f} %)"


def _corrected(found: Mapping[str, float]) -> str:
    return f"{found['value']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"

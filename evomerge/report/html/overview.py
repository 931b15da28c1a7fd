"""The first page: what was searched, how long, who won, by how much, and whether to believe it."""

from collections.abc import Mapping
from typing import Any

from evomerge.config import STACKS
from evomerge.live.words import duration, estimate
from evomerge.report.honest_text import CLEAR, probability
from evomerge.report.html.failures import troubles
from evomerge.report.html.section import Section, bullets, esc, paragraph
from evomerge.report.html.story import Story
from evomerge.report.names import WINNER, label_of
from evomerge.report.stacks import sentences_of
from evomerge.report.tables import lookup_cost, verdict

SAID_ABOVE = (
    "points over the best source (", "the winner is the same model as", "which source is the best",
)  # fmt: skip
"""Parts of the honest sentences that the margins or the answer say already."""
RIVALS = ("uniform", "greedy_soup", "merged", "best_start", "random_search")


def overview(story: Story) -> Section:
    """Headline, numbers, and four short answers."""
    parts = [_strip(story), "<h3>What was searched</h3>", paragraph(_searched(story))]
    parts += [paragraph(text) for text in _going(story)]
    parts.append(bullets(sentences_of(story.summary["stacks"])))
    parts += ["<h3>Who won</h3>", paragraph(headline(story)), bullets(_margins(story))]
    parts += ["<h3>Should you believe it?</h3>", _belief(story)]
    wrong = troubles(story)
    parts += ["<h3>What went wrong</h3>", bullets(wrong) or paragraph("Nothing that is on record.")]
    return Section("overview", "In short", "".join(parts))


def headline(story: Story) -> str:
    """Who won, in a sentence."""
    best, summary = story.best, story.summary
    if best is None:
        if first_stage(story) and not summary["candidates"]:
            merges = first_stage(story)["candidates"]
            return (
                f"Nobody yet: {merges} merges of the first stage are in, the second has not begun."
            )
        done = summary["budget"]["done"]
        return "No candidate has been evaluated yet." if not done else "No candidate was scored."
    scores = ", ".join(
        f"{n} {estimate(e['value'], e['se'])}" for n, e in best["objectives"].items()
    )
    if not story.final:
        return _without_winner(story, best, scores)
    if WINNER not in summary["baselines"]:
        return f"Candidate {best['id']} was chosen ({scores} on search items); not tested yet."
    tested = summary["baselines"][WINNER]
    scores = ", ".join(f"{n} {estimate(e['value'], e['se'])}" for n, e in tested.items())
    won = f"Candidate {best['id']} won, with {scores} on test items that the search never saw"
    if story.reopened:
        won += (
            ", under the budget before it was raised;"
            f" the search is {summary['status']}, and another may win"
        )
    return f"{won}."


def _without_winner(story: Story, best: Mapping[str, Any], scores: str) -> str:
    """Why nobody won, or not yet, and who comes nearest to it."""
    done = story.summary["status"] == "done"
    nobody = "Nobody" if done else f"Nobody yet: the search is {story.summary['status']}"
    if not story.feasible:
        kept = (
            "no candidate kept every constraint"
            if done
            else "no candidate has kept every constraint"
        )
        return (
            f"{nobody}{':' if done else ', and'} {kept}. The nearest to it is candidate {best['id']}"
            f" ({scores} on search items)."
        )
    if done:
        nobody += ": no finalist was scored on the selection items"
    so_far = "" if done else " so far"
    return (
        f"{nobody}. The best{so_far} is candidate {best['id']} ({scores} on search items, where luck"
        " flatters the best)."
    )


def first_stage(story: Story) -> Mapping[str, Any]:
    """What is known of the first of two stages; empty where there is one."""
    return (story.summary["stacks"] or {}).get("first_stage") or {}


def _strip(story: Story) -> str:
    """The few numbers that come first."""
    budget, summary = story.summary["budget"], story.summary
    cells: list[tuple[str, str, str]] = []
    for pair in filter(None, over_best_source(story).values()):
        low, high = 100 * pair["low"], 100 * pair["high"]
        name = label_of(pair["baseline"])
        cells.append(
            (f"{100 * pair['gain']:+.1f}", f"points over {name}, the {_best_source(story)}",
             f"{pair['objective']}, 95 % {low:+.1f} to {high:+.1f}")
        )  # fmt: skip
    share = (
        f"of {budget['evaluations']}, {budget['failed']} failed, {budget['cached']} known already"
    )
    cells.append((f"{budget['done']}", "candidates", share))
    cells.append(
        (duration(story.clock.total), "at work", f"{summary['answers']:,} answers to search items")
    )
    if len(story.goals.names) > 1 and story.feasible:
        front = sum(c["on_front"] for c in summary["candidates"])
        cells.append(
            (f"{front}", "on the front", f"hypervolume {summary['hypervolume']:.4f}"
             f" ± {summary['hypervolume_se']:.4f}")
        )  # fmt: skip
    boxes = "".join(
        f"<div><dt>{esc(what)}</dt><dd>{esc(number)}</dd><dd class='more'>{esc(more)}</dd></div>"
        for number, what, more in cells
    )
    return f'<dl class="strip">{boxes}</dl>'


def over_best_source(story: Story) -> dict[str, Mapping[str, Any] | None]:
    """By the mean, or by each score where there is none, the winner against the best source; None: it
    is that source."""
    honesty = story.summary["honesty"]
    names = honesty["judged"] if honesty else []
    return {name: _pairs(story, name).get(_source(story, name)) for name in names}


def _source(story: Story, name: str) -> str | None:
    """The best source by a score; None: no source has one."""
    survived = story.summary["honesty"]["survived"]
    return next(found["source"] for found in survived if found["objective"] == name)


def _best_source(story: Story) -> str:
    """What that source may be called."""
    return "best source that was scored" if story.unscored_sources else "best source"


def _pairs(story: Story, name: str) -> dict[str | None, Mapping[str, Any]]:
    """The winner's comparisons by a score."""
    pairs = story.summary["honesty"]["comparisons"]
    return {p["baseline"]: p for p in pairs if p["objective"] == name}


def _searched(story: Story) -> str:
    config = story.config
    space, names = config.space, list(config.models.sources)
    rules = space.merging.rules if space.merging is not None else []
    what = f"which layers of {_listed(names)} should follow each other (space: {space.kind})"
    if space.kind not in STACKS:
        what = f"how to merge {_listed(names)} by {_listed(rules, 'or')}"
    elif rules:
        what += f", merged by {_listed(rules, 'or')}"
    ways = [
        f"the {'highest' if d == 'maximize' else 'lowest'} {n}"
        for n, d in zip(story.goals.names, story.goals.directions, strict=True)
    ]
    tasks = _listed(list(config.fitness.tasks))
    budget = story.summary["budget"]
    chance = story.phases["random"].candidates
    also = f", and {len(chance)} at random to compare with," if chance else ""
    first = first_stage(story)
    staged = f" ({first['candidates']} of them merges in a first stage)" if first else ""
    return (
        f"This search asked {what}, for {_listed(ways)}, judged by {tasks}. With {story.algorithm} over"
        f" {len(story.variables)} variables it tried {budget['done']} candidates{staged}{also}"
        f" in {duration(story.clock.total)}."
    )


def _going(story: Story) -> list[str]:
    """How fast a run is while it runs, and what ended the search where it was no count."""
    summary = story.summary
    if summary["status"] == "running":
        left = summary["eta_seconds"]
        about = "" if left is None else f"; at this rate everything is done in {duration(left)}"
        return [f"It is running, at {summary['rate_per_hour']:.0f} evaluations an hour{about}."]
    if summary["ended_by"] not in (None, "evaluations"):
        return [f"The search ended by its limit of {summary['ended_by']}."]
    return []


def _listed(names: list[str], joint: str = "and") -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {joint} {names[-1]}"


def _margins(story: Story) -> list[str]:
    """By how much, over whom."""
    honesty = story.summary["honesty"]
    if honesty is None:
        return [line] if (line := verdict(story.summary)) else []
    found = [f"the winner is the same model as {label_of(other)}" for other in honesty["same"]]
    for score in honesty["judged"]:
        pairs, best = _pairs(story, score), _source(story, score)
        for name in (best, *RIVALS):
            if name in pairs:
                p = pairs[name]
                who = f"the {_best_source(story)} ({name})" if name == best else label_of(str(name))
                found.append(
                    f"{100 * p['gain']:+.1f} points of {score} over {who}, 95 % interval"
                    f" {100 * p['low']:+.1f} to {100 * p['high']:+.1f}, {probability(p['p_holm'])}"
                    f" ({p['gained']} items gained, {p['lost']} lost of {p['items']})"
                )
    return found


def answer(story: Story) -> tuple[str, str]:
    """Whether to believe that the winner is better: a class (`yes`, `no`, `wait`) and a sentence."""
    if story.summary["honesty"] is None:
        return _untested(story)
    if missing := story.unscored_sources:
        lack = f"{_listed(missing)} {'has' if len(missing) == 1 else 'have'} no score"
        yet = "" if all(name in story.summary["unscored"] for name in missing) else " yet"
        return "wait", f"Not known: {lack} on the test items{yet}, so the best source is not known."
    found = by_score(story)
    if len(found) == 1:
        return next(iter(found.values()))
    good = [name for name, (kind, _) in found.items() if kind == "yes"]
    rest = [name for name in found if name not in good]
    better = "clearly better than the best source on unseen items"
    if not rest:
        return "yes", f"Yes: by each score ({_listed(good)}) it is {better}."
    if not good:
        return "no", f"No: by none of its scores ({_listed(rest)}) is it {better}."
    return "no", f"In part: by {_listed(good)} it is {better}; by {_listed(rest)} it is not."


def _untested(story: Story) -> tuple[str, str]:
    """The same where there is no comparison at all."""
    if story.final and WINNER in story.summary["baselines"]:
        return "wait", "No objective is a task's score, so no gain was tested."
    if story.summary["status"] == "done" and not story.final:
        return "no", "There is no winner to judge."
    return "wait", "Too early to say: nothing was scored on items that the search never saw."


def by_score(story: Story) -> dict[str, tuple[str, str]]:
    """The same by the mean, or by each score where there is none."""
    return {name: _judge(story, name, pair) for name, pair in over_best_source(story).items()}


def _judge(story: Story, name: str, pair: Mapping[str, Any] | None) -> tuple[str, str]:
    """The same by one score, from the comparison with the best source."""
    if pair is None:
        return "no", "The winner is one of the sources: take that model, there is nothing to gain."
    source, clear = label_of(pair["baseline"]), pair["p_holm"] < CLEAR
    if clear and pair["gain"] > 0:
        return (
            "yes",
            f"Yes: it is clearly better than the best source ({source}) on unseen items."
            + _against_chance(_pairs(story, name)),
        )
    return "no", _no(pair, source) + _below_chance(_pairs(story, name))


def _no(pair: Mapping[str, Any], source: str) -> str:
    """Why a winner is not to be believed in."""
    if pair["p_holm"] < CLEAR:
        return f"No: it is clearly worse than {source} on unseen items. Keep {source}."
    chance = probability(pair["p_holm"])
    if pair["gain"] > 0:
        points = f"{100 * pair['gain']:.1f} points above the best source ({source})"
        more = "More test items, or a longer search, would tell."
        return f"Not yet: it is {points}, no more than luck explains ({chance}). {more}"
    return f"No: it is not above the best source ({source}), and within luck of it ({chance})."


def _below_chance(pairs: Mapping[str | None, Mapping[str, Any]]) -> str:
    """A random search that did better, where nothing else is said of it."""
    pair = pairs.get("random_search")
    if pair is None or pair["high"] >= 0:
        return ""
    return (
        f" The random search of the same budget is {-100 * pair['gain']:.1f} points above it: take its"
        " winner's figures for what the space holds."
    )


def _against_chance(pairs: Mapping[str | None, Mapping[str, Any]]) -> str:
    """What a random search of the same budget has to say."""
    pair = pairs.get("random_search")
    if pair is None:
        return ""
    if pair["p_holm"] < CLEAR and pair["gain"] > 0:
        return " A random search of the same budget does clearly worse."
    return (
        " But a random search of the same budget comes within luck of it, or better: the gain owes more"
        " to the space than to the algorithm."
    )


def _belief(story: Story) -> str:
    kind, text = answer(story)
    honest = story.summary["honesty"]
    others = [n for n in story.goals.names if honest and n not in honest["scores"]]
    if others:
        stand = "stands" if len(others) == 1 else "stand"
        text += (
            f" That is about {_listed(honest['judged'])} alone; {_listed(others)} {stand} in the table"
            " of test scores."
        )
    if story.reopened:
        text += " That is about the winner before the budget was raised."
    said = honest["sentences"] if honest else []
    found = {} if story.unscored_sources else by_score(story)
    more = [f"{name}: {line}" for name, (_, line) in found.items()] if len(found) > 1 else []
    more += [line for line in said if not any(part in line for part in SAID_ABOVE)]
    if cost := lookup_cost(story.summary):
        more.append(cost)
    return f'<p class="answer {kind}">{esc(text)}</p>' + bullets(more)

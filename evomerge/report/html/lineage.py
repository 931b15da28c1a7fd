"""Lineage: the sources, what they are allowed for, and how they became the winner."""

from typing import TYPE_CHECKING

from evomerge.config import STACKS, SourceFiles
from evomerge.report.html.section import Section, bullets, esc, folded, paragraph, table
from evomerge.report.html.story import Story
from evomerge.run_sources import location_of

if TYPE_CHECKING:
    from evomerge.licences import Licence


def lineage(story: Story) -> Section:
    """From the sources to the winner."""
    licences = _licences(story)
    html = _way(story)
    rows: list[list[str]] = []
    for name, files in _sources(story).items():
        given = story.config.models.sources[name]
        model = given.model + (f" + {given.lora}" if given.lora else "")
        own = " + ".join(_said(licences[part]) for part in _parts(name) if part in licences)
        rows.append([name, model, files.revision or "–", own, _weights(files)])
    head = ["source", "model", "revision", "licence", "weights, sha256"]
    html += table(head, rows, "Sources", words=5) + _judged(story, licences)
    every = [
        [name, file, digest]
        for name, files in _sources(story).items()
        for file, digest in files.files.items()
    ]
    html += folded(
        f"Every file's hash ({len(every)})",
        table(["source", "file", "sha256"], every, "Files the run began with", words=3),
    )
    return Section("lineage", "Lineage", html)


def _sources(story: Story) -> dict[str, SourceFiles]:
    assert story.config.frozen is not None
    return story.config.frozen.sources


def _weights(files: SourceFiles) -> str:
    hashes = [d[:12] + "…" for file, d in files.files.items() if file.endswith(".safetensors")]
    return ", ".join(hashes[:3]) + (f" and {len(hashes) - 3} more" if len(hashes) > 3 else "")


def _licences(story: Story) -> "dict[str, Licence | None]":
    """As the sources' folders say it now, an adapter's apart; None where one says nothing, or is gone."""
    from evomerge.licences import licences_of

    return licences_of({name: location_of(files) for name, files in _sources(story).items()})


def _parts(source: str) -> tuple[str, str]:
    """What a source's licences are called."""
    from evomerge.licences import lora_of

    return source, lora_of(source)


def _said(licence: "Licence | None") -> str:
    return f"{licence.name} ({licence.origin})" if licence else "not found"


def _judged(story: Story, licences: "dict[str, Licence | None]") -> str:
    """What a merge of those sources may carry."""
    from evomerge.licences import judge_licences

    used = set(story.recipe.sources) if story.recipe is not None else set(licences)
    parts = {part for name in used for part in _parts(name)}
    verdict = judge_licences({n: found for n, found in licences.items() if n in parts})
    licence = "not settled" if verdict.unread else verdict.licence or "not known"
    said = [*verdict.conflicts, *verdict.duties]
    if verdict.unknown:
        said.append(f"no licence was found for {', '.join(verdict.unknown)}: ask before you share")
    if verdict.unread:
        said.append(f"the terms of {', '.join(verdict.unread)} are not known here: read them")
    text = f"A merge of {', '.join(n for n in _sources(story) if n in used)} may carry: {licence}."
    note = "Read from the sources' folders when this page was made; no legal advice."
    return paragraph(text) + bullets(said) + paragraph(note, "note")


def _way(story: Story) -> str:
    """Sources, stages and winner in boxes."""
    space, budget = story.config.space, story.summary["budget"]
    names = list(story.config.models.sources)
    steps = [("sources", ", ".join(names))]
    first = (story.summary["stacks"] or {}).get("first_stage")
    if first:
        chosen = "" if first["chosen"] is None else f", winner {first['chosen']}"
        steps.append(("first stage", f"{first['candidates']} merges{chosen}, joins as merged"))
    rules = space.merging.rules if space.merging is not None else []
    what = f"{space.kind} space" if space.kind in STACKS else " or ".join(rules)
    searched = f"{story.algorithm}: {what}, {len(story.variables)} variables"
    steps.append(("search", f"{searched}, {budget['done']} of {budget['evaluations']} candidates"))
    finalists = sum(c["selection"] is not None for c in story.summary["candidates"])
    if finalists:
        steps.append(("selection items", f"{finalists} finalists scored again"))
    if story.best is not None:
        last = story.called
        steps.append((last, f"candidate {story.best['id']}, {story.best['recipe_hash'][:12]}"))
    boxes = "".join(f"<li><b>{esc(title)}</b> {esc(text)}</li>" for title, text in steps)
    return f'<ol class="way">{boxes}</ol>'

"""Parts of the model card beside the scores: parents, licences, distances, verification, limits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from evomerge.licences import Licence, Verdict, lora_of
from search_spaces.recipe import Recipe

if TYPE_CHECKING:
    from evomerge.config import RunFile
    from evomerge.hand_over.distances import Distances
    from evomerge.hand_over.verify import Verified

LONG = 16
"""Rows of a table beyond which it is folded away."""

_NEVER = (
    "other languages than those of the tasks, safety and refusals, long contexts, conversations of "
    "several turns, tool use, calibration, and every skill that is not listed above"
)


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A table."""
    return ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)]


def folded(title: str, lines: Sequence[str], *, long: bool) -> list[str]:
    """The lines, behind a line to click on where they are long."""
    if not long:
        return list(lines)
    return ["<details>", f"<summary>{title}</summary>", "", *lines, "", "</details>"]


def parents_table(
    recipe: Recipe,
    config: RunFile,
    called: Mapping[str, str],
    licences: Mapping[str, Licence | None],
) -> list[str]:
    """Each source with what it is called, its revision, its licence and its weights' hashes.

    Args:
        recipe: of the candidate.
        config: the frozen run file.
        called: by source, the run file's words.
        licences: as `licences_of` gives them.
    """
    assert config.frozen is not None
    rows: list[list[str]] = []
    for name in recipe.sources:
        source = config.frozen.sources[name]
        weights = {file: h for file, h in source.files.items() if file.endswith(".safetensors")}
        hashes = ", ".join(f"`{file}` {digest[:16]}…" for file, digest in weights.items())
        own = [licences.get(name), licences.get(lora_of(name))]
        names = [
            licence.name if licence else "unknown" for licence in own[: 2 if source.lora else 1]
        ]
        revision = f"`{source.revision[:12]}`" if source.revision else "a local folder"
        rows.append([f"**{name}**", called[name], revision, " + ".join(names), hashes])
    head = ["source", "model", "revision", "licence", "weights, sha256"]
    return folded("Parents", markdown(head, rows), long=len(rows) > LONG)


def licence_lines(verdict: Verdict) -> list[str]:
    """What the merge may carry, what has to be kept, what conflicts, what is not known."""
    if verdict.conflicts:
        first = "**These parents' licences conflict: as far as they can be read, nobody may pass it on.**"
    elif verdict.unknown:
        first = (
            f"**Not known: no licence was found for {', '.join(verdict.unknown)}.** No licence is "
            "no permission: find out before it is passed on."
        )
    elif verdict.unread:
        first = (
            f"**Not settled: the terms of {', '.join(verdict.unread)} are not among those known "
            "here.** They may forbid it: read them before it is passed on."
        )
    elif verdict.licence == "other":
        first = "Several sets of terms apply together, all of those below."
    else:
        first = f"It may carry `{verdict.licence}`, the strictest of its parents' licences."
    lines = [first, ""]
    lines += [f"- conflict: {sentence}" for sentence in verdict.conflicts]
    lines += [f"- {sentence}" for sentence in verdict.duties]
    lines += [""] if lines[-1] else []
    return [
        *lines,
        "Read from the parents' own cards and files by a table of well-known terms. "
        "A help, no legal advice.",
    ]


def distance_lines(found: Distances, names: Sequence[str]) -> list[str]:
    """The picture and its numbers.

    Args:
        found: distances of the merge and its sources.
        names: columns, the merge first.
    """
    lines = [
        f"Relative distance ‖w − r‖ / ‖r‖ of the weights from {found.reference}, per layer:",
        "",
        "![distance from the reference by layer](distances.svg)",
        "",
    ]
    whole = ["whole model", *(_share(found.whole.get(name)) for name in names)]
    rows = [whole]
    for part in [*found.layers, *(p for p in found.parts if p.layer is None)]:
        outside = f"{part.component} outside the layers"
        title = outside if part.layer is None else f"layer {part.layer}"
        rows.append([title, *(_share(part.distances.get(name)) for name in names)])
    lines += folded("Numbers", markdown(["", *names], rows), long=len(rows) > LONG)
    return lines + [
        text for warning in found.warnings for text in ("", f"- **warning**: {warning}")
    ]


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def verified_lines(found: Verified | None) -> list[str]:
    """What the comparison of the folder with the search's candidate came to."""
    if found is None:
        return ["Not verified: exported with `--no-verify`."]
    files = ", ".join(
        f"`{f.name}` ({f.bytes} bytes, sha256 `{f.sha256}`)" for f in found.files.files
    )
    lines = [
        f"- read back from disk: {files}; {found.files.tensors} tensors, all finite"
        + (f"; {found.files.rows} rows of the embedding" if found.files.rows else "")
        + (f" for {found.files.tokens} token ids" if found.files.tokens else ""),
        f"- {found.weights} weights equal the search's candidate, bit for bit",
    ]
    if found.comparison is not None:
        c = found.comparison
        lines.append(
            f"- loaded by stock transformers in {c.dtype} on {c.device}: logits after {c.tokens} tokens"
            f" of {c.prompts} prompts differ by at most {c.logits:.3g} (the largest is "
            f"{c.largest:.3g}), next-token divergence at most {c.divergence:.2g} nats, "
            f"{c.answers} of {c.prompts} greedy answers the same"
        )
    lines += [f"- {text}" for text in (found.note, *found.files.warnings) if text]
    return lines


def scope_lines(
    config: RunFile,
    items: Mapping[str, Mapping[str, int]],
    answers: Mapping[str, int] | None,
) -> list[str]:
    """What the scores rest on, and what nobody measured.

    Args:
        config: the frozen run file.
        items: by task, how many items each split has.
        answers: of the candidate: `items`, `truncated`, `parse_failures`; None: not known.
    """
    rows = [
        [
            task,
            *(str(of.get(split, 0)) for split in ("search", "selection", "test")),
            _asked(config, task),
        ]
        for task, of in items.items()
    ]
    lines = markdown(["task", "search items", "selection items", "test items", "asked"], rows)
    if answers and answers["items"]:
        total, cut = answers["items"], answers["truncated"]
        lines += ["", f"Of its {total} answers {cut} were cut at the token limit"]
        lines[-1] += (
            f", and in {answers['parse_failures']} no answer was found; these count as wrong."
        )
    room = config.engine.max_model_len
    limit = f" Prompt and answer together were at most {room} tokens." if room else ""
    lines += ["", f"**Nothing else was measured**: not {_NEVER}.{limit}"]
    lines += [
        "Scores are of this engine, this prompt format and this number of shots; others differ."
    ]
    return lines


def _asked(config: RunFile, task: str) -> str:
    section = config.fitness.tasks[task]
    shots = getattr(section, "num_fewshot", None)
    said = ["with the chat template" if section.apply_chat_template else "plain prompt"]
    return ", ".join([*said, *([f"{shots} shots"] if shots is not None else [])])


def reproduce_lines(candidate: Mapping[str, Any], config: RunFile) -> list[str]:
    """How to make the same bytes again."""
    assert config.frozen is not None
    versions = ", ".join(f"{name} {v}" for name, v in config.frozen.packages.items())
    return [
        "`recipe.yaml` is the whole recipe: `evomerge merge recipe.yaml OUT` writes the same bytes.",
        f"Recipe hash `{candidate['recipe_hash']}`. Seed {config.search.seed}. Versions: {versions}.",
    ]

"""What `evomerge check` prints of models, prompts and the run file; and warnings, which come last."""

import textwrap
from collections.abc import Collection, Iterable, Sequence

from evomerge.checks.advice import Advice
from evomerge.checks.columns import LABEL, bytes_text, count_text, group, line, width
from evomerge.checks.findings import Findings
from evomerge.checks.kinship import Kinship
from evomerge.checks.licences import Licences
from evomerge.checks.prompts import RenderedPrompt
from evomerge.checks.sources import SourceFacts
from evomerge.checks.templates import Templates

_HEAD, _TAIL = 400, 900
"""Characters of a long prompt that are shown, at its beginning and its end."""

_ELSEWHERE = ("sources", "prompt of", "note", "memory", "disk")
"""Facts that a group of their own tells, or that are told in another."""

Facts = Sequence[tuple[str, str]]


def facts_text(facts: Facts, told: Collection[str] = ()) -> str:
    """What the run file asks for: space, search, tasks, objectives; then what the machine has.

    Args:
        facts: of the run file.
        told: notes that are warnings, and come later.
    """
    asked = [line(name, value) for name, value in facts if not name.startswith(_ELSEWHERE)]
    machine = [
        line(name, value)
        for name, value in facts
        if name.startswith(("memory", "disk")) or name == "sources live"
    ]
    notes = [line("note", value) for name, value in facts if name == "note" and value not in told]
    return group("the run", [*asked, *notes]) + "\n" + group("this machine", machine)


def findings_text(found: Findings) -> str:
    """Models, ancestry, licences, prompts."""
    parts = [
        group("sources", _sources(found.sources, found.templates)),
        group(_kinship_title(found.kinship), _kinship(found.kinship)),
        group("licences", _licences(found.licences)),
        *(group(f"prompt of {prompt.task}", _prompt(prompt)) for prompt in found.prompts),
    ]
    return "\n".join(part for part in parts if part)


def _sources(sources: Sequence[SourceFacts], templates: Templates) -> Iterable[str]:
    first = sources[0]
    for source in sources:
        where = f"{source.model}@{source.revision[:12]}" if source.revision else source.model
        yield line(source.name, where + (f" + {source.lora}" if source.lora else ""))
        tokens = {
            "first": f"{source.tokens} tokens",
            "same": "the same tokens",
            "other": f"other tokens ({source.tokens})",
        }[source.vocabulary]
        if not source.own_tokenizer:
            tokens = "no tokenizer of its own"
        files = f"{len(source.files)} files, {bytes_text(source.bytes)}, hash {source.hash}"
        if source is not first and _kind(source) == _kind(first):
            yield line("", f"as {first.name}, {tokens}; {files}")
            continue
        yield line(
            "",
            f"{source.architecture}, {count_text(source.parameters)} parameters, {source.dtype}, "
            f"{'tied' if source.tied else 'own'} head; {tokens}, {source.rows} rows "
            f"({source.padding_rows} of padding)",
        )
        yield line("", files)
    having = {name: digest for name, digest in templates.hashes.items() if digest}
    if not having:
        yield line("chat template", "none of them has one")
        return
    kinds = len(set(having.values()))
    who = "all" if len(having) == len(templates.hashes) else ", ".join(having)
    same = "the same" if kinds == 1 else f"{kinds} different ones"
    yield line("chat template", f"{who}: {same}" if len(having) > 1 else who)
    carried = " or ".join(templates.exported)
    first = " (whose layer comes first)" if len(templates.exported) > 1 else ""
    yield line("the export carries", f"tokenizer and chat template of {carried}{first}")


def _kind(source: SourceFacts) -> tuple[object, ...]:
    return (source.architecture, source.parameters, source.dtype, source.tied, source.rows)


def _kinship_title(found: Kinship) -> str:
    share = "all" if found.sampled >= found.of else f"a sample of {count_text(found.sampled)}"
    return f"kinship (of {share} of {count_text(found.of)} weights in matrices)"


def _kinship(found: Kinship) -> Iterable[str]:
    for name, distance in found.distances.items():
        yield line(
            f"{name} from base",
            f"||delta|| / ||base|| {distance:.4f}, cosine of weights {found.to_base[name]:.4f}",
        )
    if len(found.names) < 2:
        return
    column = max(9, *(len(name) + 1 for name in found.names))
    what = "deltas" if found.base else "weights"
    yield f"  {'cosine of ' + what:<{LABEL}}" + "".join(f"{n:>{column}}" for n in found.names)
    for name, row in zip(found.names, found.cosines, strict=True):
        yield f"  {name:<{LABEL}}" + "".join(f"{cosine:>{column}.3f}" for cosine in row)


def _licences(found: Licences) -> Iterable[str]:
    if not any(found.of.values()):
        yield line("none found", f"in the folders of {', '.join(found.of)}; a merge's is not known")
        return
    for name, licence in found.of.items():
        yield line(name, f"{licence.name} ({licence.origin})" if licence else "none found")
    verdict = found.verdict
    if verdict.conflicts:
        merge = "none: they cannot be handed on together"
    elif verdict.unknown:
        merge = f"not known: nothing is known of {', '.join(verdict.unknown)}"
    elif verdict.unread:
        merge = f"not settled: the terms of {', '.join(verdict.unread)} are not known here"
    else:
        merge = verdict.licence or "not known"
    yield line("a merge may carry", merge)
    for duty in verdict.duties:
        yield line("to be kept", duty)


def _prompt(prompt: RenderedPrompt) -> Iterable[str]:
    template = "chat template applied" if prompt.template else "no chat template"
    yield f"  {prompt.tokens} tokens, {template}; scored by {prompt.metric}, {prompt.direction} is better"
    yield from (f"  | {row}" for row in shown(prompt.text).split("\n"))
    if prompt.choices:
        choices = ", ".join(repr(choice) for choice in prompt.choices[:6])
        more = f" and {len(prompt.choices) - 6} more" if len(prompt.choices) > 6 else ""
        yield line("then the likeliest of", choices + more)
        return
    ends = ", ".join(end if end.startswith("<") else repr(end) for end in prompt.ends)
    how = f"sampled at temperature {prompt.temperature:g}" if prompt.temperature else "greedy"
    stop = f"until {ends}, or " if ends else "until "
    yield line("then it answers", f"{stop}{prompt.longest} tokens at most; {how}")


def shown(text: str) -> str:
    """A prompt with its middle cut out if it is long, and with spaces and newlines at its end visible."""
    if len(text) > _HEAD + _TAIL + 40:
        left = len(text) - _HEAD - _TAIL
        text = f"{text[:_HEAD]}\n[… {left:,} characters …]\n{text[-_TAIL:]}"
    bare = text.rstrip(" \n\t")
    end = text[len(bare) :].replace(" ", "␠").replace("\t", "␉").replace("\n", "⏎")
    return bare + end


def advice_text(advice: Sequence[Advice]) -> str:
    """Warnings, each with its remedy."""
    body: list[str] = []
    for one in advice:
        body += textwrap.wrap(one.warning, width(), initial_indent="  ! ", subsequent_indent="    ")
        body += textwrap.wrap(
            one.remedy, width(), initial_indent="    -> ", subsequent_indent="       "
        )
    return group("warnings" if len(advice) > 1 else "warning", body)

"""What `evomerge check` prints of a dry run and its estimate."""

from collections.abc import Callable, Iterable

from evomerge.checks.barriers import Barriers
from evomerge.checks.columns import group, hours_text, line, seconds_text
from evomerge.checks.dry_run import DryRun
from evomerge.checks.estimate import Estimate, Span


def trial_text(found: DryRun, estimated: Estimate) -> str:
    """Dry run, barriers and estimate."""
    dry = [
        line(
            candidate.name,
            candidate.failure
            or f"merged in {seconds_text(candidate.merge_seconds)}, {candidate.items} items in "
            f"{seconds_text(candidate.score_seconds)}; "
            + ", ".join(f"{task} {score:.2f}" for task, score in candidate.scores.items()),
        )
        for candidate in found.candidates
    ]
    title = f"dry run ({seconds_text(found.seconds)}; nothing of it is recorded)"
    return "\n".join(
        [
            group(title, [line("engine started in", seconds_text(found.start_seconds)), *dry]),
            group("loss barriers (half way, above the mean of the ends; nats per token)",
                  _barriers(found.barriers)),
            group("estimate", _estimate(estimated)),
        ]
    )  # fmt: skip


def _barriers(found: Barriers) -> Iterable[str]:
    for barrier in found.pairs:
        pair = " - ".join(barrier.pair)
        if barrier.value is None:
            yield line(pair, barrier.failure)
            continue
        tasks = ", ".join(f"{task} {value:+.2f}" for task, value in (barrier.tasks or {}).items())
        yield line(pair, f"{barrier.value:+.2f} ± {barrier.se:.2f}  ({tasks})")
    if found.pairs:
        yield line("", f"on {found.items} right answers of search items")
    if found.skipped:
        yield line("not looked at", f"{found.skipped} more pairs")
    for task, reason in found.without.items():
        yield line(f"{task} has no loss", reason)


def _estimate(found: Estimate) -> Iterable[str]:
    share = "" if found.measured_items >= found.items else (
        f", extrapolated from {found.measured_items} of {found.items} items"
    )  # fmt: skip
    yield line(
        "a candidate",
        f"{_span(found.candidate_seconds, seconds_text)} on one evaluator{share}",
    )
    many = f"{found.evaluators} evaluator(s)" if found.known else "each evaluator"
    yield line("evaluations per hour", f"{_span(found.per_hour, lambda x: f'{x:,.0f}')} by {many}")
    for phase in found.phases:
        yield line(
            phase.name,
            f"{phase.evaluations} evaluations, {_span(phase.hours, hours_text)}",
            indent=4,
        )
    limit = f"; search.budget.hours ends the search after {found.limit:g} h" if found.limit else ""
    yield line("the whole run", f"{_span(found.hours, hours_text)}{limit}")
    if found.sooner:
        names = ", ".join(f"search.budget.{name}" for name in found.sooner)
        yield line("", f"less where {names} ends the search before that")
    yield line(
        "", "one evaluator worked alone; several share memory and disk, and take longer each"
    )


def _span(span: Span, show: Callable[[float], str]) -> str:
    low, high = show(span[0]), show(span[1])
    return low if low == high else f"{low} to {high}"

"""`evomerge check`: everything that preflight finds, a dry run, and what both come to."""

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evomerge.checks.advice import Advice
from evomerge.checks.dry_run import DryRun, advise_on_dry_run, run_dry
from evomerge.checks.estimate import Estimate, estimate
from evomerge.checks.text import advice_text, facts_text, findings_text
from evomerge.checks.trial_text import trial_text
from evomerge.preflight import Prepared, check_searcher, prepare
from evomerge.run_file import folder_of, load_run_file

Say = Callable[[str], None]


@dataclass(frozen=True)
class Checked:
    """A run file that passed.

    Attributes:
        prepared: what was found without an engine.
        dry_run: what the engine did; None: it was not asked to.
        estimate: of the whole run; None without a dry run.
        advice: what had better be otherwise.
    """

    prepared: Prepared
    dry_run: DryRun | None
    estimate: Estimate | None
    advice: tuple[Advice, ...]

    def as_json(self) -> dict[str, Any]:
        """What `--json` prints."""
        found, dry = self.prepared.findings, self.dry_run
        return {
            "ok": True,
            "facts": _joined(self.prepared.facts),
            **(found.as_json() if found else {}),
            "dry_run": dry.as_json() if dry else None,
            "barriers": dry.barriers.as_json() if dry else None,
            "estimate": self.estimate.as_json() if self.estimate else None,
            "warnings": [one.as_json() for one in self.advice],
        }


def check_run_file(run_file: Path, *, dry_run: bool, say: Say, show: Say) -> Checked:
    """Check everything that a run file names.

    Args:
        run_file: the run file.
        dry_run: also start the engine, have two candidates scored, measure barriers and estimate.
        say: told what is going on.
        show: given the text, part by part as it becomes known; warnings also where the dry run fails.

    Raises:
        InputError, FitnessError: something is wrong; says what to do.
        EvaluatorBuildError: no engine could be built, for a reason that is no input's.
    """
    config = load_run_file(run_file)
    prepared = prepare(config, folder_of(config, run_file))
    check_searcher(prepared)
    if prepared.findings:
        show(findings_text(prepared.findings))
    show(facts_text(prepared.facts, [one.warning for one in prepared.advice]))
    dry: DryRun | None = None
    estimated: Estimate | None = None
    advice = prepared.advice
    try:
        if dry_run:
            dry = run_dry(prepared, say)
            estimated = estimate(prepared, dry, prepared.evaluators)
            advice = (*advice, *advise_on_dry_run(dry))
            show(trial_text(dry, estimated))
    finally:
        if advice:
            show(advice_text(advice))
    return Checked(prepared, dry, estimated, advice)


def _joined(facts: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Facts by name; those of one name (notes, say) in one text."""
    found: dict[str, str] = {}
    for name, value in facts:
        found[name] = f"{found[name]}; {value}" if name in found else value
    return found


def check_command(run_file: Path, *, dry_run: bool, quiet: bool) -> dict[str, Any]:
    """What the command does: prints the text unless `quiet`; progress goes to stderr.

    Returns:
        What `--json` prints.
    """
    from evomerge.recipe_files import check_recipe, is_recipe

    def show(text: str) -> None:
        if text and not quiet:
            print(text, flush=True)

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    if is_recipe(run_file):
        facts = check_recipe(run_file)
        show("\n".join(f"{name:<24} {value}" for name, value in facts))
        show(f"everything checked; start with: evomerge merge {run_file} OUT")
        return {"ok": True, "facts": _joined(facts)}
    checked = check_run_file(run_file, dry_run=dry_run, say=say, show=show)
    show(f"everything checked; start with: evomerge search {run_file}")
    return checked.as_json()

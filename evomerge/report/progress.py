"""What a search shows while it runs, on stderr: a bar on a terminal, a line per generation elsewhere."""

import sys
import time

from evomerge.evaluation import Evaluation
from evomerge.search.standing import Standing


class ProgressView:
    """A rich progress bar: phase, evaluations, generation, best, hypervolume, failures, ETA."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self._console = Console(file=sys.stderr)
        self._bar = Progress(
            TextColumn("[bold]{task.description:<12}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[facts]}"),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task: int | None = None
        self._failed = 0
        self._facts = ""
        self._began = time.monotonic()
        self._paid = 0
        self._bar.start()

    def begin(self, phase: str, total: int) -> None:
        """Start the phase's bar."""
        if self._task is not None:
            self._bar.remove_task(self._task)  # pyright: ignore[reportArgumentType]
        self._failed = self._paid = 0
        self._facts = ""
        self._began = time.monotonic()
        self._task = self._bar.add_task(phase, total=total, facts="")

    def finished(self, evaluation: Evaluation, paid: bool) -> None:
        """Advance the bar."""
        self._failed += not evaluation.scored
        self._paid += paid
        if self._task is not None:
            failed = f" failed {self._failed}" if self._failed else ""
            self._bar.update(self._task, advance=1, facts=self._facts + failed)  # pyright: ignore[reportArgumentType]

    def generation(self, phase: str, number: int, asked: int, standing: Standing) -> None:
        """Show best and hypervolume; a line where there is no terminal."""
        best, volume = standing.best, standing.hypervolume()
        self._facts = f"gen {number}  best {best:.3f}  hv {volume:.4f}"
        if not self._console.is_terminal:
            rate = self._paid / max(time.monotonic() - self._began, 1e-9)
            total = self._total()
            eta = f"{(total - asked) / rate:.0f}s" if rate > 0 else "-"
            self.say(
                f"{phase}: {self._facts}  evaluations {asked}/{total}  {rate:.1f}/s  ETA {eta}"
            )

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        self._console.print(text, highlight=False, markup=False)

    def close(self) -> None:
        """Stop the bar."""
        self._bar.stop()

    def _total(self) -> int:
        return int(self._bar.tasks[-1].total or 0) if self._bar.tasks else 0

"""The view on stderr: a picture that is drawn anew on a terminal, a line now and then elsewhere."""

import logging
import math
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from evomerge.cluster.jobs import Executor
from evomerge.evaluation import Evaluation
from evomerge.live.tally import Front, Tally
from evomerge.live.words import duration, estimate, failures
from evomerge.search.standing import Standing
from evomerge.search.view import Leg

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

_FRAMES = 4
"""Pictures a second."""

_LINE_SECONDS = 30.0
"""Where there is no terminal: a line at least so often, as long as anything finishes, ..."""

_LEAST_SECONDS = 1.0
"""... and not more often than this."""


class TerminalView:
    """Shows a session's tally.

    Args:
        console: where; None: stderr.
        clock: seconds, monotonic.
    """

    def __init__(
        self, console: "Console | None" = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console = console or Console(file=sys.stderr)
        self._clock = clock
        self._heard = clock()
        self._said = -math.inf
        self.tally = Tally(clock)
        self._live: Live | None = None
        self._handlers: list[tuple[Any, Any]] = []
        if self._console.is_terminal:
            self._live = Live(
                console=self._console,
                get_renderable=self.render,
                refresh_per_second=_FRAMES,
                redirect_stdout=False,  # it belongs to `--json`
                transient=True,
            )
            self._live.start()
            self._take_log()

    def _take_log(self) -> None:
        """Have warnings printed above the picture instead of into it."""
        for handler in logging.getLogger().handlers:
            if isinstance(handler, logging.StreamHandler):
                self._handlers.append((handler, handler.setStream(sys.stderr)))

    def night(self, legs: Sequence[Leg], executor: Executor) -> None:
        """What is to be done, and who does it."""
        self.tally.night(legs, executor)

    def begin(self, phase: str, total: int) -> None:
        """A phase begins."""
        self.tally.begin(phase, total)
        self._heard = self._clock()

    def finished(self, evaluation: Evaluation, paid: bool) -> None:
        """An evaluation is known."""
        self.tally.finished(evaluation, paid)
        if self._live is None and self._clock() - self._heard >= _LINE_SECONDS and paid:
            self._say_line()

    def generation(self, phase: str, number: int, asked: int, standing: Standing) -> None:
        """A generation is complete."""
        self.tally.generation_told(number, standing)
        last = self.tally.done >= self.tally.total
        if self._live is None and (last or self._clock() - self._said >= _LEAST_SECONDS):
            self._say_line()

    def told(self, standing: Standing) -> None:
        """A candidate was told."""
        self.tally.told(standing)

    def say(self, text: str) -> None:
        """Print a line above the picture."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def close(self) -> None:
        """Leave the last picture's place empty, and the terminal as it was."""
        if self._live is not None:
            self._live.stop()
            self._live = None
        for handler, stream in self._handlers:
            if stream is not None:
                handler.setStream(stream)
        self._handlers = []

    def _say_line(self) -> None:
        self._heard = self._said = self._clock()
        self.say(line(self.tally))

    def render(self) -> "RenderableType":
        """The picture."""
        from rich.console import Group
        from rich.text import Text

        if not self.tally.phase:
            return Text("")
        front = self.tally.front  # another thread may begin a phase without one
        parts: list[RenderableType] = [_bar(self.tally)]
        parts += [
            Text(text, overflow="ellipsis", no_wrap=True) for text in _facts(self.tally, front)
        ]
        if front is not None and front.top:
            parts.append(_front_table(front))
        return Group(*parts)


def line(tally: Tally) -> str:
    """A session's tally in one line."""
    found = [f"{tally.phase}:"]
    if tally.generation >= 0:
        found.append(f"gen {tally.generation} ")
    found.append(f"evaluations {tally.done}/{tally.total} ")
    if tally.front is not None:
        found.append(f"best {_best(tally.front)} ")
    if tally.generation >= 0:
        found.append(f"hv {tally.volume:.4g} ")
    found.append(", ".join(_speed(tally)))
    if tally.failures:
        found.append(f" failed {failures(tally.failures)}, last: {tally.reason}")
    return " ".join(found)


def _speed(tally: Tally) -> list[str]:
    """Rate, workers and the time that is left."""
    rate, workers = tally.pace.per_hour(), tally.workers()
    found = [f"{rate:,.0f}/h"] if rate else []
    if workers is not None and workers[1] != 1:  # a single one rests whenever there is news of it
        found.append(f"workers {workers[0]}/{workers[1]}")
    found.append(f"elapsed {duration(tally.elapsed())}")
    phase, night = tally.phase_seconds_left(), tally.night_seconds_left()
    found.append(f"ETA {duration(phase)}" + (f" ({duration(night)} in all)" if night else ""))
    return found


def _facts(tally: Tally, front: Front | None) -> list[str]:
    """What stands under the bar."""
    found = ["  ".join(_speed(tally))]
    counts: list[str] = []
    if tally.known:
        counts.append(f"{tally.known} cached or on record")
    if tally.failures:
        counts.append(f"failed {failures(tally.failures)}, last: {tally.reason}")
    if counts:
        found.append("  ".join(counts))
    if front is not None:
        volume = f"   hypervolume {tally.volume:.4g} ± {tally.volume_error:.2g}"
        found.append(f"best {_best(front)}" + (volume if tally.generation >= 0 else ""))
    return found


def _best(front: Front) -> str:
    """The best value of each objective, whichever candidate has it."""
    if not front.best:
        return "none keeps the constraints"
    return ", ".join(
        f"{name} {estimate(one.values[row], one.errors[row])}"
        for row, (name, one) in enumerate(zip(front.names, front.best, strict=True))
    )


def _bar(tally: Tally) -> "RenderableType":
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 1))
    bar = ProgressBar(total=max(tally.total, 1), completed=tally.done, width=30)
    where = f"generation {tally.generation}" if tally.generation >= 0 else ""
    grid.add_row(Text(tally.phase, style="bold"), bar, f"{tally.done}/{tally.total}", where)
    return grid


def _front_table(front: Front) -> "RenderableType":
    from rich.table import Table
    from rich.text import Text

    more = f", {len(front.top)} of {front.members}" if front.members > len(front.top) else ""
    table = Table(title=f"front (search items, ± standard error{more})", title_justify="left")
    table.add_column("id", justify="right")
    for name, way in zip(front.names, front.directions, strict=True):
        table.add_column(Text(f"{name} {'↑' if way == 'maximize' else '↓'}"), justify="right")
    table.add_column("recipe")
    for one in front.top:
        cells = [
            Text(estimate(value, error), style="bold" if front.best[row].id == one.id else "")
            for row, (value, error) in enumerate(zip(one.values, one.errors, strict=True))
        ]
        table.add_row(str(one.id), *cells, one.recipe)
    return table

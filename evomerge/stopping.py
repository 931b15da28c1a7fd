"""Stopping: Ctrl-C once finishes what is under way, twice stops at once. SIGTERM is as Ctrl-C.

Python runs a signal's handler only between two instructions of the main thread, which may sit for
minutes in a call of C. So a thread of its own, woken by the signal itself, answers the user at once,
and ends a process whose main thread does not hear.
"""

import atexit
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

INTERRUPTED = 3
"""Exit code of a run that was interrupted and can be resumed."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM)

_DEAF_SECONDS = 5.0
"""How long the main thread may take to hear of a second Ctrl-C."""

_SHOW_CURSOR = b"\x1b[?25h"

Any_ = TypeVar("Any_")


def leave_on_signals() -> None:
    """From now on a signal ends the process at once, as interrupted: nothing is left but cleaning up."""
    if threading.current_thread() is threading.main_thread():
        for number in _SIGNALS:
            signal.signal(number, lambda *_: os._exit(INTERRUPTED))
            # Python gives its handlers up before it is done, and a signal then would be the exit code.
            atexit.register(signal.signal, number, signal.SIG_IGN)


class Stopped(KeyboardInterrupt):
    """The user asked to stop, and what was under way then is recorded."""


class Stop:
    """Whether the user asked to stop. By itself it never happens; `Signals` makes it."""

    def __init__(self) -> None:
        self.requested = False
        self._recording = self._now = False

    @property
    def recording(self) -> bool:
        """Whether a result is being written down: no moment to leave at."""
        return self._recording

    def until(self, wanted: Iterable[Any_]) -> Iterator[Any_]:
        """`wanted`, ending early once a stop is requested."""
        iterator = iter(wanted)
        while not self.requested:
            try:
                value = next(iterator)
            except StopIteration:
                return
            yield value

    def check(self) -> None:
        """Leave if it was requested.

        Raises:
            Stopped: it was.
        """
        if self.requested:
            raise Stopped

    def at_once(self) -> None:
        """Leave now, or as soon as what is being recorded is whole.

        Raises:
            KeyboardInterrupt: unless something is being recorded.
        """
        self.requested = self._now = True
        if not self._recording:
            raise KeyboardInterrupt

    @contextmanager
    def record(self) -> Iterator[None]:
        """Around the writing of a result that was paid for.

        Raises:
            KeyboardInterrupt: `at_once` was called meanwhile.
        """
        self._recording = True
        try:
            yield
        finally:
            self._recording = False
        if self._now:
            raise KeyboardInterrupt


class Signals:
    """Ctrl-C and SIGTERM of one session, from `__enter__` to `__exit__`.

    Outside of the main thread, where Python lets nobody set handlers, it does nothing.

    Args:
        folder: of the run, for the last words of a process that has to be ended.
        say: tells the user something; called from another thread.

    Attributes:
        stop: what the user asked for.
    """

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self.stop = Stop()
        self._folder, self._say = folder, say
        self._busy: Callable[[], int] = lambda: 0
        self._heard = 0
        self._previous: dict[int, Any] = {}
        self._pipe: tuple[int, int] | None = None
        self._wakeup = -1

    def __enter__(self) -> "Signals":
        if threading.current_thread() is not threading.main_thread():
            return self
        self._pipe = os.pipe()
        os.set_blocking(self._pipe[1], False)
        self._previous = {number: signal.getsignal(number) for number in _SIGNALS}
        if self._previous[signal.SIGINT] is signal.SIG_IGN:
            del self._previous[signal.SIGINT]  # in the background of a shell without job control
        self._wakeup = signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
        self.install()
        threading.Thread(target=self._listen, args=(self._pipe[0],), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._pipe is None:
            return
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup)
        os.close(self._pipe[1])  # the listener reads the end, and closes its own
        self._pipe = None

    def install(self, busy: Callable[[], int] | None = None) -> None:
        """Take the signals, again where somebody else took them meanwhile (Ray does).

        Args:
            busy: how many evaluations are under way; None: as before.
        """
        self._busy = busy or self._busy
        for number in self._previous:
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: object) -> None:
        """In the main thread."""
        self._heard += 1
        if self._heard == 1 and (self._busy() or self.stop.recording):
            self.stop.requested = True
        else:
            self.stop.at_once()

    def _listen(self, pipe: int) -> None:
        """In the listening thread: a byte for each signal, whatever the main thread is at."""
        count = 0
        deaf: threading.Timer | None = None
        while received := os.read(pipe, 1):
            if received[0] not in self._previous:
                continue
            count += 1
            if count == 1 and (under_way := self._busy()):
                self._say(f"finishing {_evaluations(under_way)} under way; Ctrl-C again stops now")
            elif count == 2:
                deaf = threading.Timer(_DEAF_SECONDS, self._leave_if_deaf)
                deaf.daemon = True
                deaf.start()
            elif count > 2:
                self._leave()
        if deaf is not None:
            deaf.cancel()
        os.close(pipe)

    def _leave_if_deaf(self) -> None:
        if self._heard < 2:
            self._leave()

    def _leave(self) -> None:
        """End the process as it stands: what is recorded is safe, and Ray's guardian clears up."""
        line = f"interrupted; continue with 'evomerge resume {self._folder}'\n".encode()
        os.write(2, (_SHOW_CURSOR if sys.stderr.isatty() else b"") + line)
        os._exit(INTERRUPTED)


def _evaluations(count: int) -> str:
    return f"{count} evaluation" + ("s" if count != 1 else "")

"""A real terminal for a command: a pseudo-terminal, its foreground process group, what it shows."""

import os
import pty
import select
import signal
import sys
import time
from pathlib import Path

CTRL_C = b"\x03"


class Terminal:
    """A command on a terminal of its own, as a user's shell starts it."""

    def __init__(self, *arguments: object, cwd: Path | None = None, columns: int = 120) -> None:
        command = [sys.executable, "-m", "evomerge.cli", *map(str, arguments)]
        self.shown = b""
        self.pid, self._terminal = pty.fork()
        if self.pid == 0:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            os.environ |= {"COLUMNS": str(columns), "LINES": "50", "TERM": "xterm-256color"}
            if cwd is not None:
                os.chdir(cwd)
            os.execv(sys.executable, command)
        self.code: int | None = None

    def read(self, seconds: float) -> None:
        """Take in what is shown for so long, or until the command ends."""
        until = time.monotonic() + seconds
        while self.code is None and (left := until - time.monotonic()) > 0:
            ready, _, _ = select.select([self._terminal], [], [], min(left, 0.05))
            if ready:
                try:
                    self.shown += os.read(self._terminal, 65536)
                except OSError:  # its other end is closed
                    time.sleep(0.02)
            self.poll()

    def poll(self) -> int | None:
        """The exit code, if the command has ended."""
        if self.code is None:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            if ended:
                self.code = os.waitstatus_to_exitcode(status)
        return self.code

    def until(self, what, seconds: float = 120.0) -> None:
        """Read until `what()` is true."""
        deadline = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < deadline, self.text[-3000:]
            assert self.code is None, self.text[-3000:]
            self.read(0.05)

    def press(self, key: bytes) -> None:
        """As the user does: the terminal sends the signal to its whole foreground group."""
        os.write(self._terminal, key)

    def end(self, seconds: float = 120.0) -> int:
        """Read until the command ends; its exit code."""
        deadline = time.monotonic() + seconds
        while self.code is None and time.monotonic() < deadline:
            self.read(0.2)
        if self.code is None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            raise AssertionError(f"it did not end: {self.text[-3000:]}")
        return self.code

    @property
    def text(self) -> str:
        """All that was shown, control characters included."""
        return self.shown.decode(errors="replace")

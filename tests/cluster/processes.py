"""Looking after processes: what a test started has to be gone."""

import os
import time
from pathlib import Path


def ended(processes, patience=20.0):
    """Whether all of these process ids end within so many seconds."""

    def alive(process):
        try:
            return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return False

    return _comes_true(lambda: not any(map(alive, processes)), patience)


def left_behind(mark, folder, patience=30.0):
    """Command lines of processes, after so many seconds, that have `mark` in their environment or
    hold a file under `folder` open (Ray's agents overwrite their environment)."""
    _comes_true(lambda: not _found(mark, folder), patience)
    return _found(mark, folder)


def _found(mark, folder):
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            marked = mark.encode() in (process / "environ").read_bytes()
            handles = (os.readlink(handle) for handle in (process / "fd").iterdir())
            if marked or any(handle.startswith(f"{folder}/") for handle in handles):
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ")[:200])
        except (PermissionError, FileNotFoundError, ProcessLookupError):
            continue
    return found


def _comes_true(condition, patience):
    until = time.monotonic() + patience
    while not (true := condition()) and time.monotonic() < until:
        time.sleep(0.1)
    return true

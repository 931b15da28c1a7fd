"""Programs run as a user runs them: wall clock and peak memory of a process of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

_LAUNCHER = """
import json, os, subprocess, sys, time
began = time.perf_counter()
child = subprocess.Popen(sys.argv[1:], stdout=sys.stderr)
_, status, used = os.wait4(child.pid, 0)
seconds = time.perf_counter() - began
print(json.dumps([os.waitstatus_to_exitcode(status), seconds, used.ru_maxrss]))
"""
"""A process inherits its parent's peak when it starts: a parent in between that is small hides ours."""


@dataclass(frozen=True)
class Finished:
    """What a process used: wall-clock seconds, and its largest resident memory in megabytes.

    Resident memory counts mapped files, too, as far as they were read.
    """

    seconds: float
    peak_mb: float


def run(command: Sequence[str | Path], threads: int) -> Finished:
    """Run `command` to its end with that many threads.

    Raises:
        RuntimeError: it failed; holds the end of what it wrote.
    """
    count = str(threads)
    environment = os.environ | {"OMP_NUM_THREADS": count, "NUMBA_NUM_THREADS": count}
    done = subprocess.run(
        [sys.executable, "-S", "-c", _LAUNCHER, *map(str, command)],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    status, seconds, kilobytes = json.loads(done.stdout)
    if status:
        raise RuntimeError(f"{command[0]} ended with {status}:\n{done.stderr[-3000:]}")
    return Finished(seconds, kilobytes * 1024 / 1e6)


def prime(folders: Iterable[Path]) -> None:
    """Read the files in `folders` from the disk once, so that what lies below the page cache (a
    virtual machine's host, a controller) is in the same state for everyone who reads them cold.
    """
    block = bytearray(2**24)
    for folder in folders:
        forget([folder])
        for path in (path for path in folder.iterdir() if path.is_file()):
            with path.open("rb", buffering=0) as file:
                while file.readinto(block):
                    pass


def forget(folders: Iterable[Path]) -> None:
    """Have the system drop the files in `folders` from memory, as far as nobody maps them."""
    for file in (file for folder in folders for file in folder.iterdir() if file.is_file()):
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)  # a page that is not on disk yet stays
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)

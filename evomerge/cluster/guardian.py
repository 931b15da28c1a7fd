"""The guardian: ends what is left of a local Ray when its driver was killed.

The kernel kills Ray's servers with the process that started them, and Ray's workers end by
themselves. Two agents of the raylet do not (seen with Ray 2.60): for a minute they try to tell a
server that is gone. So a small process waits for the driver's end, by whatever signal, and then
kills every process that holds a file of the Ray session open for writing (each has its log there,
and so have the children of workers; environments are no mark, as Ray's processes overwrite theirs
with their titles). Run as a file, it imports nothing but Python's own library.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

_POLL_SECONDS = 0.5
_PATIENCE_SECONDS = 30.0
_WRITABLE = 0o200


class Guardian:
    """Waits beside this process for its end. Without `/proc` (not Linux) it does nothing.

    Args:
        session: folder of the Ray session that this process started.
        folder: removed after a violent end, too; None: nothing to remove.
    """

    def __init__(self, session: Path, folder: str | None) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        if not Path("/proc/self/fd").exists():
            return
        command = [sys.executable, "-I", "-S", __file__]
        arguments = [str(os.getpid()), str(session.resolve()), folder or ""]
        # A session of its own: Ctrl-C is for the driver.
        self._process = subprocess.Popen(
            command + arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # or who reads the driver's waits for us, too
            start_new_session=True,
        )

    def dismiss(self) -> None:
        """Ray was stopped in peace. May be called twice."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def watch(parent: int, session: str, folder: str) -> None:
    """Wait for the end of `parent`, then end the session's processes and remove `folder`.

    Args:
        parent: id of the process that started this one.
        session: folder of the Ray session.
        folder: empty: none.
    """
    while os.getppid() == parent:
        time.sleep(_POLL_SECONDS)
    until = time.monotonic() + _PATIENCE_SECONDS
    while (left := writers(session)) and time.monotonic() < until:
        for process in left:
            try:
                os.kill(process, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                continue
        time.sleep(0.1)
    if folder:
        shutil.rmtree(folder, ignore_errors=True)


def writers(folder: str) -> list[int]:
    """Ids of the processes that hold a file under `folder` open for writing."""
    found: list[int] = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if any(_writes(handle, folder) for handle in os.scandir(process / "fd")):
                found.append(int(process.name))
        except OSError:  # it ended, or belongs to somebody else
            continue
    return found


def _writes(handle: "os.DirEntry[str]", folder: str) -> bool:
    writable = handle.stat(follow_symlinks=False).st_mode & _WRITABLE
    return bool(writable) and os.readlink(handle.path).startswith(folder + os.sep)


if __name__ == "__main__":
    watch(int(sys.argv[1]), sys.argv[2], sys.argv[3])

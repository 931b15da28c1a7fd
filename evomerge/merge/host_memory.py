"""How much memory this process may have: the machine's, or less where a container or job bounds it."""

import os
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path("/")


def free_host_memory(root: Path = _ROOT) -> int:
    """Bytes of memory that can be had without swapping; 0 where the system does not say.

    Args:
        root: where `proc` and `sys` are.
    """
    free = _told(root / "proc/meminfo", "MemAvailable:", 1024)
    bounds = [most - used for most, used in _bounds(root)]
    return max(0, min(bounds if free is None else [free, *bounds], default=0))


def all_host_memory(root: Path = _ROOT) -> int:
    """Bytes of memory, used or not.

    Args:
        root: where `proc` and `sys` are.
    """
    total = _told(root / "proc/meminfo", "MemTotal:", 1024)
    bounds = [most for most, _ in _bounds(root)]
    if total is None:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([total, *bounds])


def _bounds(root: Path) -> Iterator[tuple[int, int]]:
    """Limit and use of each control group that this process is in and that has a limit.

    Files in memory that can be dropped are no use: the mapped sources would count as one.
    """
    for group in _groups(root):
        for limit, used in (
            ("memory.max", "memory.current"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ):
            most, now = _number(group / limit), _number(group / used)
            if most is not None and now is not None:
                stat = group / "memory.stat"
                dropped = [_told(stat, f"{kind}_file ", 1) or 0 for kind in ("active", "inactive")]
                yield most, max(0, now - sum(dropped))


def _groups(root: Path) -> Iterator[Path]:
    """Folders of this process's control groups that may bound memory, the innermost first.

    In a container the process may be named by its path on the host, which is not to be seen there:
    its own group is the root then.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="ascii").splitlines()
    except OSError:
        return
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0":
            top = root / "sys/fs/cgroup"
        elif "memory" in controllers.split(","):
            top = root / "sys/fs/cgroup/memory"
        else:
            continue
        inner = top / path.lstrip("/")
        yield inner
        for outer in inner.parents:
            if outer.is_relative_to(top):
                yield outer


def _number(file: Path) -> int | None:
    """The number in a file; None: there is none (`max` stands for no limit)."""
    try:
        return int(file.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _told(file: Path, label: str, unit: int) -> int | None:
    """The number after a label at the beginning of a line, in bytes."""
    try:
        for line in file.read_text(encoding="ascii").splitlines():
            if line.startswith(label):
                return unit * int(line.removeprefix(label).split()[0])
    except (OSError, ValueError):
        pass
    return None

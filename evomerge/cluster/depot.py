"""The depot: an actor on the driver's node that hands out the files of a shipment, piece by piece.

It takes no CPU of the cluster, reads only what the shipment lists, and ends with the driver's job.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayTaskError
from ray.util.client import ray as ray_client
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from search_spaces.errors import InputError

PIECE = 4 * 2**20
"""Bytes per message. A node has `_AHEAD` of them in flight, so ten nodes that fetch at once stay
within an object store of 128 MiB; beyond, Ray waits for room or spills to disk."""

_AHEAD = 3
_READERS = 8


class Depot:
    """Reads files for others. Lives in a Ray actor.

    Args:
        files: SHA-256 -> absolute path.
        piece: bytes per message.
    """

    def __init__(self, files: Mapping[str, str], piece: int) -> None:
        self._files, self._piece = files, piece

    def read(self, digest: str, start: int) -> bytes:
        """A piece of a file from byte `start`.

        Raises:
            InputError: the file cannot be read any more.
        """
        path = Path(self._files[digest])
        try:
            with path.open("rb") as stream:
                stream.seek(start)
                return stream.read(self._piece)
        except OSError as error:
            raise InputError(
                f"file {path}",
                f"it cannot be read any more ({error.strerror or error})",
                "the driver's machine",
                "restore it, then resume the run",
            ) from None


@dataclass(frozen=True)
class DepotFetch:
    """Fetches files from a depot (see `Fetch`). Crosses to any process of the Ray job.

    Attributes:
        depot: the actor.
        piece: bytes per message.
    """

    depot: Any
    piece: int = PIECE

    def __call__(self, digest: str, start: int, size: int) -> Iterator[bytes]:
        """The file's bytes from `start`, while the next pieces are on their way.

        Raises:
            InputError: the driver's machine cannot read the file any more.
            RayError: the driver's node is gone.
        """
        places = iter(range(start, size, self.piece))
        coming: deque[Any] = deque()
        while True:
            while len(coming) < _AHEAD and (place := next(places, None)) is not None:
                coming.append(self.depot.read.remote(digest, place))
            if not coming:
                return
            try:
                yield ray.get(coming.popleft())
            except RayTaskError as error:
                if isinstance(error.cause, InputError):
                    raise error.cause from None
                raise


def open_depot(files: Mapping[str, str], piece: int = PIECE) -> DepotFetch | None:
    """Start a depot on the node of this process, which is connected to Ray.

    It lives as long as this process keeps the result, and Ray restarts it if its process dies.

    Args:
        files: SHA-256 -> absolute path on this machine.
        piece: bytes per message.

    Returns:
        None if this process is no part of the cluster (`ray://`): nothing can be fetched from it.
    """
    if ray_client.is_connected():
        return None
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor: Any = ray.remote(Depot)
    options = {
        "num_cpus": 0,
        "max_concurrency": _READERS,
        "max_restarts": -1,
        "max_task_retries": -1,
        "scheduling_strategy": here,
    }
    return DepotFetch(actor.options(**options).remote(dict(files), piece), piece)

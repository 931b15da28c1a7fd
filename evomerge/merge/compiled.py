"""Where Numba keeps compiled loops, without importing it (or torch)."""

import os
import tempfile
from pathlib import Path

_VARIABLE = "NUMBA_CACHE_DIR"
_KERNELS = Path(__file__).parent / "kernels"


def give_numba_a_place() -> None:
    """Compiled loops are kept beside the kernels or in the home folder. Where neither may be written
    (a container's read-only image), Numba would refuse to compile at all: then, in the temporary
    folder. To be called before Numba is imported.
    """
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    if not any(_writable(place) for place in (_KERNELS / "__pycache__", home)):
        place = Path(tempfile.gettempdir()) / f"evomerge-numba-{os.getuid()}"
        os.environ.setdefault(_VARIABLE, str(place))


def kernels_are_compiled() -> bool:
    """Whether an earlier process has left compiled loops, as far as can be told quickly."""
    places = [
        _KERNELS / "__pycache__",
        Path(os.environ.get(_VARIABLE) or "~/.cache/numba").expanduser(),
    ]
    return any(next(place.glob("**/cpu_loops.merge*.nbc"), None) for place in places)


def _writable(folder: Path) -> bool:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return os.access(folder, os.W_OK)

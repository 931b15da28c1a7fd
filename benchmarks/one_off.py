"""One recipe to disk, as a user does it: `evomerge merge` against `mergekit-yaml`."""

import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.per_candidate import Pool, say
from benchmarks.processes import Finished, forget, run
from benchmarks.recipes import draw
from search_spaces.dialect import dump_recipe

_ORACLE = Path(__file__).parent.parent / ".venv-oracle" / "bin" / "python"
RIVAL = Path(os.environ.get("EVOMERGE_ORACLE", _ORACLE)).parent / "mergekit-yaml"
OURS = (sys.executable, "-m", "evomerge.cli", "merge")
_MINUTE = 60.0


@dataclass(frozen=True)
class OneOff:
    """One preset's processes; `rival` is None where mergekit did not run.

    Attributes:
        ours, rival: with the sources not in the page cache.
        rival_candidate: seconds of mergekit at its best, which is what a candidate costs with it.
    """

    ours: Finished
    rival: Finished | None = None
    rival_candidate: float | None = None

    def figures(self) -> dict[str, float]:
        """As the JSON line has them."""
        ours = {"seconds": round(self.ours.seconds, 3), "peak_mb": round(self.ours.peak_mb)}
        if self.rival is None:
            return ours
        return ours | {
            "rival_seconds": round(self.rival.seconds, 3),
            "faster": round(self.rival.seconds / self.ours.seconds, 2),
            "rival_peak_mb": round(self.rival.peak_mb),
            "peak_share": round(self.ours.peak_mb / self.rival.peak_mb, 3),
        }


def merge_once(preset: str, pool: Pool, scratch: Path, threads: int, rival: str | None) -> OneOff:
    """Merge candidate 0 of `preset` into a folder below `scratch`, storing bfloat16.

    Both read the same file. Nothing may have the sources mapped: mapped pages stay in the page
    cache. mergekit runs once more with a warm cache unless it takes minutes, in which reading is
    nothing.

    Args:
        preset: one that mergekit has, too.
        pool: the sources.
        scratch: folder for the recipe and, while they are looked at, the results.
        threads: of each process.
        rival: dtype that mergekit computes in (ours is float32 always); None: it does not run.
    """
    recipe = draw(preset, "base", pool.experts, 0)
    file = scratch / f"{preset}.yaml"
    text = dump_recipe(recipe.renamed({n: str(p) for n, p in pool.folders.items()}))
    file.write_text(text.replace("dtype: float32\n", f"dtype: {rival or 'float32'}\n"))

    def merged(command: Sequence[str | Path], *, cold: bool) -> Finished:
        if cold:
            forget(pool.folders.values())
        finished = run([*command, file, scratch / "out"], threads)
        shutil.rmtree(scratch / "out")
        program = "evomerge merge" if command is OURS else RIVAL.name
        state = "cold" if cold else "warm"
        say(f"{preset}, {state}: {program} {finished.seconds:.1f} s, {finished.peak_mb:.0f} MB")
        return finished

    ours = merged(OURS, cold=True)
    if rival is None:
        return OneOff(ours)
    theirs = merged((RIVAL,), cold=True)
    best = theirs.seconds
    if best < _MINUTE:
        best = min(best, merged((RIVAL,), cold=False).seconds)
    return OneOff(ours, theirs, best)

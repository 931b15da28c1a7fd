"""A driver's machine and its files, and a machine that sees none of them."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import yaml

from evomerge.cluster.parcels import Parcel
from evomerge.cluster.shipment import Shipment
from evomerge.config import RunFile
from evomerge.run_file import load_run_file
from evomerge.run_sources import locate_sources
from tests.conftest import QUICKSTART


def lay_out(folder: Path, *, weights: int = 0) -> Path:
    """A machine's files: models, a run file, tasks beside it, data and an objective elsewhere.

    Args:
        folder: of the machine.
        weights: bytes of a second shard that the base gets, filled with something.

    Returns:
        The run file.
    """
    shutil.copytree(QUICKSTART / "models", folder / "models")
    (folder / "night").mkdir()
    shutil.copytree(QUICKSTART / "tasks", folder / "shelf" / "tasks")
    task = folder / "shelf" / "tasks" / "sums.yaml"
    (folder / "shelf" / "data").mkdir()
    (folder / "shelf" / "tasks" / "sums.jsonl").rename(folder / "shelf" / "data" / "sums.jsonl")
    content = yaml.safe_load(task.read_text())
    files = content.pop("dataset_kwargs")["data_files"]
    moved = {split: f"../data/{name}" for split, name in files.items()}
    (folder / "shelf" / "common.yaml").write_text(yaml.safe_dump(content))
    written = {"include": "../common.yaml", "dataset_kwargs": {"data_files": moved}}
    task.write_text(yaml.safe_dump({"task": "sums", **written}))
    (folder / "shelf" / "longest.py").write_text(
        "def longest(responses):\n"
        "    return max(r.tokens for answers in responses.values() for r in answers)\n"
    )
    if weights:
        (folder / "models" / "base" / "vocabulary.model").write_bytes(filler(weights))
    run_file = folder / "night" / "run.yaml"
    run_file.write_text(
        yaml.safe_dump(
            {
                "models": {
                    "base": "../models/base",
                    "experts": {name: f"../models/{name}" for name in ("lunari", "abacus")},
                },
                "space": {"rule": "task_arithmetic", "weight": [0, 1]},
                "fitness": {
                    "include": "../shelf/tasks",
                    "tasks": {
                        "sums": {"items": 8, "selection": 8, "test": 8},
                        "lunari_words": {
                            "items": 8, "selection": 8, "test": 8,
                            "include": str(folder / "shelf" / "tasks"),
                        },
                    },
                    "objectives": [
                        "sums", "lunari_words", {"function": "../shelf/longest.py:longest"}
                    ],
                },
            }
        )
    )  # fmt: skip
    return run_file


def filler(size: int) -> bytes:
    """Bytes that differ from each other, so that a piece in the wrong place is noticed."""
    block = b"".join(hashlib.sha256(str(i).encode()).digest() for i in range(2**15))
    return (block * (size // len(block) + 1))[:size]


def shipment_of(run_file: Path) -> tuple[RunFile, Shipment]:
    """A run file's shipment, as its driver makes it."""
    config, folder = load_run_file(run_file), run_file.parent
    return config, Shipment.of(config, folder, locate_sources(config, folder))


def unseen(shipment: Shipment, top: Path) -> Shipment:
    """The shipment as it looks to a machine that has nothing at the driver's paths below `top`."""

    def there(path: str) -> str:
        return str(Path("/driver") / Path(path).relative_to(top))

    def parcel(of: Parcel) -> Parcel:
        return replace(of, folder=there(of.folder))

    return replace(
        shipment,
        folder=there(shipment.folder),
        sources={n: tuple(map(parcel, parcels)) for n, parcels in shipment.sources.items()},
        tasks=parcel(shipment.tasks),
    )


def unseen_config(config: RunFile, top: Path) -> RunFile:
    """The run file with its absolute path as that machine's user would have written it."""
    task = config.fitness.tasks["lunari_words"]
    assert task.include is not None
    there = str(Path("/driver") / Path(task.include).relative_to(top))
    tasks = config.fitness.tasks | {"lunari_words": task.model_copy(update={"include": there})}
    return config.model_copy(update={"fitness": config.fitness.model_copy(update={"tasks": tasks})})


@dataclass
class Carrier:
    """Fetches from this machine's files, and remembers what it carried.

    Attributes:
        files: SHA-256 -> path.
        spoil: how many files arrive with one bit changed.
        stop_after: bytes after which it breaks down.
        carried: (digest, first byte, bytes) of every file asked for.
    """

    files: Mapping[str, str]
    spoil: int = 0
    stop_after: int | None = None
    piece: int = 2**16
    carried: list[tuple[str, int, int]] = field(default_factory=list)

    def __call__(self, digest: str, start: int, size: int) -> Iterator[bytes]:
        content = Path(self.files[digest]).read_bytes()[start:]
        self.carried.append((digest, start, 0))
        spoilt, self.spoil = self.spoil > 0, self.spoil - 1
        for place in range(0, len(content), self.piece):
            piece = content[place : place + self.piece]
            if self.stop_after is not None and self.total + len(piece) > self.stop_after:
                raise ConnectionError("the line is dead")
            digest, first, count = self.carried[-1]
            self.carried[-1] = (digest, first, count + len(piece))
            yield bytes([piece[0] ^ 1]) + piece[1:] if spoilt and place == 0 else piece

    @property
    def total(self) -> int:
        """Bytes carried."""
        return sum(count for _, _, count in self.carried)

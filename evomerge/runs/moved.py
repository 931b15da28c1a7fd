"""A run's sources and tasks, found again: where they were, where `--moved` says, or in the Hub's cache.

A run remembers where its files lay on the machine that began it. To continue it on another one, its
user says what moved: `OLD=NEW`, two paths, for everything at or below OLD; or `NEW` alone, for the
folder of the run file. What is found is compared with the run's hashes afterwards, as on any resume.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from evomerge.config import Fitness, Frozen, RunFile, SourceFiles
from search_spaces.errors import InputError

OPTION = "--moved"


def found_again(config: RunFile, moved: Sequence[str] = (), *, tasks: bool = True) -> RunFile:
    """A run's copy of its run file, with every path where the files are now.

    Args:
        config: frozen.
        moved: `OLD=NEW`, or `NEW` for the run file's folder. Of several that fit a path, the longest
            counts. One that was applied before changes nothing.
        tasks: whether task folders and objectives' files have to be there (an export needs none).

    Raises:
        InputError: an OLD that is none of the run's, or a file that is in neither place.
    """
    frozen = config.frozen
    assert frozen is not None
    moves = _Moves([_pair(text, config) for text in moved])
    origin = Path(frozen.origin)
    folder = moves.path(origin.parent)
    sources = {name: _source(config, name, moves) for name in frozen.sources}
    update = {
        "fitness": _fitness(config.fitness, origin.parent, folder, moves),
        "frozen": frozen.model_copy(
            update={"origin": str(folder / origin.name), "sources": sources}
        ),
    }
    again = config.model_copy(update=update)
    _require_files(again, tasks)
    return again


class _Moves:
    """Pairs of absolute paths, old and new."""

    def __init__(self, pairs: Sequence[tuple[Path, Path]]) -> None:
        self._pairs = sorted(pairs, key=lambda pair: -len(pair[0].parts))

    def path(self, path: Path) -> Path:
        """Where a path of the run is now."""
        for old, new in self._pairs:
            if path.is_relative_to(old) and not (
                # moved by an earlier session, to somewhere below where it was
                new.is_relative_to(old) and path.is_relative_to(new) and path.exists()
            ):
                return new / path.relative_to(old)
        return path


def _pair(text: str, config: RunFile) -> tuple[Path, Path]:
    """Old and new path of one `--moved`; a path may itself have a `=`."""
    known = list(_paths(config))
    if "=" not in text and text:
        return known[0], _absolute(text)
    cuts = [at for at, letter in enumerate(text) if letter == "="]
    pairs = [(text[:at], text[at + 1 :]) for at in cuts]
    for before, after in pairs:
        if before and after:
            old, new = _absolute(before), _absolute(after)
            # by NEW: the run was continued with this very option before
            if any(path.is_relative_to(end) for path in known for end in (old, new)):
                return old, new
    raise InputError(
        f"{OPTION} {text}",
        "no path of the run begins with it",
        "run.yaml",
        f"give OLD=NEW, OLD being one of these or a folder above: "
        f"{', '.join(map(str, dict.fromkeys(known)))}",
    )


def _absolute(text: str) -> Path:
    return Path(os.path.abspath(Path(text).expanduser()))


def _paths(config: RunFile) -> Iterator[Path]:
    """What a run names: the run file's folder first, then sources, task folders, objectives."""
    assert config.frozen is not None
    folder = Path(config.frozen.origin).parent
    yield folder
    for source in config.frozen.sources.values():
        yield from (Path(place) for place in (source.folder, source.lora) if place)
    yield from (path for _, path in _named(config.fitness, folder))


def _named(fitness: Fitness, folder: Path) -> Iterator[tuple[str, Path]]:
    """Task folders and objectives' files: what they are called in an error, and where they are."""
    includes = [fitness.include, *(task.include for task in fitness.tasks.values())]
    for include in includes:
        if include:
            yield f"include = {include}", _joined(folder, include)
    for objective in fitness.objectives:
        place = _file(objective.function)
        if place:
            yield f"objective {objective.function}", _joined(folder, place)


def _source(config: RunFile, name: str, moves: _Moves) -> SourceFiles:
    """Where a source is now; a model of the Hub that is not there is fetched by its commit."""
    assert config.frozen is not None
    source = config.frozen.sources[name]
    model = moves.path(Path(source.folder))
    lora = moves.path(Path(source.lora)) if source.lora else None
    called = config.models.sources[name]
    id_ = called.model.partition("@")[0]
    alone = lora is not None and called.lora is None  # `called.model` is the adapter's name
    if not model.is_dir() and source.revision and not alone and not Path(id_).is_absolute():
        from evomerge.merge.hub import resolve_model

        model = resolve_model(id_, Path(config.frozen.origin).parent, source.revision)
    return source.model_copy(update={"folder": str(model), "lora": str(lora) if lora else None})


def _fitness(fitness: Fitness, old: Path, new: Path, moves: _Moves) -> Fitness:
    """The section with its paths as they are seen from the run file's new folder."""

    def again(place: str | None) -> str | None:
        if not place:
            return place
        before = _joined(old, place)
        now = moves.path(before)
        # A relative path went along, unless it leads to where something still is.
        stays = now == _joined(new, place) or (now == before and not before.exists())
        return place if stays else str(now)

    def function(reference: str | None) -> str | None:
        place = _file(reference)
        if reference is None or place is None:
            return reference
        return f"{again(place)}:{reference.rpartition(':')[2]}"

    return fitness.model_copy(
        update={
            "include": again(fitness.include),
            "tasks": {
                name: task.model_copy(update={"include": again(task.include)})
                for name, task in fitness.tasks.items()
            },
            "objectives": [
                objective.model_copy(update={"function": function(objective.function)})
                for objective in fitness.objectives
            ],
        }
    )


def _require_files(config: RunFile, tasks: bool) -> None:
    frozen = config.frozen
    assert isinstance(frozen, Frozen)
    named = [
        (f"{kind} '{name}'", Path(place))
        for name, source in frozen.sources.items()
        for kind, place in (("source", source.folder), ("adapter of", source.lora))
        if place
    ]
    if tasks:
        named += _named(config.fitness, Path(frozen.origin).parent)
    for name, path in named:
        if not path.exists():
            raise InputError(
                name,
                "it is not where it was",
                str(path),
                f"put it back, or say where it is now: {OPTION} {path}=NEW (a folder above will do)",
            )


def _file(reference: str | None) -> str | None:
    """The path in `path/to/file.py:name`."""
    place = (reference or "").rpartition(":")[0]
    return place if place.endswith(".py") else None


def _joined(folder: Path, place: str) -> Path:
    return Path(os.path.normpath(folder / place))

"""A run file's sources: where they lie, and opened with the tokenizer the run file chooses."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from evomerge.config import RunFile, SourceFiles
from search_spaces.errors import InputError

if TYPE_CHECKING:
    from evomerge.merge.locations import Location, Reference
    from evomerge.merge.sources import Sources


def references(config: RunFile) -> dict[str, "Reference"]:
    """Source name -> what the run file calls it."""
    from evomerge.merge.locations import Reference

    return {
        name: Reference(source.model, source.lora, source.revision)
        for name, source in config.models.sources.items()
    }


def locate_sources(config: RunFile, folder: Path) -> dict[str, "Location"]:
    """Source name -> where it lies; models of the Hub are fetched into its cache.

    Args:
        config: the run file.
        folder: what its relative paths are relative to.

    Raises:
        InputError: no such folder or model, an adapter without a model, one model as two experts.
    """
    from evomerge.merge.locations import locate

    found = locate(references(config), folder, _base(config))
    names: dict[Location, str] = {}
    for name in config.models.experts:
        earlier = names.setdefault(found[name], name)
        if earlier != name:
            raise InputError(
                f"experts '{earlier}' and '{name}'",
                "they are one model, and a recipe names a model once",
                "models",
                "leave one of them out",
            )
    return found


def frozen_locations(config: RunFile) -> dict[str, "Location"]:
    """Where the sources of a run's own copy of its run file lie."""
    assert config.frozen is not None
    return {name: location_of(source) for name, source in config.frozen.sources.items()}


def location_of(source: SourceFiles) -> "Location":
    """Where a frozen source lies."""
    from evomerge.merge.locations import Location

    return Location(Path(source.folder), Path(source.lora) if source.lora else None)


def open_run_sources(config: RunFile, folders: Mapping[str, "Location"]) -> "Sources":
    """The run file's sources, with the tokenizer it chooses.

    Raises:
        InputError: see `open_sources`.
    """
    from evomerge.merge.sources import open_sources

    return open_sources(folders, config.models.tokenizer, _base(config))


def _base(config: RunFile) -> str | None:
    return "base" if config.models.base else None

"""From what a recipe calls a model to a local folder: a path, or a Hugging Face Hub id."""

from __future__ import annotations

import re
from pathlib import Path

from evomerge.merge.checkpoint import Checkpoint
from evomerge.merge.lora import check_adapter_files, is_adapter
from search_spaces.errors import InputError

_FILES = [
    *("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja"),
    # what a merge owes to its sources
    *("README.md", "LICENSE*", "LICENCE*", "[Ll]icen[cs]e*", "NOTICE*", "USE_POLICY*"),
    *("COPYING*", "UNLICENSE*"),
]
"""What is fetched. Never pickles, never code."""

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_COMMIT = re.compile(r"[0-9a-f]{40}")


def resolve_model(reference: str, folder: Path, revision: str | None = None) -> Path:
    """The local folder of a model.

    Args:
        reference: a folder (relative to `folder`, then to the current one), or a Hub id `org/name`,
            optionally with `@revision`. A folder whose name holds an `@` goes before a Hub id.
        folder: what relative paths are relative to.
        revision: branch, tag or commit of a Hub model; instead of `@revision`.

    Raises:
        InputError: there is no such folder, and no such model that the Hub or its cache has.
    """
    try:
        path = Path(reference).expanduser()
    except RuntimeError:  # `~name` of nobody
        path = Path(reference)
    for candidate in (folder / path, path):
        if candidate.is_dir():
            return candidate.resolve()
    name, _, pinned = reference.partition("@")
    if path.is_absolute() or not _HUB_ID.fullmatch(name) or name.startswith("."):
        raise InputError(
            f"model '{reference}'",
            "there is no such folder",
            f"relative to {folder}",
            "correct the path, or name a model of the Hugging Face Hub as org/name",
        )
    return _snapshot(name, revision or pinned or None, folder)


def revision_of(path: Path) -> str | None:
    """The commit of a folder in the Hub's cache (`.../snapshots/<commit>`); None for any other."""
    path = path.resolve()
    is_snapshot = path.parent.name == "snapshots" and _COMMIT.fullmatch(path.name)
    return path.name if is_snapshot else None


def _snapshot(name: str, revision: str | None, folder: Path) -> Path:

    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        HTTPError,  # pyright: ignore[reportPrivateImportUsage] its library's name differs by version
    )

    cached = _cached(name, revision) if revision and _COMMIT.fullmatch(revision) else None
    if cached and (cached / "README.md").is_file():
        return cached
    where = f"model '{name}'" + (f", revision {revision}" if revision else "")
    try:
        return _downloaded(name, revision, cached)
    except GatedRepoError as error:
        raise InputError(
            name,
            "the Hub gives it only to those who accepted its terms",
            where,
            "accept them on its page and log in with 'hf auth login'",
        ) from error
    except (HfHubHTTPError, HFValidationError) as error:
        raise InputError(
            name,
            f"it is no folder in {folder} and the Hub did not give it ({_first_line(error)})",
            where,
            "correct the path or the name",
        ) from error
    except (OSError, HTTPError) as error:  # includes offline mode
        raise InputError(
            name,
            f"it is no folder in {folder}, not in the Hub's cache, and the Hub cannot be "
            f"reached ({_first_line(error)})",
            where,
            "download it first, or go online",
        ) from error


def _downloaded(name: str, revision: str | None, cached: Path | None) -> Path:
    """What the Hub gives; where it gives nothing, the weights of that commit that are here."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HTTPError,  # pyright: ignore[reportPrivateImportUsage] its library's name differs by version
    )

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=_FILES))
    except (HfHubHTTPError, HTTPError, OSError):
        if cached is None:
            raise
        return cached


def _cached(name: str, commit: str) -> Path | None:
    """The folder of a commit, which never changes, if its weights are all here.

    Other tools fetch weights alone: without the card, which says the licence, the Hub is asked still.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(name, revision=commit, local_files_only=True))
        check_adapter_files(folder, name) if is_adapter(folder) else Checkpoint(name, folder)
    except (LocalEntryNotFoundError, HFValidationError, InputError):
        return None
    return folder


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)

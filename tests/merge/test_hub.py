"""Names to folders, without a network."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evomerge.merge.hub import resolve_model, revision_of
from search_spaces.errors import InputError
from tests.merge.models import Family

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_folders_relative_to_the_recipe_then_to_the_current_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    recipe, here = tmp_path / "recipe", tmp_path / "here"
    for folder in (recipe / "models" / "a", here / "models" / "a", here / "models" / "b"):
        folder.mkdir(parents=True)
    monkeypatch.chdir(here)
    assert resolve_model("models/a", recipe) == recipe / "models" / "a"
    assert resolve_model("models/b", recipe) == here / "models" / "b"
    assert resolve_model(str(here / "models"), recipe) == here / "models"
    assert revision_of(here) is None


def test_folders_with_an_at_go_before_revisions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for name in ("org/model@v2", "org/model", "at@home/maths"):
        (tmp_path / name).mkdir(parents=True)
        for reference in (name, f"./{name}", str(tmp_path / name)):
            assert resolve_model(reference, tmp_path / "recipes") == tmp_path / name


@pytest.mark.parametrize("reference", ["/nowhere/at/all", "./missing", "../missing", "a/b/c"])
def test_missing_folder(tmp_path: Path, reference: str):
    with pytest.raises(InputError, match=r"no such folder; correct the path, or name"):
        resolve_model(reference, tmp_path)


def test_cached_model_needs_no_network(
    tmp_path: Path, family: Callable[..., Family], monkeypatch: pytest.MonkeyPatch
):
    """The Hub's cache as huggingface_hub lays it out, with a branch that points to a commit."""
    from huggingface_hub import constants

    repository = tmp_path / "models--org--name"
    snapshot = repository / "snapshots" / COMMIT
    shutil.copytree(family("llama").folders["a"], snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert resolve_model("org/name", tmp_path, COMMIT) == snapshot, "online: a commit never changes"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for reference, revision in (
        ("org/name", None),
        (f"org/name@{COMMIT}", None),
        ("org/name", "main"),
    ):
        assert resolve_model(reference, tmp_path, revision) == snapshot
    assert revision_of(snapshot) == COMMIT


def test_unknown_model_offline_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"not in the Hub's cache.*download it first") as caught:
        resolve_model("org/nothing", tmp_path)
    assert "\n" not in str(caught.value)


def test_name_the_hub_cannot_have(tmp_path: Path):
    with pytest.raises(InputError, match=r"the Hub did not give it"):
        resolve_model("-bad--/x..y", tmp_path)


def test_weights_without_a_card_are_asked_for_once_more(
    tmp_path: Path, family: Callable[..., Family], monkeypatch: pytest.MonkeyPatch
):
    """Other tools fetch weights alone: the licence was then unknown for good."""
    import huggingface_hub
    from huggingface_hub import constants
    from huggingface_hub.errors import LocalEntryNotFoundError

    snapshot = tmp_path / "models--org--name" / "snapshots" / COMMIT
    shutil.copytree(family("llama").folders["a"], snapshot)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    local, asked = huggingface_hub.snapshot_download, list[str]()

    def download(name: str, *, local_files_only: bool = False, **options: Any) -> str:
        if local_files_only:
            return local(name, local_files_only=True, **options)
        asked.append(name)
        if not online:
            raise LocalEntryNotFoundError("offline")
        (snapshot / "README.md").write_text("---\nlicense: mit\n---\n")
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    online = False
    assert resolve_model("org/name", tmp_path, COMMIT) == snapshot, "offline: what is there"
    online = True
    assert resolve_model("org/name", tmp_path, COMMIT) == snapshot
    assert (snapshot / "README.md").is_file()
    assert resolve_model("org/name", tmp_path, COMMIT) == snapshot
    assert len(asked) == 2, "a commit that is here with its card is asked for no more"


def test_a_home_of_nobody(tmp_path: Path):
    with pytest.raises(InputError, match=r"there is no such folder"):
        resolve_model("~nobody9/x", tmp_path)

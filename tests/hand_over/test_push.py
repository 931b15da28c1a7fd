"""`--push`, against a small Hub on this machine that a process with the real huggingface_hub talks to."""

import hashlib
import os
import socket
import subprocess
import sys

import pytest

from evomerge.hand_over.push import Push, check_push
from evomerge.licences import Licence, judge_licences
from search_spaces.errors import InputError
from tests.hand_over.hub import TOKEN, Hub


def export(folder, out, hub, *options, token=TOKEN, retries=True):
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
    environment |= {
        "HF_ENDPOINT": hub, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HOME": str(out.parent / "hf"), "HF_HUB_DISABLE_TELEMETRY": "1",
    }  # fmt: skip
    if token:
        environment["HF_TOKEN"] = token
    command = [sys.executable, "-m", "evomerge.cli", "export", folder, out, "--no-verify", *options]
    return subprocess.run(
        list(map(str, command)), capture_output=True, text=True, env=environment, check=False
    )


def error_of(done):
    assert "Traceback" not in done.stderr, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    return line


def test_private_by_default_and_every_byte_arrives(night, tmp_path):
    out = tmp_path / "out"
    with Hub() as hub:
        done = export(night.folder, out, hub.address, "--push", "me/merge")
        assert done.returncode == 0, done.stderr
        assert f"pushed to {hub.address}/me/merge" in done.stderr
        repo = hub.repos["me/merge"]
    assert repo["private"]
    local = {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()}
    assert repo["files"] == local
    assert "POST /me/merge.git/info/lfs/objects/batch" in hub.seen, "weights go as large files"
    weights = hashlib.sha256(local["model.safetensors"]).hexdigest()
    assert f"PUT /upload/{weights}" in hub.seen
    assert "me/merge" in local["README.md"].decode()
    assert str(night.models) not in local["recipe.yaml"].decode(), "no paths of this machine"


def test_public_where_it_is_asked_for(night, tmp_path):
    with Hub() as hub:
        done = export(night.folder, tmp_path / "out", hub.address, "--push", "me/merge", "--public")
        assert done.returncode == 0, done.stderr
        assert not hub.repos["me/merge"]["private"]
        assert "stays private" not in done.stderr
        twice = export(
            night.folder, tmp_path / "two", hub.address, "--push", "me/merge", "--public"
        )
        assert twice.returncode == 0, twice.stderr
        assert "stays private" not in twice.stderr
        again = export(night.folder, tmp_path / "again", hub.address, "--push", "me/merge")
        assert again.returncode == 2
        assert "public" in error_of(again)
        assert (tmp_path / "again" / "model.safetensors").exists()


def test_a_new_export_replaces_the_old_one_in_one_commit(night, tmp_path):
    """Shards, index and licences of another model would be loaded, or believed, beside the new ones."""
    left = [
        "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
        "model.safetensors.index.json", "LICENSES/gone/LICENSE", "vocab.json", "recipe.yaml",
        "additional_chat_templates/tools.jinja", "chat_template.jinja",
    ]  # fmt: skip
    others = [
        ".gitattributes",
        "onnx/model.safetensors",
        "run-Q8_0.gguf",
        "notes.md",
        "images/a.svg",
    ]
    out = tmp_path / "out"
    with Hub() as hub:
        hub.repos["me/merge"] = {"private": True, "files": dict.fromkeys([*left, *others], b"old")}
        done = export(night.folder, out, hub.address, "--push", "me/merge")
        assert done.returncode == 0, done.stderr
        found = hub.repos["me/merge"]["files"]
    local = {p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob("*") if p.is_file()}
    assert found == local | dict.fromkeys(others, b"old")
    assert "vocab.json" not in local, "else it shows nothing"
    assert sum(line.startswith("POST") and "/commit/" in line for line in hub.seen) == 1


def test_a_private_repository_stays_private_and_it_is_said(night, tmp_path):
    with Hub() as hub:
        hub.repos["me/merge"] = {"private": True, "files": {}}
        first = export(
            night.folder, tmp_path / "out", hub.address, "--push", "me/merge", "--public"
        )
        assert first.returncode == 0, first.stderr
        assert hub.repos["me/merge"]["private"]
        assert "model.safetensors" in hub.repos["me/merge"]["files"]
        again = export(night.folder, tmp_path / "again", hub.address, "--push", "me/merge")
        assert again.returncode == 0, again.stderr
    assert "warning: me/merge was there already, and private: it stays private" in first.stderr
    assert f"{hub.address}/me/merge/settings" in first.stderr
    assert "stays private" not in again.stderr


def test_nobody_is_logged_in(night, tmp_path):
    with Hub() as hub:
        done = export(night.folder, tmp_path / "out", hub.address, "--push", "me/x", token=None)
        assert done.returncode == 2
        assert "hf auth login" in error_of(done)
        assert hub.seen == []
    assert not (tmp_path / "out").exists()


def test_a_token_that_the_hub_does_not_know(night, tmp_path):
    with Hub() as hub:
        other = "hf_" + "b" * 34
        done = export(night.folder, tmp_path / "out", hub.address, "--push", "me/x", token=other)
    assert done.returncode == 1
    assert "hf upload me/x" in error_of(done)
    assert (tmp_path / "out" / "model.safetensors").exists()


def test_nobody_answers(night, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    done = export(night.folder, tmp_path / "out", address, "--push", "me/x")
    assert done.returncode == 1
    assert "the model lies in" in error_of(done)
    assert (tmp_path / "out" / "README.md").exists()


def test_the_commit_is_refused_after_the_upload(night, tmp_path):
    with Hub(breaks="/commit/", status=403) as hub:
        done = export(night.folder, tmp_path / "out", hub.address, "--push", "me/x")
        assert done.returncode == 1, done.stderr
        assert "did not take me/x" in error_of(done)
        assert hub.repos["me/x"]["files"] == {}
    assert (tmp_path / "out" / "model.safetensors").exists()


def verdict_of(*names):
    return judge_licences({n or "z": Licence(n, "x") if n else None for n in names})


@pytest.fixture
def logged_in(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)


@pytest.mark.usefixtures("logged_in")
def test_what_licences_say_of_a_push():
    conflict, unknown = verdict_of("gpl-3.0", "cc-by-nc-4.0"), verdict_of("mit", None)
    for public in (False, True):
        with pytest.raises(InputError, match="--despite-licences"):
            check_push(Push("me/x", public), conflict)
        check_push(Push("me/x", public, despite_licences=True), conflict)
        check_push(Push("me/x", public), verdict_of("mit", "llama3.1"))
    with pytest.raises(InputError, match="no licence is known of z"):
        check_push(Push("me/x", public=True), unknown)
    unread = verdict_of("apache-2.0", "proprietary")
    with pytest.raises(InputError, match="the terms of proprietary are not known here"):
        check_push(Push("me/x", public=True), unread)
    with pytest.raises(InputError, match=r"known of z; the terms of own are"):
        check_push(Push("me/x", public=True), verdict_of("own", None))
    for one in (unknown, unread):
        check_push(Push("me/x"), one)
        check_push(Push("me/x", public=True, despite_licences=True), one)


@pytest.mark.usefixtures("logged_in")
@pytest.mark.parametrize("repo", ["a/b/c", "me/..", "me/x.git", "-x", "me/ü", ""])
def test_names_that_no_repository_has(repo):
    with pytest.raises(InputError, match="ORG/NAME"):
        check_push(Push(repo), verdict_of("mit"))


def test_offline_is_said(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="HF_HUB_OFFLINE"):
        check_push(Push("me/x"), verdict_of("mit"))


def test_a_conflict_is_refused_before_anything_is_written(night, tmp_path):
    card = night.models / "tovek" / "README.md"
    before = card.read_text()
    card.write_text("---\nlicense: gpl-3.0\n---\n")
    try:
        with Hub() as hub:
            done = export(night.folder, tmp_path / "out", hub.address, "--push", "me/x")
            assert done.returncode == 2, done.stderr
            assert "gpl-3.0 (tovek)" in error_of(done)
            assert not (tmp_path / "out").exists()
            done = export(
                night.folder, tmp_path / "out", hub.address, "--push", "me/x", "--despite-licences"
            )
            assert done.returncode == 0, done.stderr
            assert "licences conflict" in done.stderr
            assert b"license: unknown" in hub.repos["me/x"]["files"]["README.md"]
    finally:
        card.write_text(before)

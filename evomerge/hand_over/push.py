"""An exported folder goes to the Hugging Face Hub: private by default, and not against its parents'
licences."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from evomerge.hand_over.errors import HandOverError
from evomerge.hand_over.texts import FOLDER
from evomerge.licences import Verdict
from search_spaces.errors import InputError

_WEIGHTS = (".safetensors", ".safetensors.index.json")
_BESIDE = ("config.json", "generation_config.json", "recipe.yaml", "distances.svg", "LICENSE")
_DESPITE = "or --despite-licences, if you know better"


@dataclass(frozen=True)
class Push:
    """Where a model is to go.

    Attributes:
        repo: `org/name`, or `name` in your own account.
        public: whether everybody may see it.
        despite_licences: whether to push against what the licences seem to say.
    """

    repo: str
    public: bool = False
    despite_licences: bool = False


def check_push(push: Push, verdict: Verdict) -> None:
    """Refuse what can be refused before anything is written. Asks nobody.

    Raises:
        InputError: no name of a repository, licences that conflict or (to be public) are not known,
            nobody is logged in, offline mode.
    """
    from huggingface_hub import constants, get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    where = f"--push {push.repo}"
    try:
        validate_repo_id(push.repo)
    except HFValidationError as error:
        line = " ".join(str(error).split())
        raise InputError(f"'{push.repo}'", line, "--push", "name it as ORG/NAME") from None
    _check_licences(push, verdict, where)
    if constants.HF_HUB_OFFLINE:
        raise InputError(
            "HF_HUB_OFFLINE",
            "it forbids every look at the Hub",
            where,
            "unset it, or leave out --push",
        )
    if not get_token():
        raise InputError(
            "no token",
            "the Hub takes models only from those who are logged in",
            where,
            "log in with 'hf auth login', or set HF_TOKEN to a token that may write",
        )


def _check_licences(push: Push, verdict: Verdict, where: str) -> None:
    if push.despite_licences:
        return
    if verdict.conflicts:
        raise InputError(
            "; ".join(verdict.conflicts),
            "licences that conflict let nobody pass the merge on",
            where,
            f"leave out --push or one of the parents, {_DESPITE}",
        )
    if push.public and (verdict.unknown or verdict.unread):
        found = {
            f"no licence is known of {', '.join(verdict.unknown)}": verdict.unknown,
            f"the terms of {', '.join(verdict.unread)} are not known here": verdict.unread,
        }
        raise InputError(
            "; ".join(text for text, sources in found.items() if sources),
            "no licence is no permission to publish, and unknown terms may forbid it",
            where,
            "leave out --public, read the terms, state a known licence in the parent's README.md, "
            f"{_DESPITE}",
        )


@dataclass(frozen=True)
class Pushed:
    """What an upload came to.

    Attributes:
        address: of the model.
        warnings: sentences: what is otherwise than asked for.
    """

    address: str
    warnings: tuple[str, ...] = ()


def upload(folder: Path, push: Push) -> Pushed:
    """Upload a folder, in one commit.

    What an earlier export left in the repository goes with the same commit, other files stay. One
    that is private stays private: with it, all that was ever pushed there would become public.

    Args:
        folder: whole.
        push: where to.

    Raises:
        InputError: the repository is there already, and public, and `push` is not.
        HandOverError: whatever the Hub or the network does; the folder is left as it is.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    api = HfApi()
    try:
        made = api.create_repo(push.repo, private=not push.public, exist_ok=True)
        private = bool(api.model_info(made.repo_id).private)
        if not push.public and not private:
            raise InputError(
                f"'{made.repo_id}'",
                "it is there already, and public",
                f"--push {push.repo}",
                f"push with --public, or to another name; the model lies in {folder}",
            )
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        new = {path.relative_to(folder).as_posix(): path for path in paths}
        old = [name for name in api.list_repo_files(made.repo_id) if name not in new]
        # not `upload_folder`: it may take several commits, and its patterns reach into folders
        api.create_commit(
            made.repo_id,
            [
                *(CommitOperationDelete(name) for name in old if _of_an_export(name)),
                *(CommitOperationAdd(name, path) for name, path in new.items()),
            ],
            commit_message="Merge made by evomerge",
        )
    except InputError:
        raise
    except Exception as error:  # of the network, the Hub, or any of the libraries in between
        option = "" if push.public else " --private"
        raise HandOverError(
            f"the Hub did not take {push.repo} ({_line(error)}); the model lies in {folder}, push it "
            f"later with: hf upload {push.repo} {folder} .{option}"
        ) from error
    hub = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    address = f"{hub}/{made.repo_id}"
    return Pushed(
        address, (_stays_private(made.repo_id, address),) if push.public and private else ()
    )


def _stays_private(repo: str, address: str) -> str:
    return (
        f"{repo} was there already, and private: it stays private despite --public, for its earlier "
        f"commits would become public too; to publish it nevertheless, see {address}/settings"
    )


def _of_an_export(name: str) -> bool:
    """Whether a file of a repository is one that an export writes: at another time it may not."""
    from evomerge.merge.skeleton import TEMPLATES, TOKENIZER_FILES

    folder, _, rest = name.partition("/")
    if rest:
        return folder in (FOLDER, TEMPLATES)
    return name.endswith(_WEIGHTS) or name in (*_BESIDE, *TOKENIZER_FILES)


def _line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__

"""An exported folder goes to the Hugging Face Hub: private by default, and not against its parents'
licences."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from evomerge.hand_over.errors import HandOverError
from evomerge.licences import Verdict
from search_spaces.errors import InputError

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
    if push.public and verdict.unknown:
        raise InputError(
            f"no licence is known of {', '.join(verdict.unknown)}",
            "no licence is no permission to publish",
            where,
            f"leave out --public, state the licence in the parent's README.md, {_DESPITE}",
        )


def upload(folder: Path, push: Push) -> str:
    """Upload a folder.

    Args:
        folder: whole.
        push: where to.

    Returns:
        The address of the model.

    Raises:
        InputError: the repository is there already, and public, and `push` is not.
        HandOverError: whatever the Hub or the network does; the folder is left as it is.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        made = api.create_repo(push.repo, private=not push.public, exist_ok=True)
        if not push.public and not api.model_info(made.repo_id).private:
            raise InputError(
                f"'{made.repo_id}'",
                "it is there already, and public",
                f"--push {push.repo}",
                f"push with --public, or to another name; the model lies in {folder}",
            )
        api.upload_folder(
            repo_id=made.repo_id, folder_path=folder, commit_message="Merge made by evomerge"
        )
    except InputError:
        raise
    except Exception as error:  # of the network, the Hub, or any of the libraries in between
        private = "" if push.public else " --private"
        raise HandOverError(
            f"the Hub did not take {push.repo} ({_line(error)}); the model lies in {folder}, push it "
            f"later with: hf upload {push.repo} {folder} .{private}"
        ) from error
    return f"{os.environ.get('HF_ENDPOINT', 'https://huggingface.co').rstrip('/')}/{made.repo_id}"


def _line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__

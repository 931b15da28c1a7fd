"""The options of `evomerge export` that depend on each other."""

from evomerge.hand_over.push import Push
from evomerge.search.picks import PREFER
from search_spaces.errors import InputError


def pick_of(pick: str | None, prefer: str | None) -> str | None:
    """How the candidate is picked, from `--pick` and `--prefer`; None: the run's winner.

    Raises:
        InputError: both are given.
    """
    if pick is not None and prefer is not None:
        raise InputError(
            f"--pick {pick} and --prefer {prefer}", "each names a candidate", "export", "give one"
        )
    return pick if prefer is None else f"{PREFER}{prefer}"


def push_of(repo: str | None, *, public: bool, despite_licences: bool) -> Push | None:
    """Where the model goes; None: nowhere.

    Raises:
        InputError: `--public` or `--despite-licences` without `--push`.
    """
    if repo is not None:
        return Push(repo, public, despite_licences)
    if public or despite_licences:
        option = "--public" if public else "--despite-licences"
        raise InputError(option, "it says how to push", "export", "add --push ORG/NAME")
    return None

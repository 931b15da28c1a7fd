"""What an evaluator's exception means: how to record it, and whether to work on with its process.

Errors are told by the names of their types and by their messages, so that the driver does not have
to import torch or vLLM to read them.
"""

import re
import traceback
from collections.abc import Iterator
from dataclasses import dataclass

from evomerge.evaluation import Outcome

_OUT_OF_MEMORY = {"MemoryError", "OutOfMemoryError"}
_BROKEN = {"AcceleratorError", "BrokenEngineError", "DistBackendError", "EngineDeadError"}

_MEMORY_MESSAGE = re.compile(
    r"\bout of memory\b|_ALLOC_FAILED\b|can't allocate memory", re.IGNORECASE
)
_BROKEN_MESSAGE = re.compile(
    r"\b(CUDA|HIP|NCCL|RCCL|cuDNN|cuBLAS)( driver| kernel)? error\b|\b(CUBLAS|CUDNN|CUSOLVER)_STATUS_"
    r"|\bTriton Error \[|\bdevice-side assert",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Failure:
    """An exception as plain text, to cross processes: unpickling the exception itself would import
    whatever defines it (vLLM: ten seconds) where it is read.

    Attributes:
        outcome: how to record it.
        reason: a sentence.
        traceback: of the process in which it was raised.
    """

    outcome: Outcome
    reason: str
    traceback: str


def failure(error: BaseException) -> Failure:
    """`error`, caught just now, as text."""
    told = "".join(traceback.format_exception(error))
    return Failure(outcome_of(error), raised(error), told)


def outcome_of(error: BaseException) -> Outcome:
    """How to record an evaluation that ended in `error`."""
    if is_out_of_memory(error):
        return Outcome.OUT_OF_MEMORY
    return Outcome.WORKER_LOST if is_broken(error) else Outcome.SCORING_FAILED


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, a GPU's or the machine's."""
    for link in _chain(error):
        if _names(link) & _OUT_OF_MEMORY:
            return True
        if isinstance(link, RuntimeError) and _MEMORY_MESSAGE.search(str(link)):
            return True
    return False


def is_broken(error: BaseException) -> bool:
    """Whether the process that raised `error` is good for nothing any more.

    So it is after an error of the GPU or its driver (a CUDA context does not recover; the GPU may
    have fallen off the bus) and when vLLM's engine died. An ordinary lack of memory breaks nothing.
    """
    for link in _chain(error):
        if _names(link) & _OUT_OF_MEMORY:
            continue
        if _names(link) & _BROKEN:
            return True
        if isinstance(link, RuntimeError) and _BROKEN_MESSAGE.search(str(link)):
            return True
    return False


def raised(error: BaseException) -> str:
    """The reason of an evaluation that ended in an exception: one line of bounded length."""
    message = " ".join(str(error).split())[:500]
    return f"the evaluator raised {type(error).__name__}: {message}"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """`error` and what it was raised from, or while handling."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)


def _names(error: BaseException) -> set[str]:
    return {kind.__name__ for kind in type(error).__mro__}

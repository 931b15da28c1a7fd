"""What exceptions mean: the real ones of torch, and of vLLM by name."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch.distributed import DistBackendError

from evomerge.cluster.failures import failure, is_broken, is_out_of_memory, outcome_of, raised
from evomerge.evaluation import Outcome


def engine_dead():
    return type("EngineDeadError", (Exception,), {})("EngineCore encountered an issue.")


def wrapped(error):
    try:
        try:
            raise error
        except Exception as cause:
            raise ValueError("answering failed") from cause
    except ValueError as outer:
        return outer


BROKEN = [
    torch.AcceleratorError("CUDA error: unspecified launch failure"),
    RuntimeError("CUDA error: an illegal memory access was encountered\nCompile with"),
    RuntimeError("CUDA driver error: invalid device context"),
    RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    RuntimeError("CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
    RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"),
    RuntimeError("HIP error: invalid device function"),
    DistBackendError("NCCL error in: ProcessGroupNCCL.cpp:77, unhandled system error"),
    engine_dead(),
]
MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
    MemoryError("unable to allocate 3 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
]


@pytest.mark.parametrize("error", BROKEN)
def test_a_broken_gpu_or_engine(error):
    for seen in (error, wrapped(error)):
        assert is_broken(seen)
        assert outcome_of(seen) is Outcome.WORKER_LOST


@pytest.mark.parametrize("error", MEMORY)
def test_a_lack_of_memory_breaks_nothing(error):
    for seen in (error, wrapped(error)):
        assert is_out_of_memory(seen)
        assert not is_broken(seen)
        assert outcome_of(seen) is Outcome.OUT_OF_MEMORY


def test_out_of_memory_told_by_the_driver_is_both():
    """The driver's own allocation failed: the context may be gone, the candidate was too large."""
    error = torch.AcceleratorError("CUDA error: out of memory")
    assert is_broken(error)
    assert outcome_of(error) is Outcome.OUT_OF_MEMORY


@pytest.mark.parametrize(
    "error", [ArithmeticError("lost count"), KeyError("CUDA error"), RuntimeError("size of tensor")]
)
def test_anything_else_is_a_failure_of_scoring(error):
    assert not is_broken(error)
    assert outcome_of(error) is Outcome.SCORING_FAILED


def test_an_error_that_was_handled_does_not_count():
    def handled():
        try:
            raise torch.AcceleratorError("CUDA error")
        except RuntimeError:
            raise ValueError("no such item") from None

    with pytest.raises(ValueError, match="no such item") as found:
        handled()
    assert not is_broken(found.value)


@pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed")
def test_vllm_still_calls_its_dead_engine_so():
    folder = Path(find_spec("vllm").origin).parent
    assert "class EngineDeadError(" in (folder / "v1/engine/exceptions.py").read_text()


def test_a_failure_carries_its_traceback_as_text():
    try:
        raise ArithmeticError("lost\n  count")
    except ArithmeticError as error:
        told = failure(error)
    assert told.reason == "the evaluator raised ArithmeticError: lost count"
    assert "test_failures.py" in told.traceback
    assert len(raised(ValueError("x" * 10_000))) < 600

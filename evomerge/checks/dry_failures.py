"""What a failing dry run means, and what to do about it."""

from collections.abc import Iterator
from contextlib import contextmanager

from evomerge.cluster.failures import is_out_of_memory
from evomerge.cluster.jobs import EvaluatorBuildError
from evomerge.config import RunFile
from evomerge.evaluation import Evaluation, Outcome
from fitness.engines.decoding import not_finite
from fitness.errors import FitnessError
from search_spaces.errors import InputError

_MEMORY_WORDS = ("out of memory", "outofmemory", "memoryerror", "can't allocate memory")


@contextmanager
def remedied(config: RunFile) -> Iterator[None]:
    """Turn what keeps an engine from starting into errors that say what to do.

    Raises:
        InputError: out of memory, or logits of a source that are not finite.
        EvaluatorBuildError: anything else that is no input's; says where to look.
    """
    try:
        yield
    except FitnessError as error:
        if error.rule != not_finite().rule:
            raise
        raise _not_finite(config, "a source alone") from error
    except EvaluatorBuildError as error:
        if any(word in str(error).lower() for word in _MEMORY_WORDS):
            raise _out_of_memory(config, "starting the engine", str(error)) from error
        raise EvaluatorBuildError(
            f"dry run: {error}; run 'evomerge check' with `cluster.executor: serial` for the whole "
            "traceback, or --no-dry-run for the other checks alone"
        ) from error
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise _out_of_memory(config, "starting the engine", str(error)) from error


def refusal(config: RunFile, name: str, evaluation: Evaluation) -> Exception:
    """The error for a candidate that could not be scored although any merge like it should be.

    Args:
        config: the run file.
        name: of the candidate.
        evaluation: how it ended.
    """
    outcome, reason = evaluation.outcome, evaluation.reason
    if outcome is Outcome.OUT_OF_MEMORY:
        return _out_of_memory(config, f"candidate '{name}'", reason)
    if outcome is Outcome.WORKER_LOST:
        return EvaluatorBuildError(
            f"dry run: candidate '{name}': {reason}; if the machine ran out of memory, "
            f"{_smaller(config)}; else look into Ray's logs (/tmp/ray/session_latest/logs)"
        )
    if outcome is Outcome.TIMED_OUT:
        return InputError(
            f"cluster.deadline_seconds {config.cluster.deadline_seconds:g}",
            f"candidate '{name}' was not done by then",
            "dry run",
            "raise it, ask fewer items, or lower max_gen_toks",
        )
    if not_finite().rule in reason or "not finite" in reason:
        return _not_finite(config, f"candidate '{name}'")
    return InputError(
        f"candidate '{name}'",
        f"{outcome.value}: {reason}",
        "dry run",
        "mend the task, the objective or the sources that it names; every candidate would end so",
    )


def _not_finite(config: RunFile, what: str) -> InputError:
    dtype = config.engine.dtype
    remedy = (
        "use engine.dtype: bfloat16 or float32"
        if dtype == "float16"
        else "check the sources: load each with transformers and look at its answers"
    )
    return InputError(
        f"{what} in {dtype}", "its logits are not finite, so no score is", "dry run", remedy
    )


def _out_of_memory(config: RunFile, what: str, reason: str) -> InputError:
    told = " ".join(reason.split())[:200]
    return InputError(what, f"it ran out of memory ({told})", "dry run", _smaller(config))


def _smaller(config: RunFile) -> str:
    """What takes less memory, of this engine."""
    own = (
        "arguments: {gpu_memory_utilization: 0.8} and max_model_len, or raise tensor_parallel"
        if config.engine.kind == "vllm"
        else "engine.batch_tokens and max_model_len"
    )
    dtype = ", use engine.dtype: bfloat16" if config.engine.dtype == "float32" else ""
    return f"lower {own}{dtype}, or set engine.source_memory and fewer cluster.evaluators"

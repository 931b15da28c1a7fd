"""Scoring one finished model on a run file's tasks: what `evomerge evaluate` does."""

from pathlib import Path
from typing import Any

from evomerge.evaluator import EvaluatorFactory
from evomerge.run_file import folder_of, load_run_file
from evomerge.search.baselines import average
from evomerge.search.goals import plain
from search_spaces.errors import InputError


def score_model(model: str, run_file: Path, *, full: bool) -> dict[str, Any]:
    """Score `model` as a candidate would be.

    Args:
        model: folder or hub id, or `MODEL+ADAPTER`.
        run_file: names tasks, objectives and engine.
        full: every item of the tasks; otherwise the test items.

    Returns:
        `{"model", "split", "items", "objectives": {name: {"value", "se"}}}`.

    Raises:
        InputError, FitnessError: the model or the run file is wrong, or it could not be scored.
    """
    from evomerge.merge.locations import locate, reference_of

    config = load_run_file(run_file)
    folder = folder_of(config, run_file)
    # The model has its own tokenizer, whatever that of the run's candidates.
    alone = config.models.model_copy(update={"tokenizer": None})
    here = Path.cwd()
    place = locate({"model": reference_of(model, here)}, here, None)
    config = config.model_copy(update={"models": alone})
    evaluator = EvaluatorFactory(config, folder, place, full=full)()
    try:
        evaluation = evaluator.evaluate(average(["model"], None), "test")
    finally:
        evaluator.close()
    if not evaluation.scored:
        raise InputError(
            f"model '{model}'",
            f"it could not be scored ({evaluation.outcome}: {evaluation.reason})",
            str(place["model"].model),
            "mend the model or the tasks",
        )
    return {
        "model": model,
        "split": "all" if full else "test",
        "items": len(evaluation.responses),
        "objectives": plain(evaluation.objectives),
    }

"""vLLM that fails in the middle of answering: its evaluator must be replaced, not asked again."""

import json
import subprocess
import sys

SCRIPT = """
import json, sys
from pathlib import Path
import torch
from evomerge.cluster.failures import is_broken, outcome_of
from evomerge.evaluator import CandidateEvaluator
from evomerge.merge.remote import remote_provider
from evomerge.merge.skeleton import model_folder
from evomerge.merge.sources import open_sources
from fitness.engines.vllm.engine import VllmEngine
from tests.vllm.prove import _places, recipes, requests, save_models

class Judge:
    step = None
    specs = ()
    def size(self, split): return 1
    def requests(self, split, positions): return requests()
    def responses(self, split, positions, replies): return [None]
    def measure(self, split, answered, asking, agreement, model): return {}

if __name__ == "__main__":
    root = Path(sys.argv[1])
    save_models(root, "llama")
    sources = open_sources(_places(root))
    engine = VllmEngine(model_folder(sources), remote_provider(_places(root), sources))
    evaluator = CandidateEvaluator(engine, Judge())
    first, second, *_ = recipes().values()
    good = evaluator.evaluate(first, "search").outcome.value
    core = engine.llm.llm_engine.engine_core.engine_core
    model = core.model_executor.driver_worker.worker.model_runner.model
    forward = model.forward
    def fail(*arguments, **options):
        raise torch.OutOfMemoryError("CUDA out of memory")
    model.forward = fail
    try:
        found = evaluator.evaluate(second, "search")
        told = {"returned": found.outcome.value}
    except Exception as error:
        told = {"raised": type(error).__name__, "broken": is_broken(error),
                "outcome": outcome_of(error).value}
    print(json.dumps({"good": good} | told), flush=True)
"""


def test_memory_that_runs_out_while_answering_replaces_the_evaluator(tmp_path):
    """The requests stayed in vLLM's scheduler, and every candidate after it was "merge failed"."""
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found == {
        "good": "scored",
        "raised": "BrokenEngineError",
        "broken": True,
        "outcome": "out of memory",
    }

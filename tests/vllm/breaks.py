"""What test_swaps.py runs to see loads fail inside vLLM, and the next ones succeed.

    python -m tests.vllm.breaks ROOT

ROOT is a family that `tests.vllm.prove expect` has written. Prints one JSON object.
"""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from fitness.engine import Box, ListedWeights, Stack
from tests.vllm.prove import Served, recipes

KEYS = "model.layers.1.self_attn.k_proj.weight"


class Meddling:
    """A provider whose candidates are not the model's: implements `ListedWeights`.

    Args:
        inner: the real one.
        how: a key of `WAYS`.
    """

    def __init__(self, inner: ListedWeights, how: str) -> None:
        self._inner, self._how = inner, how

    def prepare(self, payload: object) -> None:
        self._inner.prepare(payload)

    def stack(self) -> Stack:
        return self._inner.stack()

    def names(self) -> Sequence[str]:
        names = list(self._inner.names())
        if self._how == "unknown name":
            names.insert(names.index(KEYS), "model.layers.1.nonsense.weight")
        elif self._how == "part of a fused group":
            names.remove(KEYS)
        elif self._how == "no attention":
            names = [name for name in names if "layers.1.self_attn" not in name]
        return names

    def shape(self, name: str) -> tuple[int, ...]:
        return (4, 4) if "nonsense" in name else self._inner.shape(name)

    def storage_dtype(self, name: str) -> torch.dtype:
        return self._inner.storage_dtype(KEYS if "nonsense" in name else name)

    def tensor(self, name: str, box: Box = ()) -> torch.Tensor:
        return self._inner.tensor(name, box)

    def write(self, name: str, out: torch.Tensor, box: Box = ()) -> None:
        if self._how == "Ctrl-C" and name == KEYS:
            raise KeyboardInterrupt
        if self._how == "out of memory" and name == KEYS:
            raise torch.OutOfMemoryError("of the GPU")
        self._inner.write(name, out, box)

    def keep(self) -> None:
        self._inner.keep()


WAYS = ("unknown name", "part of a fused group", "no attention", "Ctrl-C", "out of memory")


def breaks(root: Path) -> dict[str, object]:
    """Each way once, and a good candidate after it."""
    served = Served(root, 1)
    served.try_good("linear", True)
    worker = served.engine.llm.llm_engine.model_executor.driver_worker.worker
    engine = worker.weight_transfer_engine
    provider = engine._provider
    places = _places(engine.model)
    found: dict[str, list[object]] = {}
    for how in WAYS:
        engine._provider = Meddling(provider, how)
        try:
            served.engine.load(recipes()["ties"])
            outcome = "loaded"
        except BaseException as error:
            outcome = f"{type(error).__name__}: {error}"
        engine._provider = provider
        kept = _places(engine.model) == places
        served.try_good("linear", True)
        found[how] = [outcome, kept and _places(engine.model) == places]
    served.engine.close()
    again = Served(root, 1)
    again.try_good("linear", True)
    again.engine.close()
    digests = served.digests["linear exactly"] | again.digests["linear exactly"]
    return {
        "found": found,
        "error": max(served.errors.values()),
        "digests": len(digests),
        "threads": torch.set_num_threads is torch._C.set_num_threads,
    }


def _places(model: torch.nn.Module) -> dict[str, int]:
    return {name: parameter.data_ptr() for name, parameter in model.named_parameters()}


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    print(json.dumps(breaks(Path(sys.argv[1]))))

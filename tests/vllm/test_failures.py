"""An error that crosses vLLM's processes is caught outside as it would have been inside."""

import json

import pytest
import torch

from evomerge.merge.weights import MergeError
from fitness.engine import ShapeError
from fitness.engines.vllm.failures import as_data, from_data
from fitness.errors import FitnessError
from search_spaces.errors import InputError

ERRORS = [
    InputError("source 'z'", "it is not open", "recipe", "open it"),
    FitnessError("a", "b", "c", "d"),
    MergeError("model.norm.weight", "it holds NaN", finite=True),
    ShapeError("x", [1, 2], [3]),
    MemoryError("of the host"),
    torch.OutOfMemoryError("of the GPU"),
    KeyError("no_such_tensor"),
    OSError(28, "No space left on device"),
]


def crossed(error: Exception) -> Exception:
    try:
        raise error
    except Exception as caught:
        data = json.loads(json.dumps(as_data(caught)))
    return from_data(data, "worker 1")


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_type_message_and_attributes_arrive(error: Exception):
    found = crossed(error)
    assert type(found) is type(error)
    assert str(found) == str(error)
    assert vars(found).items() >= vars(error).items()
    assert "in worker 1" in found.__notes__[0]
    assert "test_failures.py" in found.__notes__[0], "where it happened is told"


def test_what_cannot_cross_is_left_behind():
    error = ValueError("bad", object())
    error.tensor = torch.zeros(2)  # pyright: ignore[reportAttributeAccessIssue]
    found = crossed(error)
    assert isinstance(found, ValueError)
    assert found.args[0] == "bad"
    assert "tensor" not in vars(found)


class OnlyThereError(Exception):
    """Of a module that the driver does not have."""


def test_unknown_types_become_runtime_errors():
    data = as_data(OnlyThereError("it happened"))
    data["type"] = "no.such.module:OnlyThereError"
    found = from_data(data, "worker 0")
    assert type(found) is RuntimeError
    assert "it happened" in str(found)
    for harmless in ("builtins:print", "builtins:int", "builtins:SystemExit"):
        assert type(from_data({**data, "type": harmless}, "worker 0")) is RuntimeError

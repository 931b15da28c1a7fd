"""Families of tiny models, written once per test session."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.merge.models import Family, save_family


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Family]:
    """`family(kind, dtype, **options)`: each combination is written once. Do not change it."""
    made: dict[str, Family] = {}

    def get(kind: str, dtype: torch.dtype = torch.float32, **options) -> Family:
        key = f"{kind}-{dtype}-{options}"
        if key not in made:
            made[key] = save_family(tmp_path_factory.mktemp(kind), kind, dtype, **options)
        return made[key]

    return get


@pytest.fixture
def llama_copy(tmp_path: Path, family: Callable[..., Family]) -> Family:
    """A family of Llamas of this test's own, to be damaged."""
    folders = {
        name: Path(shutil.copytree(folder, tmp_path / name))
        for name, folder in family("llama").folders.items()
    }
    return Family(folders)

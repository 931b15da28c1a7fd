"""Whether the embedded engine finds a family's layers under the names that they are stored by."""

from pathlib import Path

import pytest
from safetensors.torch import save_file

from evomerge.engines import ENGINES
from evomerge.merge.skeleton import model_folder
from evomerge.merge.sources import open_sources
from evomerge.run_file import parse_run_file
from search_spaces.errors import InputError
from tests.data_flow.families import FAMILIES, LAYERS, MIXTURES, random_model, save_models

RUN = {
    "models": {"experts": {"a": "a", "b": "b"}},
    "space": {"rule": "linear"},
    "fitness": {"tasks": {"t": {}}},
}
CONFIG = parse_run_file(RUN, "run.yaml")


def check(folders: dict[str, Path]) -> None:
    """As `evomerge check` does for stacks of at most four layers more than the sources have."""
    sources = open_sources(folders)
    model = model_folder(sources, LAYERS + 4, of_each_kind=False)
    ENGINES["transformers"].check(CONFIG, model, sources)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_the_engine_runs_passes(family: str, tmp_path: Path) -> None:
    check(save_models(tmp_path, family))


@pytest.mark.parametrize("family", MIXTURES)
def test_mixtures_are_refused_before_the_night(family: str, tmp_path: Path) -> None:
    """They passed once, and then no candidate could be loaded."""
    with pytest.raises(InputError, match=r"experts.*use `engine.kind: vllm`") as refused:
        check(save_models(tmp_path, family))
    assert f"model_type '{family}'" in str(refused.value)


def test_a_mixture_stored_as_it_is_run_passes(tmp_path: Path) -> None:
    folders = save_models(tmp_path, "qwen3_moe")
    for seed, folder in enumerate(folders.values()):
        state = random_model("qwen3_moe", seed).state_dict()
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    check(folders)

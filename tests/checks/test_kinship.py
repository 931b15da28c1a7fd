"""Ancestry: distances and cosines against plain arithmetic, and what is said of odd experts."""

from pathlib import Path

import pytest
import torch

from evomerge.checks.advice import Advice
from evomerge.checks.kinship import Kinship, advise_on_kinship, measure_kinship
from evomerge.merge.locations import Location
from evomerge.merge.sources import open_sources
from tests.checks.zoo import MODELS, Tensors, copied, flat, noise, permuted, weights
from tests.cli.test_inputs import adapter
from tests.merge.models import save_family


def kinship(base: str | None = "base", sample: int = 2**21, **folders: Path) -> Kinship:
    first = {"base": MODELS / "base"} if base else {}
    return measure_kinship(open_sources(first | folders, None, base), base, sample)


def said(found: Kinship) -> str:
    return " | ".join(str(advice) for advice in advise_on_kinship(found, ["task_arithmetic"]))


def test_the_quickstart_against_plain_arithmetic() -> None:
    found = kinship(lunari=MODELS / "lunari", tovek=MODELS / "tovek")
    base, lunari, tovek = (flat(weights(name)) for name in ("base", "lunari", "tovek"))
    assert found.sampled == found.of == base.numel()
    assert found.names == ("lunari", "tovek")
    distance = float((lunari - base).norm() / base.norm())
    assert found.distances["lunari"] == pytest.approx(distance, rel=1e-9)
    cosine = float(torch.cosine_similarity(tovek, base, 0))
    assert found.to_base["tovek"] == pytest.approx(cosine, rel=1e-9)
    between = float(torch.cosine_similarity(lunari - base, tovek - base, 0))
    assert found.cosines[0][1] == found.cosines[1][0] == pytest.approx(between, rel=1e-9)
    assert found.cosines[0][0] == pytest.approx(1)
    assert advise_on_kinship(found, ["ties"]) == []


def test_without_a_base_weights_are_compared() -> None:
    found = kinship(None, lunari=MODELS / "lunari", tovek=MODELS / "tovek")
    cosine = float(torch.cosine_similarity(flat(weights("lunari")), flat(weights("tovek")), 0))
    assert found.cosines[0][1] == pytest.approx(cosine, rel=1e-9)
    assert found.distances == {}
    assert advise_on_kinship(found, []) == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_sample_is_close_to_the_whole_and_always_the_same(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    family = save_family(tmp_path, "llama", dtype, hidden_size=256, intermediate_size=512)
    sources = open_sources(family.folders, None, "base")
    whole = measure_kinship(sources, "base", 2**30)
    some = measure_kinship(sources, "base", 2**17)
    assert some.sampled < whole.of / 4
    assert some.distances["a"] == pytest.approx(whole.distances["a"], rel=0.02)
    assert some.cosines[0][1] == pytest.approx(whole.cosines[0][1], abs=0.02)
    again = measure_kinship(open_sources(family.folders, None, "base"), "base", 2**17)
    assert again == some


def test_every_matrix_is_looked_at(tmp_path: Path) -> None:
    """An expert that differs in one small matrix is seen to, however small the sample."""

    def one(tensors: Tensors) -> None:
        tensors["model.layers.1.self_attn.k_proj.weight"] *= 1.5

    found = kinship(sample=1000, odd=copied(tmp_path / "odd", "base", one))
    assert found.distances["odd"] > 0
    assert found.equal == ()


def test_an_expert_that_is_the_base_or_another_one(tmp_path: Path) -> None:
    same, twin = copied(tmp_path / "same", "base"), copied(tmp_path / "twin", "tovek")
    found = kinship(same=same, tovek=MODELS / "tovek", twin=twin)
    assert found.equal == (("base", "same"), ("tovek", "twin"))
    assert found.distances["same"] == 0
    assert "expert 'same' is the base" in said(found)
    assert "models.experts.same" in said(found)
    assert "experts 'tovek' and 'twin' are equal" in said(found)
    assert "learnt the same" not in said(found)


def test_a_norm_alone_makes_a_difference(tmp_path: Path) -> None:
    def norm(tensors: Tensors) -> None:
        tensors["model.norm.weight"] *= 1.01

    found = kinship(normed=copied(tmp_path / "normed", "base", norm))
    assert found.distances["normed"] == 0
    assert found.equal == ()
    assert said(found) == ""


def test_experts_that_are_nearly_one(tmp_path: Path) -> None:
    def more(tensors: Tensors) -> None:
        base = weights("base")
        for name, tensor in tensors.items():
            tensors[name] = (base[name] + 1.3 * (tensor.float() - base[name])).to(tensor.dtype)

    found = kinship(tovek=MODELS / "tovek", more=copied(tmp_path / "more", "tovek", more))
    assert found.cosines[0][1] > 0.99
    assert "'tovek' and 'more' learnt the same" in said(found)
    assert "leave one of them out" in said(found)


def test_a_stranger_is_no_child_of_the_base(tmp_path: Path) -> None:
    stranger = copied(tmp_path / "stranger", "base", noise)
    found = kinship(tovek=MODELS / "tovek", stranger=stranger)
    assert abs(found.to_base["stranger"]) < 0.1
    assert found.distances["stranger"] == pytest.approx(2**0.5, abs=0.1)
    assert "'stranger' does not descend from the base" in said(found)
    assert "task_arithmetic adds deltas to the base" in said(found)
    assert "'tovek'" not in said(found)
    without = kinship(None, tovek=MODELS / "tovek", stranger=stranger)
    assert "'tovek' and 'stranger' share no ancestor" in said(without)


def test_an_expert_far_away(tmp_path: Path) -> None:
    found = kinship(far=copied(tmp_path / "far", "base", permuted))
    assert "'far'" in said(found)


def test_an_adapter(tmp_path: Path) -> None:
    adapter(MODELS / "base", tmp_path / "lora", 0)
    place = Location(MODELS / "base", tmp_path / "lora")
    sources = open_sources({"base": MODELS / "base", "adapted": place}, None, "base")
    found = measure_kinship(sources, "base")
    base = flat({n: sources.tensor("base", n) for n in sources.shapes})
    mine = flat({n: sources.tensor("adapted", n) for n in sources.shapes})
    distance = float((mine - base).norm() / base.norm())
    assert 0 < found.distances["adapted"] == pytest.approx(distance, rel=1e-6)


def test_every_warning_has_a_remedy() -> None:
    found = Kinship(
        "base", ("a", "b", "c"), 1, 1, {"a": 0.0, "b": 0.7, "c": 1.4},
        {"a": 1.0, "b": 0.8, "c": 0.1}, ((1, 0.99, 0), (0.99, 1, 0), (0, 0, 1)), (("base", "a"),),
    )  # fmt: skip
    advice = advise_on_kinship(found, [])
    assert len(advice) == 4
    assert all(isinstance(one, Advice) and one.remedy for one in advice)

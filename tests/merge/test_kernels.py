"""The kernels that run on any machine, against `passes.truth`, bit for bit."""

from dataclasses import replace
from math import inf, nan

import pytest
import torch
from hypothesis import given, settings

from evomerge.merge.elements import ElementPass, InputPass, Region
from evomerge.merge.kernels import cpu, reference
from tests.merge.passes import (
    SKELETONS,
    SPARSIFIERS,
    Case,
    Kernel,
    broken,
    cases,
    check,
    make,
    named,
    small_cases,
)

KERNELS = {"reference": reference.run, "cpu": cpu.run}
every_kernel = pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)


@every_kernel
@pytest.mark.parametrize("skeleton", SKELETONS, ids=named)
def test_every_combination_of_stages(kernel: Kernel, skeleton: ElementPass):
    for case in small_cases(skeleton, 300, SPARSIFIERS):
        check(kernel, case)


@every_kernel
@given(case=cases())
@settings(deadline=None, max_examples=150)
def test_any_size_region_and_dtypes(kernel: Kernel, case: Case):
    check(kernel, case)


@every_kernel
@pytest.mark.parametrize("value", [nan, inf, -inf, 3e38])
def test_what_is_broken_shows(kernel: Kernel, value: float):
    """3e38 is finite in float32 and bfloat16, and overflows in sums and in float16."""
    for skeleton in SKELETONS[::3]:
        for case in small_cases(skeleton, 64, ["none", "all"]):
            check(kernel, broken(case, value))


@every_kernel
def test_longer_than_a_chunk(kernel: Kernel):
    """Borders between chunks, within rows and between rows, leave no trace."""
    case = next(small_cases(SKELETONS[7], 150_001, ["all"]))
    check(kernel, case)
    for region in (
        Region(3, 30_011, 50_000, 17),
        Region(2, 70_001, 75_000),
        Region(150, 900, 1000),
    ):
        check(kernel, Case(case.work, case.base, case.inputs, case.dtype, region))


@every_kernel
def test_nothing_to_do(kernel: Kernel):
    work = ElementPass("none", (InputPass(),))
    for region in (Region.whole(0), Region(0, 5, 5), Region(5, 0, 7)):
        assert kernel(work, None, [torch.ones(35)], torch.empty(0), region) is True


@every_kernel
def test_a_view_in_the_middle_of_memory(kernel: Kernel):
    """Flat tensors need not begin where their storage does, nor at a multiple of 16 bytes."""
    memory = torch.arange(100.0)
    out = torch.empty(10)
    assert kernel(
        ElementPass("none", (InputPass(),)), None, [memory[7:40]], out, Region(2, 5, 11, 3)
    )
    assert out.tolist() == [10, 11, 12, 13, 14, 21, 22, 23, 24, 25]


@every_kernel
def test_a_worked_example(kernel: Kernel):
    """TIES by hand: the 2 rejects 5's sign, the third element loses the 1 to trimming."""
    inputs = [torch.tensor([3.0, 2.0, 1.0, 9.0]), torch.tensor([5.0, -6.0, 4.0, 9.0])]
    base = torch.tensor([1.0, 0.0, 0.0, 9.0])
    work = ElementPass("base", (InputPass(low=1.0), InputPass(low=1.0)), "sum", "mean", scale=0.5)
    out = torch.empty(4)
    assert kernel(work, base, inputs, out, Region.whole(4))
    assert out.tolist() == [1 + 0.5 * 3, -3.0, 2.0, 9.0]


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_do_not_matter(threads: int):
    """Stretches begin in the middle of rows; masks and bytes are as with one thread."""
    case = next(small_cases(SKELETONS[7], 200_001, ["all"]))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        check(cpu.run, case)
        region = Region(150, 1300, 1333, 17)
        check(cpu.run, Case(case.work, case.base, case.inputs, case.dtype, region))
        assert cpu.run(case.work, case.base, case.inputs, case.base.clone(), Region.whole(200_001))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("reference_", ["none", "base"])
@pytest.mark.parametrize(
    ("consensus", "combine"),
    [("none", "sum"), ("none", "mean"), ("none", "divided"), ("sum", "sum"), ("sum", "mean")],
)
def test_the_short_cut_for_bfloat16(
    reference_: str, consensus: str, combine: str, monkeypatch: pytest.MonkeyPatch
):
    """One to four sources in one loop, with each kind of mask; NaN and overflow take the long way."""
    taken: list[int] = []
    loop = cpu.fused.loop

    def noted(n: int, *kind: object):
        taken.append(n)
        return loop(n, *kind)

    monkeypatch.setattr(cpu.fused, "loop", noted)
    skeleton = ElementPass(reference_, (), consensus, combine)
    for seed in range(24):
        sources, sparsifier = 1 + seed % 4, ["none", "threshold", "random"][seed // 4 % 3]
        dtypes = [torch.bfloat16] * (sources + 2)
        region = Region(1, 1001 + seed, 1001 + seed, start=seed % 3)
        made = make(skeleton, sparsifier, seed, dtypes=dtypes, region=region, extra=5)
        inputs = tuple(
            replace(i, factor=1.0, high=inf, key=i.key and (7, i.key[1])) for i in made.work.inputs
        )
        case = replace(made, work=replace(made.work, inputs=inputs))
        check(cpu.run, case)
        for value in (nan, inf, 3.3e38):
            check(cpu.run, broken(case, value))
    assert set(taken) == {1, 2, 3, 4}
    assert len(taken) == 24 * 4

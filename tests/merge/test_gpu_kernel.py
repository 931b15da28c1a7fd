"""The GPU kernel against `passes.truth`, bit for bit: on a GPU if there is one, else interpreted.

Triton decides whether to interpret when it is imported. Where there is no GPU, this file is
therefore run once more in a process of its own, and the tests marked `runs` are run there.
"""

import os
import re
import subprocess
import sys
from math import inf, nan

import pytest
import torch
from hypothesis import given, settings

from evomerge.merge.elements import ElementPass, InputPass, Region
from evomerge.merge.kernels import reference
from tests.merge.passes import (
    DTYPES,
    SKELETONS,
    SPARSIFIERS,
    Case,
    broken,
    cases,
    check,
    make,
    named,
    small_cases,
)

pytest.importorskip("triton", reason="Triton is not installed (Linux only)")

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
runs = pytest.mark.skipif(
    not INTERPRETED and not torch.cuda.is_available(),
    reason="no GPU: test_interpreted runs it in the interpreter",
)
compiles = pytest.mark.skipif(INTERPRETED, reason="the interpreter compiles nothing")


@pytest.mark.skipif(INTERPRETED or torch.cuda.is_available(), reason="this process can run kernels")
def test_interpreted():
    command = [sys.executable, "-m", "pytest", "-q", "--no-header", __file__]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    child = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stdout[-10_000:]
    assert " passed" in child.stdout


@runs
@pytest.mark.parametrize("skeleton", SKELETONS, ids=named)
def test_every_combination_of_stages(skeleton: ElementPass):
    from evomerge.merge.kernels import gpu

    for case in small_cases(skeleton, 300, SPARSIFIERS):
        check(gpu.run, case, DEVICE)


@runs
@given(case=cases())
@settings(deadline=None, max_examples=30)
def test_any_size_region_and_dtypes(case: Case):
    from evomerge.merge.kernels import gpu

    check(gpu.run, case, DEVICE)


@runs
@pytest.mark.parametrize("value", [nan, inf, -inf, 3e38])
def test_what_is_broken_shows(value: float):
    from evomerge.merge.kernels import gpu

    for skeleton in SKELETONS[::7]:
        for case in small_cases(skeleton, 64, ["none", "all"]):
            check(gpu.run, broken(case, value), DEVICE)


@runs
def test_rounds_as_torch_does():
    """To each storage type, from magnitudes of all kinds: ties, denormals, up to overflow."""
    from evomerge.merge.kernels import gpu

    bits = torch.arange(0, 2**32, 2**20 - 2**15 + 2**12).to(torch.int32)
    theta = bits.view(torch.float32)
    for dtype in DTYPES:
        case = Case(ElementPass("none", (InputPass(),)), theta, (theta,), dtype, whole(theta))
        check(gpu.run, case, DEVICE)


@runs
def test_many_tensors_in_one_launch(monkeypatch: pytest.MonkeyPatch):
    """Jobs of one kind, of one and of several programs, an empty one, and a kind of its own."""
    from evomerge.merge.kernels import gpu

    launches = []
    kernel = gpu.elements.merge_tiles

    class Counting:
        def __getitem__(self, grid):
            launches.append(grid)
            return kernel[grid]

    monkeypatch.setattr(gpu.elements, "merge_tiles", Counting())
    sizes = [40_000, 8, 16_384, 16_392, 0, 4096]
    dtypes = [torch.bfloat16] * 5
    made = [
        make(SKELETONS[30], "all", seed, dtypes=dtypes, region=Region.whole(size))
        for seed, size in enumerate(sizes)
    ]
    odd = make(SKELETONS[3], "none", 9, dtypes=dtypes, region=Region(3, 33, 40, 5))
    broken_one = broken(odd, nan)
    jobs = [on_device(gpu.Job, case) for case in (*made, odd, broken_one)]

    flags = gpu.run_many(jobs).tolist()

    assert [flag != 0 for flag in flags] == [False] * 7 + [True]
    same_masks = [tuple(i.limit < 2**24 for i in job.work.inputs) for job in jobs if len(job.out)]
    assert len(launches) <= 1 + len(set(same_masks))
    for job in jobs:
        expected = torch.empty_like(job.out)
        reference.run(job.work, job.base, job.inputs, expected, job.region)
        assert torch.equal(job.out.view(torch.int16), expected.view(torch.int16)) or job is jobs[-1]


@runs
def test_nothing_to_do():
    from evomerge.merge.kernels import gpu

    assert gpu.run_many([]).tolist() == []
    work = ElementPass("none", (InputPass(),))
    theta, out = torch.ones(35, device=DEVICE), torch.empty(0, device=DEVICE)
    for region in (Region.whole(0), Region(0, 5, 5), Region(5, 0, 7)):
        assert gpu.run(work, None, [theta], out, region) is True


@runs
@pytest.mark.parametrize("start", [2**31 - 100, 2**31 + 4096])
def test_more_than_two_to_the_31_elements(start: int):
    """4 GB of addresses; only the region's pages are ever touched."""
    from evomerge.merge.kernels import gpu

    region = Region(2, 150, 160, start)
    theta = torch.empty(start + 310, dtype=torch.bfloat16, device=DEVICE)
    theta[start:] = torch.linspace(-1, 1, 310)
    work = ElementPass("none", (InputPass(key=(5, 7), limit=2**23),))
    out, expected = (torch.empty(300, device=DEVICE) for _ in range(2))
    assert gpu.run(work, None, [theta], out, region)
    assert reference.run(work, None, [theta], expected, region)
    assert torch.equal(out, expected)
    assert 100 < int((out == 0).sum()) < 200


@compiles
@pytest.mark.parametrize("out", ["fp16", "bf16", "fp32"])
@pytest.mark.parametrize(("consensus", "combine"), [("none", "sum"), ("sum", "mean")])
def test_compiled_for_hopper(consensus: str, combine: str, out: str):
    """No GPU is needed to see that loads are 16 bytes wide and that each operation rounds once."""
    ptx = compiled(consensus, combine, out)
    wide_loads = re.findall(r"ld\.global\.v4", ptx)
    assert len(wide_loads) == 2 * 4, "base and three inputs, 16 elements of each per thread"
    assert not re.search(r"fma\.|\.ftz|div\.(full|approx)|\bld\.local", ptx)
    assert ("div.rn.f32" in ptx) == (combine == "mean")


def compiled(consensus: str, combine: str, out: str) -> str:
    """The kernel's PTX for base and three bfloat16 inputs, trimmed and masked."""
    import triton
    import triton.language as tl
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from evomerge.merge.kernels import gpu_elements as elements

    bfloat16 = elements.BFLOAT16.value
    constants = {
        "REFERENCE": "base",
        "CONSENSUS": consensus,
        "COMBINE": combine,
        "DELTAS": False,
        "PARTS": (elements.LOW.value | elements.RANDOM.value,) * 3,
        "DTYPES": (bfloat16,) * 3,
        "BASE_DTYPE": bfloat16,
        "OUT_DTYPE": {"fp32": tl.float32, "fp16": tl.float16, "bf16": bfloat16}[out],
        "LIMIT": inf,
        "ALIGNED": True,
        "TILE": 2048,
        "TILES": 8,
    }
    pointers = ("*i64", "*fp32", "*i32", "*i32")
    names = ("geometry", "numbers", "job_of_program", "overflowed")
    source = ASTSource(
        elements.merge_tiles,
        dict(zip(names, pointers, strict=True)) | dict.fromkeys(constants, "constexpr"),
        constants,
        {(i,): [["tt.divisibility", 16]] for i in range(4)},
    )
    options = {"num_warps": 4, "enable_fp_fusion": False}
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options).asm["ptx"]


def whole(tensor: torch.Tensor) -> Region:
    return Region.whole(len(tensor))


def on_device(job_of, case: Case):
    """A `gpu.Job` of a case."""
    base, *inputs = (tensor.to(DEVICE) for tensor in (case.base, *case.inputs))
    size = case.region.rows * case.region.columns
    out = torch.full((size,), 77.0, dtype=case.dtype, device=DEVICE)
    return job_of(case.work, base, inputs, out, case.region)

"""How much an evaluator takes of a cluster, and how many of them fit. Plain arithmetic, no Ray."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from search_spaces.errors import InputError

Resources = Mapping[str, float]
"""What a node has of each kind (`CPU`, `GPU`)."""


@dataclass(frozen=True, slots=True)
class Share:
    """What one evaluator reserves, all of it on one node: cores and GPUs."""

    cpus: float
    gpus: float


def share_wanted(
    nodes: Sequence[Resources],
    cpus: float,
    gpus: float | Literal["auto"],
    tensor_parallel: int,
    device: str,
) -> Share:
    """What each evaluator is to reserve.

    Args:
        nodes: of the cluster.
        cpus: cores per evaluator, greater than 0.
        gpus: GPUs per evaluator, 0 or more, a fraction below 1 shares one; `auto`: as many as a model
            is spread over if the cluster has GPUs, else 0.
        tensor_parallel: GPUs that a model is spread over, at least 1.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.

    Raises:
        InputError: a number out of range, or no GPU for an engine that is to run on one.
    """
    if not cpus > 0:
        raise _refusal("cpus_per_evaluator", cpus, "it is greater than 0", "use 1")
    cards = sum(node.get("GPU", 0) for node in nodes)
    if gpus == "auto":
        gpus = float(tensor_parallel) if cards and device != "cpu" else 0.0
    if not gpus >= 0:
        raise _refusal("gpus_per_evaluator", gpus, "it is 0 or greater", "use 0 without GPUs")
    if gpus > 1 and gpus != int(gpus):
        rule = "beyond 1, GPUs are reserved whole"
        raise _refusal("gpus_per_evaluator", gpus, rule, f"use {math.ceil(gpus)}")
    if 0 < gpus < tensor_parallel and tensor_parallel > 1:
        rule = (
            f"a model spread over {tensor_parallel} GPUs (engine.tensor_parallel) takes them whole"
        )
        raise _refusal("gpus_per_evaluator", gpus, rule, "use `auto`")
    if device.startswith("cuda"):
        _require_gpu(device, gpus, cards)
    return Share(cpus, gpus)


def evaluators_wanted(
    nodes: Sequence[Resources], evaluators: int | Literal["auto"], share: Share
) -> int:
    """How many evaluators to start.

    Args:
        nodes: of the cluster.
        evaluators: a number, or `auto`: as many as fit.
        share: what each reserves.

    Raises:
        InputError: fewer than 1, or more than the cluster has room for.
    """
    room = capacity(nodes, share)
    wanted = max(room, 1) if evaluators == "auto" else int(evaluators)
    if wanted < 1:
        raise _refusal("evaluators", wanted, "it is at least 1", "use 'auto'")
    if wanted > room:
        cores, cards = (sum(n.get(kind, 0) for n in nodes) for kind in ("CPU", "GPU"))
        each = f"{share.cpus:g} CPU(s) and {share.gpus:g} GPU(s) each"
        raise InputError(
            f"{wanted} evaluator(s) of {each}",
            f"the cluster has {cores:g} CPU(s) and {cards:g} GPU(s) on {len(nodes)} node(s), room "
            f"for {room}",
            "cluster.evaluators",
            "ask for fewer evaluators or for less per evaluator, or add nodes",
        )
    return wanted


def capacity(nodes: Iterable[Resources], share: Share) -> int:
    """How many evaluators fit, none across two nodes."""

    def fitting(node: Resources) -> int:
        wants = [("CPU", share.cpus)] + ([("GPU", share.gpus)] if share.gpus > 0 else [])
        # 1e-9: 0.3 / 0.1 is 2.9999999999999996.
        return min(math.floor(node.get(kind, 0) / amount + 1e-9) for kind, amount in wants)

    return sum(fitting(node) for node in nodes)


def _require_gpu(device: str, gpus: float, cards: float) -> None:
    if gpus == 0:
        none = "the cluster has none" if not cards else "evaluators reserve none"
        raise InputError(
            f"device '{device}'",
            f"it needs a GPU, and {none}",
            "engine.device",
            "use `device: auto`, or `gpus_per_evaluator: auto` on a cluster that has GPUs",
        )
    index = int(device.partition(":")[2] or 0)
    if index >= max(1, gpus):
        raise InputError(
            f"device '{device}'",
            f"an evaluator sees the {gpus:g} GPU(s) that it reserves, counted from 0",
            "engine.device",
            "use `device: cuda`; to choose among the machine's GPUs set CUDA_VISIBLE_DEVICES",
        )


def _refusal(name: str, value: Any, rule: str, remedy: str) -> InputError:
    return InputError(f"{name} = {value}", rule, f"cluster.{name}", remedy)

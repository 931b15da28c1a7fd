"""Does a run fit this machine? Evaluators, memory and disk, before the night."""

import json
import math
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from evomerge.config import RunFile
from evomerge.engines import ENGINES, source_limit
from search_spaces.errors import InputError
from search_spaces.roles import role

if TYPE_CHECKING:
    from evomerge.merge.placement import Placement
    from evomerge.merge.sources import Sources

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def check_room(config: RunFile) -> int | None:
    """Refuse more evaluators, or greater ones, than this machine has room for.

    Returns:
        How many will work; None: that depends on the cluster.

    Raises:
        InputError: names what does not fit.
    """
    import os

    import torch

    from evomerge.cluster.room import evaluators_wanted, share_wanted

    cluster = config.cluster
    if cluster.executor == "serial":
        return 1
    if cluster.address != "local":
        return None if cluster.evaluators == "auto" else cluster.evaluators
    cores = max(os.cpu_count() or 1, len(os.sched_getaffinity(0)))
    nodes = [{"CPU": float(cores), "GPU": float(torch.cuda.device_count())}]
    share = share_wanted(
        nodes,
        cluster.cpus_per_evaluator,
        cluster.gpus_per_evaluator,
        config.engine.tensor_parallel,
        config.engine.device,
    )
    return evaluators_wanted(nodes, cluster.evaluators, share)


def _placement(config: RunFile, sources: "Sources", model: int) -> "Placement":
    """Where an evaluator on this machine would keep the sources, beside its model."""
    from evomerge.merge.placement import place_here
    from fitness.engines.resident import pick_device

    device = pick_device(config.engine.device)
    return place_here(sources.held_bytes(), device, source_limit(config.engine), reserved=model)


def check_resources(
    config: RunFile, sources: "Sources", model_folder: Path, layers: int
) -> list[tuple[str, str]]:
    """Memory for the resident models, disk for the export.

    Args:
        config: the run file.
        sources: opened.
        model_folder: configuration of the resident model, which may have more layers than any
            candidate.
        layers: of the deepest candidate.

    Raises:
        InputError: more is needed than the machine has.
    """
    workers = _evaluators_in_ram(config)
    model = _parameters(sources, _slots(model_folder, layers)) * BYTES[config.engine.dtype]
    each = model + ENGINES[config.engine.kind].beside
    needed = workers * each + sources.bytes()
    total, available = _memory()
    facts = [
        (
            "memory",
            f"{_gb(needed)} for {f'{workers} evaluator(s) and ' if workers else ''}the mapped sources;"
            f" {_gb(available)} free",
        ),
        ("memory per evaluator", _of_one(config, model, sources)),
    ]
    if config.cluster.address == "local":
        facts.append(("sources live", _placement(config, sources, model).sentence()))
    if workers * each > total:
        fitting = total // each
        remedy = f"use at most {fitting} evaluator(s)" if fitting else "use a machine with more"
        raise InputError(
            f"{workers} evaluator(s) of {_gb(each)}",
            f"there are {_gb(total)} of memory here",
            "cluster.evaluators",
            f"{remedy}, or engine.dtype: bfloat16",
        )
    export = _parameters(sources, layers) * BYTES[config.export.dtype or "float32"]
    free = shutil.disk_usage(Path.cwd()).free
    facts.append(("disk", f"{_gb(export)} at most for the export; {_gb(free)} free"))
    if free < export:
        raise InputError(
            f"an export of {_gb(export)}",
            f"the disk has {_gb(free)} left",
            str(Path.cwd()),
            "free some space first",
        )
    return facts


def _of_one(config: RunFile, model: int, sources: "Sources") -> str:
    """What an evaluator takes, part by part."""
    from fitness.engines.resident import pick_device

    kept = _gb(sources.held_bytes())
    if config.cluster.address == "local" and pick_device(config.engine.device).type != "cpu":
        return f"{_gb(model)} of GPU for the model, {kept} for the sources where there is room"
    beside = _gb(ENGINES[config.engine.kind].beside)
    return f"{_gb(model)} for the model, {beside} beside it; {kept} of sources, mapped once for all"


def _slots(model_folder: Path, layers: int) -> int:
    """Layers that the resident model has."""
    from evomerge.merge.checkpoint import layer_key, text_config

    config = json.loads((model_folder / "config.json").read_text(encoding="utf-8"))
    key = layer_key(config)
    return layers if key is None else int(text_config(config)[key])


def _parameters(sources: "Sources", layers: int) -> int:
    """Parameters of a model of so many layers, each as large as the sources' largest."""
    if layers == sources.layers:
        return sources.parameters()
    inside = [0] * sources.layers
    for name, shape in sources.shapes.items():
        layer = role(name).layer
        if layer is not None:
            inside[layer] += math.prod(shape)
    return sources.parameters() - sum(inside) + layers * max(inside)


def _evaluators_in_ram(config: RunFile) -> int:
    """Evaluators whose model lies in this machine's memory: none on a GPU or another machine."""
    import os

    from fitness.engines.resident import pick_device

    cluster = config.cluster
    on_cpu = pick_device(config.engine.device).type == "cpu"
    if cluster.executor == "serial":
        return int(on_cpu)
    if cluster.address != "local" or not on_cpu:
        return 0
    if cluster.evaluators != "auto":
        return cluster.evaluators
    return max(1, int(len(os.sched_getaffinity(0)) / cluster.cpus_per_evaluator))


def _memory() -> tuple[int, int]:
    """Bytes of memory in all, and available."""
    from evomerge.merge.host_memory import all_host_memory, free_host_memory

    return all_host_memory(), free_host_memory()


def _gb(count: float) -> str:
    return f"{count / 1e9:.2f} GB"

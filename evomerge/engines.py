"""The engines a run file may name. Adding one is a line in `ENGINES`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from evomerge.config import Engine, RunFile
from search_spaces.errors import InputError

if TYPE_CHECKING:
    from evomerge.merge.locations import Location
    from evomerge.merge.sources import Sources
    from fitness.engine import Engine as ResidentModel
    from fitness.engines.lengths import PromptLengths


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class Opened:
    """A run file's sources, opened.

    Attributes:
        config: the run file.
        folders: source name -> where it lies, the base (or first source) first.
        sources: they, opened.
        model: folder with the candidates' config and tokenizer; of stacks, with the deepest's.
        stacks: whether candidates are stacks of any depth up to that.
    """

    config: RunFile
    folders: Mapping[str, Location]
    sources: Sources
    model: Path
    stacks: bool = False


@dataclass(frozen=True)
class Running:
    """An engine at work.

    Attributes:
        engine: holds one model resident.
        keep: writes what was learnt of the sources to disk, for the next start.
    """

    engine: ResidentModel
    keep: Callable[[], None] = _nothing


@dataclass(frozen=True)
class EngineKind:
    """An engine as the run file names it.

    Attributes:
        name: as the run file spells it.
        doc: one line.
        check: everything that can be known of the run file, a model's folder and the sources it is
            made for, without weights; gives what holds prompts against the engine's room. Raises
            `FitnessError`, `InputError`.
        build: starts it. Raises `FitnessError`, `InputError`.
        keeps_kinds: where an architecture has layers of several kinds (sliding and full attention,
            say), each of its places runs one kind only.
        beside: bytes of host memory that a process of it takes beside the model on a CPU: libraries,
            vLLM's cache of keys and values.
    """

    name: str
    doc: str
    check: Callable[[RunFile, Path, Sources], PromptLengths]
    build: Callable[[Opened], Running]
    keeps_kinds: bool
    beside: int


def _check_transformers(config: RunFile, model: Path, sources: Sources) -> PromptLengths:
    from fitness.engines.transformers import TransformersEngine

    section = config.engine
    engine = TransformersEngine(
        model,
        None,  # pyright: ignore[reportArgumentType]
        device="meta",
        max_model_len=section.max_model_len,
        trust_remote_code=section.trust_remote_code,
    )
    wanted = engine.weight_names
    engine.close()
    _check_names(wanted, sources)
    return engine.lengths


def _check_names(wanted: Sequence[str], sources: Sources) -> None:
    """Refuse layers that the engine runs under other names than the sources store them.

    A candidate's layers may be more than the sources', so names are compared layers apart.

    Raises:
        InputError: a weight of a layer that no source's layer has.
    """
    from search_spaces.roles import role, with_layer

    stored = {with_layer(name, 0) for name in sources.shapes}
    for name in wanted:
        if role(name).layer is None or with_layer(name, 0) in stored:
            continue
        kind = sources.config(sources.names[0]).get("model_type")
        joined = ", and joins the matrices of a mixture's experts" if ".experts." in name else ""
        raise InputError(
            f"tensor '{name}' of model_type '{kind}'",
            f"this engine runs it under that name{joined}; the sources have none of that name",
            "engine.kind: transformers",
            "use `engine.kind: vllm`",
        )


def _build_transformers(opened: Opened) -> Running:
    from evomerge.merge.search_weights import search_weights
    from fitness.engines.resident import pick_device
    from fitness.engines.transformers import TransformersEngine

    section = opened.config.engine
    device = pick_device(section.device)
    weights, keep = search_weights(opened.sources, device, source_limit(section))
    engine = TransformersEngine(
        opened.model,
        weights,
        dtype=section.dtype,
        device=section.device,
        batch_tokens=section.batch_tokens,
        max_model_len=section.max_model_len,
        trust_remote_code=section.trust_remote_code,
    )
    return Running(engine, keep)


def _check_vllm(config: RunFile, model: Path, sources: Sources) -> PromptLengths:
    from fitness.engines.lengths import prompt_lengths
    from fitness.engines.vllm.engine import (
        check_configuration,
        compiles,
        prepare_environment,
    )
    from fitness.engines.vllm.requirements import check_vllm

    section, stacks = config.engine, config.space.kind != "parameter"
    prepare_environment(section.tensor_parallel, compiles=compiles(section.arguments))
    check_vllm(
        json.loads((model / "config.json").read_text(encoding="utf-8")),
        # the driver's machine need not be like those of a cluster
        device=section.device if config.cluster.address == "local" else None,
        tensor_parallel=section.tensor_parallel,
        arguments=section.arguments,
        sampling=section.sampling,
        several_depths=stacks,
    )
    if config.cluster.address == "local":
        check_configuration(
            model,
            section.arguments,
            dtype=section.dtype,
            max_model_len=section.max_model_len,
            tensor_parallel=section.tensor_parallel,
            trust_remote_code=section.trust_remote_code,
            several_depths=stacks,
        )
    return prompt_lengths(model, section.max_model_len, section.trust_remote_code, one_more=True)


def _slots(model: Path) -> int | None:
    """Layers of the engine's model."""
    from evomerge.merge.checkpoint import layer_key, text_config

    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    key = layer_key(config)
    return None if key is None else int(text_config(config)[key])


def _build_vllm(opened: Opened) -> Running:
    from evomerge.merge.remote import remote_provider
    from fitness.engines.vllm.engine import VllmEngine

    models, section = opened.config.models, opened.config.engine
    provider = remote_provider(
        opened.folders,
        opened.sources,
        tokenizer=models.tokenizer,
        base="base" if models.base else None,
        limit=source_limit(section),
        slots=_slots(opened.model),
    )
    engine = VllmEngine(
        opened.model,
        provider,
        dtype=section.dtype,
        device=section.device,
        max_model_len=section.max_model_len,
        tensor_parallel=section.tensor_parallel,
        several_depths=opened.stacks,
        arguments=section.arguments,
        sampling=section.sampling,
        trust_remote_code=section.trust_remote_code,
    )
    return Running(engine)


ENGINES: Mapping[str, EngineKind] = {
    kind.name: kind
    for kind in (
        EngineKind(
            "transformers",
            "embedded: a transformers model in the evaluator's process; runs anywhere",
            _check_transformers,
            _build_transformers,
            keeps_kinds=False,
            beside=600 * 10**6,
        ),
        EngineKind(
            "vllm",
            "vLLM: prefix cache, paged attention, tensor parallelism; `pip install 'evomerge[vllm]'`",
            _check_vllm,
            _build_vllm,
            keeps_kinds=True,
            beside=2100 * 10**6,
        ),
    )
}
"""Every engine by name."""


def engine_folder(config: RunFile, sources: Sources, layers: int | None) -> Path:
    """A folder with the configuration and the tokenizer of the engine's resident model.

    Args:
        config: the run file.
        sources: opened and compatible.
        layers: of the deepest candidate, where candidates are stacks; None: as deep as the sources.

    Raises:
        InputError: layers that cannot stand elsewhere than they do.
    """
    from evomerge.merge.skeleton import model_folder

    kind = ENGINES[config.engine.kind]
    return model_folder(sources, layers, of_each_kind=kind.keeps_kinds)


def source_limit(section: Engine) -> int | None:
    """Most bytes that sources may take on the device or in pinned memory; None: what is free."""
    return None if section.source_memory is None else int(1e9 * section.source_memory)

"""Is the exported folder the model that was searched? Loaded by stock transformers, and compared.

The candidate is merged into a resident model as the search merges it for test items (`Exactly`); the
folder is loaded by `AutoModelForCausalLM` in the same type on the same device. Compared are

- the weights: every weight that runs, bit for bit;
- the logits after each token of a few prompts (and of tokens from all over the vocabulary), which
  architecture, configuration and layers of a stack come into, and the tokens of the prompts;
- the greedy answers to them.

Both models never lie in memory together. A run that answered by vLLM is verified by transformers too:
what is verified is the export, not vLLM. Where transformers cannot hold the candidate as it is searched
(a mixture whose experts it stores otherwise) or memory is short, the weights are compared with a second
merge instead, and the report says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from math import inf, isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evomerge.cluster.failures import is_out_of_memory
from evomerge.hand_over.files import FolderFacts, read_back, tensors_of
from evomerge.hand_over.memory import too_little_memory
from fitness.errors import FitnessError
from search_spaces.errors import InputError

if TYPE_CHECKING:
    import torch

    from evomerge.config import RunFile
    from evomerge.merge.locations import Location
    from evomerge.merge.sources import Sources
    from search_spaces.recipe import Recipe

    Logits = Callable[[Sequence[int]], torch.Tensor]
    """From tokens to logits [tokens, vocabulary], float32."""

LOGITS: Mapping[str, float] = {"float32": 1e-4, "float16": 4e-3, "bfloat16": 2e-2}
"""Most that a logit may differ, as a share of the greatest logit's size: a few roundings of the type
that the models compute in. Equal weights on the same device nearly always give 0."""

DIVERGENCE: Mapping[str, float] = {"float32": 1e-6, "float16": 1e-4, "bfloat16": 1e-3}
"""Most that the Kullback-Leibler divergence of the next token may be at any position (nats)."""

PROMPTS, PROMPT_TOKENS, NEW_TOKENS = 4, 128, 8
SPREAD = 32
"""Token ids from all over the vocabulary, as one more prompt: tasks may ask for few of them."""

PLAIN = (
    "The quick brown fox jumps over the lazy dog.",
    "1 + 1 = 2, 2 + 2 = 4, and 3 + 3 =",
)
"""Prompts where the run's tasks cannot be read."""


@dataclass(frozen=True)
class Comparison:
    """How far the loaded folder is from the candidate.

    Attributes:
        prompts: compared, and `tokens` in them.
        logits: greatest absolute difference of a logit; `largest` is the greatest logit's size.
        divergence: greatest Kullback-Leibler divergence of the next token at any position (nats).
        answers: greedy answers that are the same, of `prompts`.
        dtype: that both models computed in.
        device: where.
    """

    prompts: int
    tokens: int
    logits: float
    largest: float
    divergence: float
    answers: int
    dtype: str
    device: str


@dataclass(frozen=True)
class Verified:
    """What a verification found.

    Attributes:
        files: the folder, read back.
        weights: how many weights were compared bit for bit.
        comparison: of the logits; None: not made, `note` says why.
        note: what was done otherwise than usual; empty: nothing.
        problems: sentences: why the folder is not the candidate; empty: it is.
    """

    files: FolderFacts
    weights: int = 0
    comparison: Comparison | None = None
    note: str = ""
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Subject:
    """What is verified.

    Attributes:
        recipe: the candidate's.
        sources: opened.
        config: the frozen run file.
        places: where the sources lie.
        prompts: search items' prompts.
        note: on the prompts.
    """

    recipe: Recipe
    sources: Sources
    config: RunFile
    places: Mapping[str, Location]
    prompts: Sequence[str] = PLAIN
    note: str = ""


@dataclass
class _Seen:
    """What the resident candidate did."""

    tokens: list[list[int]] = field(default_factory=list)
    logits: list[torch.Tensor] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)
    weights: int = 0
    problems: list[str] = field(default_factory=list)


def verify(folder: Path, subject: Subject) -> Verified:
    """Compare an exported folder with the candidate it is to be.

    Args:
        folder: whole, wherever it lies.
        subject: the candidate.
    """
    section = subject.config.engine
    matched = subject.sources.with_tokenizer(subject.recipe.tokenizer, subject.recipe.base).matched
    files = read_back(folder, matched=matched, trust_remote_code=section.trust_remote_code)
    if files.problems:
        return Verified(files, problems=files.problems)
    reason = too_little_memory(subject.recipe, subject.sources, section)
    build = None if reason else _builder(subject)
    if build is None:
        reason = reason or "transformers cannot hold the candidate as it is searched"
        return _merged_again(folder, subject, files, reason)
    try:
        return _as_models(folder, subject, files, build)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    # outside of `except`: what is raised holds the models that filled the memory
    return _merged_again(folder, subject, files, "memory ran out")


def search_prompts(config: RunFile, folder: Path, model: Path) -> list[str]:
    """A few prompts of the run's search items, of as many tasks as there are.

    Args:
        config: the frozen run file.
        folder: what its relative paths are relative to.
        model: a source's folder, for its chat template.

    Raises:
        InputError, FitnessError: the tasks cannot be read.
    """
    from evomerge.judging import build_judge

    judge = build_judge(config, folder, model)
    items = judge.items["search"]
    firsts = {item.task: item for item in reversed(items)}
    chosen = {id(item): item for item in [*firsts.values(), *items]}
    requests = [item.requests[0] for item in list(chosen.values())[:PROMPTS]]
    return [request.context + request.continuation for request in requests]


def _as_models(
    folder: Path, subject: Subject, files: FolderFacts, build: Callable[[], Any]
) -> Verified:
    """Weights and logits of the candidate as it is searched, and of the folder as it is loaded."""
    seen = _resident(folder, subject, build)
    if seen.problems:
        return Verified(files, seen.weights, None, subject.note, tuple(seen.problems))
    comparison, problems = _compared(folder, subject, seen)
    return Verified(files, seen.weights, comparison, subject.note, tuple(problems))


def _merged_again(folder: Path, subject: Subject, files: FolderFacts, reason: str) -> Verified:
    """The weights alone, and why."""
    count, problems = _against_second_merge(folder, subject)
    note = f"{reason}: logits were not compared, weights with a second merge"
    return Verified(files, count, None, note, tuple(problems))


def _builder(subject: Subject) -> Callable[[], Any] | None:
    """What builds the resident model; None: transformers cannot."""
    from evomerge.engines import ENGINES, Opened, engine_folder

    engine = subject.config.engine.model_copy(update={"kind": "transformers"})
    config = subject.config.model_copy(update={"engine": engine})
    stacks = config.space.kind != "parameter"
    layers = subject.recipe.depth(subject.sources.layers) if stacks else None
    kind = ENGINES[engine.kind]
    try:
        model = engine_folder(config, subject.sources, layers)
        kind.check(config, model, subject.sources)
    except (InputError, FitnessError):
        return None
    opened = Opened(config, subject.places, subject.sources, model, stacks)
    return lambda: kind.build(opened).engine


def _resident(folder: Path, subject: Subject, build: Callable[[], Any]) -> _Seen:
    """The candidate in the search's engine: its weights held against the file's, its answers."""
    from evomerge.merge.weights import Exactly

    seen = _Seen()
    with closing(build()) as engine:
        engine.load(Exactly(subject.recipe))
        depth = subject.recipe.depth(subject.sources.layers)
        running = {_stored_name(n, subject.sources): w for n, w in engine.running(depth)}
        seen.weights, seen.problems = _same_weights(folder, running)
        if seen.problems:
            return seen
        encoded = _encoded(engine.tokenizer, subject.prompts)
        for tokens in [*encoded, _spread(engine.vocabulary)]:
            seen.tokens.append(tokens)
            seen.logits.append(engine.logits(tokens))
            seen.answers.append(_greedy(engine.logits, tokens, engine.tokenizer))
    return seen


def _encoded(tokenizer: Any, prompts: Sequence[str]) -> list[list[int]]:
    """Tokens of each prompt that has any."""
    found = [[int(t) for t in tokenizer.encode(text)][:PROMPT_TOKENS] for text in prompts]
    return [tokens for tokens in found if tokens]


def _spread(rows: int) -> list[int]:
    count = min(rows, SPREAD)
    return [number * rows // count for number in range(count)]


def _stored_name(name: str, sources: Sources) -> str:
    """What a running weight is called on disk: a tied head is the embedding."""
    from search_spaces.roles import role

    tied_head = sources.tied and role(name).component == "lm_head"
    return sources.embedding or name if tied_head else name


def _greedy(logits: Logits, tokens: Sequence[int], by: Any) -> str:
    """The likeliest next tokens, one after the other, as text."""
    grown = list(tokens)
    for _ in range(NEW_TOKENS):
        grown.append(int(logits(grown)[-1].argmax()))
        if grown[-1] == by.eos_token_id:
            break
    return str(by.decode(grown[len(tokens) :]))


def _same_weights(folder: Path, running: dict[str, torch.Tensor]) -> tuple[int, list[str]]:
    """Compare a model's weights with a folder's, bit for bit, in the model's type."""
    count, problems = 0, list[str]()
    for name, stored in tensors_of(folder):
        held = running.pop(name, None)
        if held is None:
            continue  # a tied head's copy, a computed buffer
        count += 1
        if held.shape != stored.shape:
            problems.append(f"tensor {name}: {list(stored.shape)} on disk, {list(held.shape)} runs")
        elif not _equal(held, stored):
            problems.append(f"tensor {name}: the file holds other numbers than the candidate")
    problems += [f"tensor {name}: it runs, and the folder lacks it" for name in running]
    return count, problems


def _equal(held: torch.Tensor, stored: torch.Tensor) -> bool:
    """Whether all elements are the same once rounded to the model's type; piece by piece."""
    if held.shape != stored.shape:
        return False
    if held.ndim == 0:
        return bool(held.cpu() == stored.to(held.dtype))
    rows = max(1, 2**24 // max(1, held[0].numel()))
    parts = zip(held.split(rows), stored.split(rows), strict=True)
    return all(bool((a.cpu() == b.to(a.dtype)).all()) for a, b in parts)


def _loaded(folder: Path, config: RunFile) -> tuple[Logits, Any, str]:
    """A folder's logits and tokenizer by stock transformers, and the device."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    from fitness.engines.resident import DTYPES, pick_device

    section = config.engine
    device, own = pick_device(section.device), section.trust_remote_code
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=DTYPES[section.dtype], trust_remote_code=own
        )
    finally:
        if shown:
            logging.enable_progress_bar()
    model.to(device).eval()

    @torch.inference_mode()
    def logits(tokens: Sequence[int]) -> torch.Tensor:
        inputs = torch.tensor([list(tokens)], device=device)
        return model(input_ids=inputs, use_cache=False).logits[0].float().cpu()

    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=own)
    return logits, tokenizer, str(device)


def _compared(folder: Path, subject: Subject, seen: _Seen) -> tuple[Comparison | None, list[str]]:
    """The folder as stock transformers loads it, against what the candidate did."""
    try:
        logits, tokenizer, device = _loaded(folder, subject.config)
    except Exception as error:  # whatever a loader raises: the folder is not what it is to be
        if is_out_of_memory(error):
            raise
        line = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        return None, [f"stock transformers cannot load it: {line}"]
    problems = list[str]()
    if _encoded(tokenizer, subject.prompts) != seen.tokens[:-1]:
        problems.append("the folder's tokenizer gives other tokens than the search's")
    difference = largest = divergence = 0.0
    same = 0
    for tokens, before, answer in zip(seen.tokens, seen.logits, seen.answers, strict=True):
        after = logits(tokens)
        if after.shape != before.shape:
            problems.append(f"logits of {after.shape[1]} tokens, not {before.shape[1]}")
            continue
        difference = _most(difference, _difference(before, after))
        largest = _most(largest, float(before.masked_fill(before.isinf(), 0.0).abs().max()))
        divergence = _most(divergence, _divergence(before, after))
        same += _greedy(logits, tokens, tokenizer) == answer
    comparison = Comparison(
        len(seen.tokens), sum(map(len, seen.tokens)), difference, largest, divergence, same,
        subject.config.engine.dtype, device,
    )  # fmt: skip
    return comparison, problems + list(_too_far(comparison))


def _most(one: float, other: float) -> float:
    """The greater; NaN where either is: `max(0.0, nan)` is 0, and all would look well."""
    return other if isnan(other) or other > one else one


def _difference(before: torch.Tensor, after: torch.Tensor) -> float:
    """Greatest absolute difference; equal infinities (a token that is masked out) differ by 0."""
    return float((after - before).masked_fill(after == before, 0.0).abs().max())


def _divergence(before: torch.Tensor, after: torch.Tensor) -> float:
    """Greatest over positions of sum p (log p - log q), in nats; never below 0."""
    p, q = before.double().log_softmax(-1), after.double().log_softmax(-1)
    terms = (p.exp() * (p - q)).masked_fill(p == -inf, 0.0)
    return _most(0.0, float(terms.sum(-1).max()))


def _too_far(found: Comparison) -> Iterator[str]:
    most = LOGITS[found.dtype] * max(1.0, found.largest)
    if not found.logits <= most:  # also where it is NaN
        yield f"logits differ by {found.logits:.3g}, more than {most:.3g} ({found.dtype})"
    if not found.divergence <= DIVERGENCE[found.dtype]:
        yield (
            f"next-token probabilities diverge by {found.divergence:.3g} nats, more than "
            f"{DIVERGENCE[found.dtype]:.0e} ({found.dtype})"
        )
    if found.answers < found.prompts and found.dtype == "float32":
        yield f"{found.prompts - found.answers} of {found.prompts} greedy answers differ"


def _against_second_merge(folder: Path, subject: Subject) -> tuple[int, list[str]]:
    """Merge once more, and compare with the files bit for bit."""
    from evomerge.merge.weights import MergedWeights

    recipe = subject.recipe
    weights = MergedWeights(subject.sources.with_tokenizer(recipe.tokenizer, recipe.base))
    weights.prepare(recipe)
    wanted = set(weights.names())
    problems = list[str]()
    for name, stored in tensors_of(folder):
        if name not in wanted:
            problems.append(f"tensor {name}: it is on disk, and the candidate has none such")
        elif not _equal(weights.tensor(name), stored):
            problems.append(f"tensor {name}: the file holds other numbers than the candidate")
        wanted.discard(name)
    return len(weights.names()), problems + [f"tensor {name}: it is missing" for name in wanted]

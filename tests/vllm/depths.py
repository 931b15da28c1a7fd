"""What test_depths.py runs in processes of their own: stacks of every depth through one vLLM.

    python -m tests.vllm.depths expect ROOT [FAMILY ...]
    python -m tests.vllm.depths serve ROOT FAMILY JSON
    python -m tests.vllm.depths all ROOT [FAMILY ...]

`expect` writes models of families of tests/data_flow (default: all), and what the exports of stacks of
their layers answer in plain transformers. In another process, since vLLM changes classes of transformers,
`serve` prints one JSON object about an engine that was built once and becomes one stack after the
other; and `all` a line about each family, with layers left out and with identities in their place.
"""

import hashlib
import json
import os
import random
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from evomerge.merge.families import family_of
from evomerge.merge.locations import Location
from evomerge.merge.remote import remote_provider
from evomerge.merge.skeleton import model_folder
from evomerge.merge.sources import Sources, open_sources
from evomerge.merge.weights import MergedWeights, MergeError
from evomerge.merge.writer import write_model
from fitness.errors import FitnessError
from fitness.items import Request
from search_spaces.recipe import Recipe, Setting, Slice, parameters
from search_spaces.stacking import Hop, Pool
from tests.data_flow.families import KINDS, LAYERS, VOCABULARY, save_models
from tests.merge.plans import recipe_of

DEEPEST, LENGTH, NEW = 8, 33, 10
"""Layers of the engine, tokens of a prompt, tokens of an answer."""

_WIDER: dict[str, Any] = {"hidden_size": 128, "intermediate_size": 192}
"""vLLM's attention on a CPU takes heads of 32 and more."""


_SEES_ONE_MORE = ("cohere2",)
"""Where sliding layers of vLLM see one token more than those of transformers do."""


def stacks(sources: Sources) -> dict[str, Recipe]:
    """Candidates by name, from parents to the deepest; layers of all kinds in any order."""
    draw = random.Random(3)
    pool = Pool(sources.names, sources.layers, {})

    def path(depth: int) -> list[Hop]:
        return [Hop(draw.choice("ab"), draw.randrange(LAYERS)) for _ in range(depth)]

    up_scaled = [*range(3), *range(1, LAYERS)]
    found = {
        "parent": pool.stack([Hop("a", i) for i in range(LAYERS)]),
        "one layer": pool.stack([Hop("b", 3)]),
        "dropped": pool.stack([Hop("a", 0), Hop("a", 1), Hop("a", 4)]),
        "up-scaled": pool.stack([Hop("a", i) for i in up_scaled]),
        "backwards": pool.stack([Hop("b", i) for i in reversed(range(LAYERS))]),
        "of 4": pool.stack(path(4)),
        "of 6": pool.stack(path(6)),
        "deepest": pool.stack(path(DEEPEST)),
        "one kind": pool.stack([Hop(source, 0) for source in "abba" * 2]),
        "merged": replace(recipe_of("linear", {"a": {"weight": 0.4}, "b": {"weight": 0.6}})),
    }
    if not family_of(sources.config("a")).unscaled:
        scaled = [
            replace(hop, input_scale=s) for hop, s in zip(path(3), (1.2, -0.8, 0.9), strict=True)
        ]
        found["scaled"] = pool.stack(scaled)
    return found


def bad_stacks(sources: Sources) -> dict[str, Recipe]:
    """One that no engine should begin with, and one that fails in its last layer."""
    pool = Pool(sources.names, sources.layers, {})
    overflowing = parameters(
        {"weight": Setting.constant(1e39), "normalize": Setting.constant(False)}
    )
    good = pool.stack([Hop("a", 0), Hop("b", 1), Hop("a", 2)]).slices
    bad = Slice(good[0].inputs, overflowing)
    usual = parameters({"weight": Setting.constant(1.0)})
    return {
        "too deep": pool.stack([Hop("a", 1)] * (DEEPEST + 1)),
        "fails at the top": Recipe(
            "linear", (*(replace(part, parameters=usual) for part in good), bad)
        ),
    }


def prompts() -> list[list[int]]:
    """Token ids, none of them special; the first two share a prefix."""
    draw = random.Random(5)
    rows = [[draw.randrange(4, VOCABULARY) for _ in range(LENGTH)] for _ in range(3)]
    return [rows[0], rows[0][:32] + rows[1][32:], *rows[1:]]


def expect(root: Path, family: str) -> None:
    """Write ROOT/expected.npz: per stack log probabilities [prompts, positions, vocabulary], and the
    tokens that greedy decoding puts after each prompt [prompts, new]."""
    from transformers import AutoModelForCausalLM

    root.mkdir(parents=True, exist_ok=True)
    options = KINDS[family].options
    wider = _WIDER | ({"head_dim": 32} if "head_dim" in options else {})
    save_models(root, family, ("a", "b"), **wider)
    sources = _sources(root)
    found: dict[str, Any] = {}
    for name, recipe in stacks(sources).items():
        out = root / "exports" / name
        write_model(recipe, sources, out)
        model: Any = AutoModelForCausalLM.from_pretrained(
            out, dtype=torch.float32, attn_implementation="eager"
        ).eval()
        if family in _SEES_ONE_MORE:
            model.config.sliding_window += 1
        rows = torch.tensor(prompts())
        with torch.no_grad():
            logits = model(rows).logits
            made = model.generate(
                rows, attention_mask=torch.ones_like(rows), max_new_tokens=NEW, do_sample=False
            )
        found[name] = logits.double().log_softmax(-1).numpy()
        answers = np.zeros((len(rows), NEW), dtype=np.int64)
        answers[:, : made.shape[1] - LENGTH] = made[:, LENGTH:].numpy()
        found[f"{name} goes on"] = answers
    np.savez(root / "expected.npz", allow_pickle=False, **found)


class Served:
    """An engine, what it should answer, and what it did.

    Args:
        root: where `expect` has been.
        ranks: of tensor parallelism.
        fixed: all layers of the engine run, as for compiled code and CUDA graphs.
        compiled: and vLLM does compile, which takes minutes.
    """

    def __init__(self, root: Path, ranks: int, fixed: bool, compiled: bool) -> None:
        from fitness.engines.vllm.engine import VllmEngine

        sources = _sources(root)
        self.engine = VllmEngine(
            model_folder(sources, DEEPEST),
            remote_provider(_places(root), sources),
            tensor_parallel=ranks,
            several_depths=True,
            arguments={
                **{"max_logprobs": VOCABULARY, "block_size": 32},
                **({"enforce_eager": False} if fixed else {}),
                **({} if compiled else {"compilation_config": {"mode": 0}}),
            },
        )
        self.good, self.bad = stacks(sources), bad_stacks(sources)
        self.weights = MergedWeights(sources)
        self.expected = dict(np.load(root / "expected.npz"))
        self.errors: dict[str, float] = {}
        self.digests: dict[str, set[str]] = {}
        self.differing: list[str] = []
        self.ran: dict[str, list[int]] = {}
        self.cached = 0

    def try_good(self, name: str) -> None:
        """Load a stack and compare what it says of every position, and how it goes on."""
        self.engine.load(self.good[name])
        found, tokens = self._answers()
        self.digests.setdefault(name, set()).add(hashlib.sha256(found.tobytes()).hexdigest())
        error = float(np.abs(found - self.expected[name]).max())
        self.errors[name] = max(error, self.errors.get(name, 0.0))
        for row, expected in zip(tokens, self.expected[f"{name} goes on"].tolist(), strict=True):
            if row != expected[: len(row)] or any(expected[len(row) :]):
                self.differing.append(f"{name}: {row} is not {expected}")
        report = self.engine.reports[0]
        self.ran[name] = [report.layers, report.identities]

    def try_bad(self, name: str) -> str:
        """Load a stack that must fail, and refuse to answer."""
        try:
            self.engine.load(self.bad[name])
        except FitnessError as error:
            outcome = f"FitnessError: {error.passed}: {error.rule}"
        except MergeError as error:
            outcome = f"MergeError: {error.tensor}"
        else:
            outcome = "loaded"
        try:
            self.engine.answer([Request("loglikelihood", "w5", " w6")])
        except RuntimeError:
            return outcome
        return f"{outcome}, and answers"

    def merges_no_more(self, name: str) -> bool:
        """Whether the elements of a stack were merged by a single rank, and no other layer's.

        Biases are copied twice by some of vLLM's loaders.
        """
        self.engine.load(self.good[name])
        self.weights.prepare(self.good[name])
        shapes = [self.weights.shape(tensor) for tensor in self.weights.names()]
        elements = sum(int(np.prod(shape)) for shape in shapes)
        return elements <= self.engine.reports[0].elements < 1.05 * elements

    def _answers(self) -> tuple[np.ndarray, list[list[int]]]:
        """Log probabilities [prompts, positions, vocabulary], the last position's after a prefix that
        is read from the cache; and the tokens after each prompt, up to the end token."""
        from vllm import SamplingParams, TokensPrompt

        fed = [TokensPrompt(prompt_token_ids=row) for row in prompts()]
        options: dict[str, Any] = {"temperature": 0.0, "flat_logprobs": True, "detokenize": False}
        every = SamplingParams(max_tokens=1, prompt_logprobs=VOCABULARY, **options)
        after = SamplingParams(max_tokens=NEW, logprobs=VOCABULARY, stop_token_ids=[2], **options)
        inside = self.engine.llm.generate(fed, every, use_tqdm=False)
        on = self.engine.llm.generate(fed, after, use_tqdm=False)
        self.cached += sum(output.num_cached_tokens or 0 for output in on)
        rows = [
            [*_rows(i.prompt_logprobs)[1:], _rows(o.outputs[0].logprobs)[0]]
            for i, o in zip(inside, on, strict=True)
        ]
        return np.array(rows), [list(output.outputs[0].token_ids) for output in on]


def _rows(flat: Any) -> list[np.ndarray]:
    """Each position's log probabilities by token id."""
    rows: list[np.ndarray] = []
    for start, end in zip(flat.start_indices, flat.end_indices, strict=True):
        row = np.full(VOCABULARY, np.nan)
        row[flat.token_ids[start:end]] = flat.logprobs[start:end]
        rows.append(row)
    return rows


def serve(
    root: Path, ranks: int = 1, fixed: bool = False, compiled: bool = False
) -> dict[str, Any]:
    """Every stack, then in random order; after every third a bad one; and the first again."""
    begun = time.perf_counter()
    try:
        served = Served(root, ranks, fixed, compiled)
    except FitnessError as error:
        return {"refused": error.rule}
    names = list(served.good)
    random.Random(1).shuffle(names)
    turns = [*served.good, *names, next(iter(served.good))]
    failures: dict[str, set[str]] = {name: set() for name in served.bad}
    for number, name in enumerate(turns):
        served.try_good(name)
        if number % 3 == 2:
            bad = list(failures)[number // 3 % len(failures)]
            failures[bad].add(served.try_bad(bad))
    exact = ranks > 1 or all(served.merges_no_more(name) for name in ("one layer", "deepest"))
    served.engine.close()
    return {
        "errors": served.errors,
        "digests": {name: len(found) for name, found in served.digests.items()},
        "differing": served.differing,
        "ran": served.ran,
        "failures": {name: sorted(found) for name, found in failures.items()},
        "cached": served.cached,
        "merges_no_more": exact,
        "seconds": time.perf_counter() - begun,
    }


def _sources(root: Path) -> Sources:
    return open_sources(_places(root))


def _places(root: Path) -> dict[str, Location]:
    return {name: Location(root / name) for name in "ab"}


def run_all(root: Path, families: Iterable[str]) -> None:
    """Print, for each family and way, the worst error and what else was found."""
    for family in families:
        for fixed in (False, True):
            told = serve(root / family, fixed=fixed)
            if "refused" in told:
                print(f"{family}: {told['refused']}", flush=True)
                break
            worst = max(told["errors"], key=lambda name: told["errors"][name])
            print(
                f"{family} {'identities' if fixed else 'left out'}: {told['errors'][worst]:.1e} "
                f"({worst}), bits {sorted({*told['digests'].values()})}, answers {told['differing']}, "
                f"merged no more {told['merges_no_more']}, {told['failures']}, {told['seconds']:.0f} s",
                flush=True,
            )


def main(arguments: Sequence[str]) -> None:
    """See the module."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    task, root, *more = arguments
    if task == "expect":
        for family in more or KINDS:
            expect(Path(root) / family, family)
    elif task == "serve":
        print(json.dumps(serve(Path(root) / more[0], **json.loads(more[1]))))
    else:
        run_all(Path(root), more or KINDS)


if __name__ == "__main__":
    main(sys.argv[1:])

"""What test_swaps.py runs in processes of their own: exports in transformers, candidates in vLLM.

    python -m tests.vllm.prove expect ROOT KIND
    python -m tests.vllm.prove serve ROOT JSON

Two processes, since vLLM changes classes of transformers. `expect` writes a family of tiny models
and what their merges, exported, answer; `serve` prints one JSON object about an engine that swaps
between the same candidates.
"""

import contextlib
import hashlib
import json
import os
import random
import shutil
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from evomerge.merge.locations import Location
from evomerge.merge.remote import remote_provider
from evomerge.merge.search_weights import search_weights
from evomerge.merge.skeleton import model_folder
from evomerge.merge.sources import open_sources
from evomerge.merge.weights import Exactly, MergedWeights, MergeError
from evomerge.merge.writer import write_model
from fitness.engines.transformers import TransformersEngine
from fitness.items import Request
from search_spaces.errors import InputError
from search_spaces.recipe import Clause, Recipe, Setting, parameters
from tests.merge.plans import recipe_of

VOCABULARY, LENGTH = 300, 40
_SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.1,
    "pad_token_id": 0,
}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {"tie_word_embeddings": False}),
    "llama_tied": ("LlamaConfig", {"tie_word_embeddings": True}),
    "qwen2_tied": ("Qwen2Config", {"tie_word_embeddings": True}),
    "gemma": ("GemmaConfig", {"head_dim": 32}),
    "phi3": ("Phi3Config", {"tie_word_embeddings": False}),
    "gpt_neox": ("GPTNeoXConfig", {"num_key_value_heads": None}),
    "mixtral": ("MixtralConfig", {"num_local_experts": 4, "intermediate_size": 64}),
}
"""Untied and tied; with biases; with gains of 1 + g; fused in the checkpoint; vLLM running the code of
transformers; of experts."""


def recipes() -> dict[str, Recipe]:
    """Candidates by name: different rules, each merging everything."""
    both = {"a": {"weight": 0.7, "density": 0.6}, "b": {"weight": 0.5, "density": 0.4}}
    rules = ("linear", "ties", "dare_ties", "della", "breadcrumbs", "task_arithmetic", "slerp")
    found = {rule: recipe_of(rule, both, seed=3) for rule in rules}
    return found | {"only b": recipe_of("linear", {"b": {"weight": 1.0}})}


def bad_recipes() -> dict[str, Recipe]:
    """One that no engine should begin with, and some whose numbers fail in the middle of a load."""
    weights = {
        "overflow in a fused group": (
            *("layers.1.self_attn.k_proj", "layers.1.self_attn.qkv_proj"),
            "layers.1.attention.query_key_value",
        ),
        "overflow in a norm": ("layers.2.input_layernorm",),
        "overflow in the last norm": ("model.norm", "final_layer_norm"),
    }
    found = {"unknown source": recipe_of("linear", {"a": {"weight": 1.0}, "z": {"weight": 1.0}})}
    for name, filters in weights.items():
        clauses = (*(Clause((1e39,), part) for part in filters), Clause((0.5,)))
        found[name] = Recipe(
            "linear",
            recipe_of("linear", {"a": {}, "b": {}}).slices,
            parameters=parameters(
                {"weight": Setting(clauses), "normalize": Setting.constant(False)}
            ),
        )
    return found


def prompts() -> list[list[int]]:
    """Token ids; the first two share more than a block of the prefix cache."""
    draw = random.Random(5)
    rows = [[draw.randrange(3, VOCABULARY) for _ in range(LENGTH)] for _ in range(3)]
    return [rows[0], rows[0][:35] + rows[1][35:], *rows[1:]]


def save_models(root: Path, kind: str) -> None:
    """Write `base`, `a` and `b` below `root`, stored as transformers does."""
    import transformers

    torch.manual_seed(0)
    name, own = KINDS[kind]
    options = {key: value for key, value in (_SHAPE | own).items() if value is not None}
    config = getattr(transformers, name)(**options)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    start = {k: v + 0.02 * torch.randn_like(v) for k, v in model.state_dict().items()}
    for number, source in enumerate(("base", "a", "b")):
        torch.manual_seed(number)
        step = 0.02 * number
        model.load_state_dict({k: v + step * torch.randn_like(v) for k, v in start.items()})
        model.tie_weights()
        model.save_pretrained(root / source)
        _tokenizer().save_pretrained(root / source)


def expect(root: Path, kind: str) -> None:
    """Write ROOT/expected.npz: per recipe the log probabilities [prompts, positions, vocabulary].

    For Llamas also ROOT/replies.json, what the engine of transformers replies.
    """
    from transformers import AutoModelForCausalLM

    save_models(root, kind)
    sources = open_sources(_places(root))
    tabled, _ = search_weights(sources, torch.device("cpu"), None)
    found: dict[str, np.ndarray] = {}
    for name, recipe in recipes().items():
        for exactly in (True, False):
            out = root / called(name, exactly)
            if exactly:
                write_model(recipe, sources, out)
            else:  # the same with thresholds that are looked up, as a search merges
                shutil.copytree(root / called(name, True), out)
                tabled.prepare(recipe)
                save_file(dict(tabled.items()), out / "model.safetensors", {"format": "pt"})
            model = AutoModelForCausalLM.from_pretrained(
                out, dtype=torch.float32, attn_implementation="eager"
            )
            with torch.no_grad():
                logits = model.eval()(torch.tensor(prompts())).logits
            found[out.name] = logits.double().log_softmax(-1).numpy()
    np.savez(root / "expected.npz", allow_pickle=False, **found)
    if not kind.startswith("llama"):  # transformers puts tokenizers of its own into some others
        return
    resident = TransformersEngine(root / "base", MergedWeights(sources), device="cpu")
    resident.load(recipes()["linear"])
    replies = [asdict(reply) for reply in resident.answer(requests())]
    (root / "replies.json").write_text(json.dumps(replies))


def requests() -> list[Request]:
    """What an engine is asked: a multiple choice, and answers that are generated."""
    head = " ".join(f"w{i}" for i in range(20, 30))
    choices = [Request("loglikelihood", head, f" w{i} w7 w{i + 1}") for i in range(40, 44)]
    options = {"max_gen_toks": 12, "until": ["w9"]}
    return [*choices, *(Request("generate", f"{head} w{i}", "", options) for i in range(50, 54))]


def called(name: str, exactly: bool) -> str:
    """A candidate's name: of its folder and in results."""
    return f"{name} exactly" if exactly else name


class Served:
    """An engine, what it should answer, and what it did.

    Args:
        root: where `expect` has been.
        ranks: of tensor parallelism.
    """

    def __init__(self, root: Path, ranks: int) -> None:
        from fitness.engines.vllm.engine import VllmEngine

        sources = open_sources(_places(root))
        np.random.seed(1)
        torch.manual_seed(1)
        before = (str(np.random.get_state()), torch.get_rng_state().tolist())
        begun = time.perf_counter()
        self.engine = VllmEngine(
            model_folder(sources),
            remote_provider(_places(root), sources),
            tensor_parallel=ranks,
            arguments={"max_logprobs": VOCABULARY, "block_size": 32},
        )
        self.start_seconds = time.perf_counter() - begun
        after = (str(np.random.get_state()), torch.get_rng_state().tolist())
        self.undisturbed = before == after
        self.parameters = sources.parameters()
        self.expected = dict(np.load(root / "expected.npz"))
        self.digests: dict[str, set[str]] = {}
        self.errors: dict[str, float] = {}
        self.cached = 0
        self.swaps: list[float] = []
        self.elements: list[int] = []
        self.failures: dict[str, set[str]] = {}

    def differing_replies(self, root: Path) -> list[str]:
        """Where this engine and that of transformers say different things of one candidate."""
        self.engine.load(Exactly(recipes()["linear"]))
        found = [asdict(reply) for reply in self.engine.answer(requests())]
        expected = json.loads((root / "replies.json").read_text())
        return [
            f"{one} is not {other}"
            for one, other in zip(found, expected, strict=True)
            if one | {"logprob": 0} != other | {"logprob": 0}
            or abs(one["logprob"] - other["logprob"]) > 1e-4
        ]

    def try_good(self, name: str, exactly: bool) -> None:
        """Load a candidate and compare what it says of every position."""
        recipe = recipes()[name]
        begun = time.perf_counter()
        self.engine.load(Exactly(recipe) if exactly else recipe)
        self.swaps.append(time.perf_counter() - begun)
        self.elements = [report.elements for report in self.engine.reports]
        found = self._logprobs(recipe.hash + ("-exact" if exactly else ""))
        key = called(name, exactly)
        self.digests.setdefault(key, set()).add(hashlib.sha256(found.tobytes()).hexdigest())
        error = float(np.abs(found - self.expected[key]).max())
        self.errors[key] = max(error, self.errors.get(key, 0.0))

    def try_bad(self, name: str) -> None:
        """Load a candidate that must fail as it would in this process, and refuse to answer."""
        try:
            self.engine.load(bad_recipes()[name])
        except InputError as error:
            outcome = f"InputError: {error.passed}: {error.rule}"
        except MergeError as error:
            outcome = f"MergeError: {error.tensor}: finite={error.finite}"
        else:
            outcome = "loaded"
        try:
            self.engine.answer([])
            outcome += ", and answers"
        except RuntimeError as error:
            outcome += "" if "no candidate is resident" in str(error) else f", and says {error}"
        self.failures.setdefault(name, set()).add(outcome)

    def _logprobs(self, version: str) -> np.ndarray:
        """[prompts, positions, vocabulary]: of the prompt, and after a prefix read from the cache."""
        from vllm import SamplingParams, TokensPrompt

        fed = [TokensPrompt(prompt_token_ids=row) for row in prompts()]
        every = SamplingParams(
            max_tokens=1,
            temperature=0.0,
            prompt_logprobs=VOCABULARY,
            flat_logprobs=True,
            detokenize=False,
        )
        after = SamplingParams(
            max_tokens=1,
            temperature=0.0,
            logprobs=VOCABULARY,
            flat_logprobs=True,
            detokenize=False,
        )
        llm = self.engine.llm
        inside = llm.generate(fed, every, use_tqdm=False)
        last = llm.generate(fed, after, use_tqdm=False)
        for output in (*inside, *last):
            assert {span.version for span in output.outputs[0].weight_versions or ()} == {version}
        self.cached += sum(output.num_cached_tokens or 0 for output in last)
        rows = [[*_rows(i.prompt_logprobs)[1:], *_rows(o.outputs[0].logprobs)]
                for i, o in zip(inside, last, strict=True)]  # fmt: skip
        return np.array(rows)


def _rows(flat: Any) -> list[np.ndarray]:
    """Each position's log probabilities by token id."""
    rows: list[np.ndarray] = []
    for start, end in zip(flat.start_indices, flat.end_indices, strict=True):
        row = np.full(VOCABULARY, np.nan)
        row[flat.token_ids[start:end]] = flat.logprobs[start:end]
        rows.append(row)
    return rows


def serve(root: Path, ranks: int, swaps: int, seed: int) -> dict[str, Any]:
    """Swap between candidates in random order, a bad one after every seventh."""
    served = Served(root, ranks)
    draw = random.Random(seed)
    good = [(name, exactly) for name in recipes() for exactly in (False, True)]
    bad = list(bad_recipes())
    rss: list[float] = []
    for number in range(swaps):
        # Every one once, then any.
        served.try_good(*(good[number] if number < len(good) else draw.choice(good)))
        if number % 7 == 6:
            served.try_bad(bad[number // 7 % len(bad)])
        rss.append(_resident_megabytes())
    differing = served.differing_replies(root) if (root / "replies.json").exists() else []
    children = _children()
    served.engine.close()
    return {
        "errors": served.errors,
        "digests": {name: sorted(found) for name, found in served.digests.items()},
        "failures": {name: sorted(found) for name, found in served.failures.items()},
        "differing_replies": differing,
        "swaps": len(served.swaps),
        "swap_ms": 1000 * float(np.median(served.swaps)),
        "start_seconds": served.start_seconds,
        "elements": served.elements,
        "parameters": served.parameters,
        "cached": served.cached,
        "undisturbed": served.undisturbed,
        "rss": [rss[len(rss) // 4], rss[-1]],
        "children": [len(children), len(_children())],
    }


def _children() -> list[int]:
    """Live processes below this one, but for Python's own that watches over shared memory."""
    import psutil

    found: list[int] = []
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            alive = child.status() != psutil.STATUS_ZOMBIE
            if alive and not any("resource_tracker" in part for part in child.cmdline()):
                found.append(child.pid)
    return found


def _resident_megabytes() -> float:
    import psutil

    everyone = [psutil.Process(), *psutil.Process().children(recursive=True)]
    return sum(process.memory_info().rss for process in everyone) / 1e6


def _places(root: Path) -> dict[str, Location]:
    return {name: Location(root / name) for name in ("base", "a", "b")}


def _tokenizer() -> Any:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    words = {f"w{i}": i for i in range(VOCABULARY - 1)} | {"<unk>": VOCABULARY - 1}
    model = Tokenizer(WordLevel(words, unk_token="<unk>"))
    model.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=model, unk_token="<unk>", eos_token="w1")


def main() -> None:
    """See the module."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    task, root, argument = sys.argv[1:]
    if task == "expect":
        expect(Path(root), argument)
    else:
        print(json.dumps(serve(Path(root), **json.loads(argument))))


if __name__ == "__main__":
    main()

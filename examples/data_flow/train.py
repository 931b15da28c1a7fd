"""Train the data-flow family: a deep, tiny base and two experts whose layers bear being rearranged.

    python examples/data_flow/train.py

The world, tokenizer and training loop are the quickstart's. What differs: eight layers instead of
four, and every training step runs a random path through them (some layers left out, some run twice),
so that leaving one out or repeating one does not ruin a model (Huang et al. 2016, Deep Networks with
Stochastic Depth). Writes ordinary Hugging Face folders to ``models/{base,lunari,abacus}``, the task's
data to ``tasks/lunari_sums.jsonl``, and prints every model's score. One CPU thread is enough.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "quickstart"))
import train as quickstart  # noqa: E402 (the line above says where it lies)
from language import World, build_world, task_items, vocabulary  # noqa: E402
from modeling import Recipe, build_tokenizer, exact_match, train  # noqa: E402

LAYERS = 8
HIDDEN_SIZE = 80
HEAD_SIZE = 16
LEFT_OUT = 0.03  # probability of each layer in each training step
TWICE = 0.05
COMPOSITE = "lunari_sums"
SHOWN = ("lunari_words", "sums", COMPOSITE)

BASE = Recipe(steps=1500, learning_rate=4e-3, batch_size=64, seed=0)
EXPERTS: dict[str, Recipe] = {
    name: Recipe(steps=150, learning_rate=5e-4, own=own, base_share=0.3, batch_size=64, seed=seed)
    for seed, (name, own) in enumerate(
        {"lunari": ("lunari_words", "lunari_numbers"), "abacus": ("sums",)}.items(), start=1
    )
}


def build_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """A randomly initialised stock Llama of just under half a million parameters."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN_SIZE,
        intermediate_size=128,
        num_hidden_layers=LAYERS,
        num_attention_heads=HIDDEN_SIZE // HEAD_SIZE,
        num_key_value_heads=HIDDEN_SIZE // HEAD_SIZE,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    model.generation_config.do_sample = False
    return model


def random_path(layers: int, rng: random.Random) -> list[int]:
    """The layers in order, each left out, run once or run twice at random; never none."""
    path: list[int] = []
    for layer in range(layers):
        drawn = rng.random()
        if drawn >= LEFT_OUT:
            path += [layer] * (2 if drawn > 1 - TWICE else 1)
    return path or [0]


@contextmanager
def random_depth(model: LlamaForCausalLM, seed: int) -> Iterator[None]:
    """While it lasts, each forward pass of `model` takes another random path through its layers."""
    inner, layers, rng = model.model, list(model.model.layers), random.Random(seed)

    def run(path: Sequence[int]) -> None:
        inner.layers = nn.ModuleList([layers[i] for i in path])
        inner.config.num_hidden_layers = len(path)

    cached = inner.config.use_cache
    inner.config.use_cache = False  # a layer that runs twice would find its own keys
    hook = inner.register_forward_pre_hook(lambda *_: run(random_path(len(layers), rng)))
    try:
        yield
    finally:
        hook.remove()
        run(range(len(layers)))
        inner.config.use_cache = cached


def train_family(world: World, models: Path, steps_scale: float = 1.0) -> None:
    """Train and save the base, then every expert from a fresh copy of the base."""
    tokenizer = build_tokenizer(vocabulary())
    base = build_model(tokenizer, seed=BASE.seed)
    for name, recipe in {"base": BASE, **EXPERTS}.items():
        model = base if name == "base" else copy.deepcopy(base)
        with random_depth(model, recipe.seed):
            loss = train(model, tokenizer, world, quickstart.scaled(recipe, steps_scale))
        print(f"{name}: loss {loss:.3f}", flush=True)
        quickstart.save(model, tokenizer, models / name)


def write_task(world: World, folder: Path) -> None:
    """Write the composite task's items."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"prompt": i.prompt, "answer": i.answer} for i in task_items(world)[COMPOSITE]]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / f"{COMPOSITE}.jsonl").write_text(text, encoding="utf-8")


def print_scores(models: Path, world: World) -> None:
    """Print one Markdown row per model: exact match on the tasks its family was made for."""
    print("| model | " + " | ".join(SHOWN) + " |")
    print("|---" * (len(SHOWN) + 1) + "|")
    items = task_items(world)
    for name in ("base", *EXPERTS):
        model = AutoModelForCausalLM.from_pretrained(models / name, dtype=torch.float32).eval()
        tokenizer = AutoTokenizer.from_pretrained(models / name)
        right = [exact_match(model, tokenizer, items[task]) for task in SHOWN]
        values = (f"{sum(found) / len(found):.3f}" for found in right)
        print(f"| {name} | " + " | ".join(values) + " |", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE, help="folder for models/ and tasks/")
    parser.add_argument("--steps-scale", type=float, default=1.0, help="multiplies all step counts")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    everything = build_world()
    world = {name: items for name, items in everything.items() if name != "tovek_words"}
    write_task(everything, options.out / "tasks")
    train_family(world, options.out / "models", options.steps_scale)
    print_scores(options.out / "models", everything)


if __name__ == "__main__":
    main()

"""Train the quickstart family: one tiny base model and three experts fine-tuned from it.

    python examples/quickstart/train.py

writes ordinary Hugging Face folders to ``models/{base,lunari,tovek,abacus}``, the task data to
``tasks/*.jsonl``, and prints every model's score on every task.  One CPU thread is enough.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch
from language import TASKS, World, build_world, task_items, vocabulary, write_tasks
from modeling import Recipe, build_model, build_tokenizer, exact_match, train
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

BASE = Recipe(steps=700, learning_rate=2e-3, seed=0)
EXPERTS: dict[str, Recipe] = {
    name: Recipe(steps=150, learning_rate=4e-4, own=own, base_share=0.3, seed=seed)
    for seed, (name, own) in enumerate(
        {
            "lunari": ("lunari_words", "lunari_numbers"),
            "tovek": ("tovek_words",),
            "abacus": ("sums",),
        }.items(),
        start=1,
    )
}


def scaled(recipe: Recipe, factor: float) -> Recipe:
    """The recipe with ``factor`` times as many steps, and at least one."""
    return dataclasses.replace(recipe, steps=max(1, round(factor * recipe.steps)))


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Save model and tokenizer to ``folder``, weights in half precision."""
    copy.deepcopy(model).half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def train_family(world: World, models: Path, steps_scale: float = 1.0) -> None:
    """Train and save the base, then every expert from a fresh copy of the base."""
    tokenizer = build_tokenizer(vocabulary())
    base = build_model(tokenizer, seed=BASE.seed)
    loss = train(base, tokenizer, world, scaled(BASE, steps_scale))
    print(f"base: loss {loss:.3f}", flush=True)
    save(base, tokenizer, models / "base")
    for name, recipe in EXPERTS.items():
        expert = copy.deepcopy(base)
        loss = train(expert, tokenizer, world, scaled(recipe, steps_scale))
        print(f"{name}: loss {loss:.3f}", flush=True)
        save(expert, tokenizer, models / name)


def score_folder(folder: Path, world: World) -> dict[str, float]:
    """Exact match of the saved model on every task, computed in single precision."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    scores: dict[str, float] = {}
    for task, items in task_items(world).items():
        right = exact_match(model, tokenizer, items)
        scores[task] = sum(right) / len(right)
    return scores


def print_scores(models: Path, world: World) -> None:
    """Print one Markdown row per model: exact match on every task, and the mean."""
    print("| model | " + " | ".join(TASKS) + " | mean |")
    print("|---" * (len(TASKS) + 2) + "|")
    for name in ("base", *EXPERTS):
        scores = score_folder(models / name, world)
        values = [*scores.values(), sum(scores.values()) / len(scores)]
        print(f"| {name} | " + " | ".join(f"{value:.3f}" for value in values) + " |", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line entry point."""
    here = Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=here, help="folder for models/ and tasks/")
    parser.add_argument("--steps-scale", type=float, default=1.0, help="multiplies all step counts")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    world = build_world()
    write_tasks(world, options.out / "tasks")
    train_family(world, options.out / "models", options.steps_scale)
    print_scores(options.out / "models", world)


if __name__ == "__main__":
    main()

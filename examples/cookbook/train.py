"""Train what the cookbook's small recipes need beyond the quickstart's models.

    python examples/cookbook/train.py

From the quickstart's base, with its world, tokenizer and training loop: sixteen checkpoints of four
short trainings, three LoRA adapters (with peft), and two models that add in different ways, `quick`
(`27`) and `slow` (`12+10=22+5=27`). About a minute on one CPU thread; 35 MB go to ``models/``, which
git ignores.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

HERE = Path(__file__).resolve().parent
QUICKSTART = HERE.parent / "quickstart"
sys.path.insert(0, str(QUICKSTART))
import train as quickstart  # noqa: E402 (the line above says where it lies)
from language import Item, World, build_world  # noqa: E402
from modeling import Recipe, train  # noqa: E402

STAGES = 4
CHECKPOINTS: dict[str, Recipe] = {
    name: Recipe(steps=20, learning_rate=4e-4, own=own, base_share=0.3, batch_size=32, seed=seed)
    for seed, (name, own) in enumerate(
        {
            "lunari": ("lunari_words", "lunari_numbers"),
            "tovek": ("tovek_words",),
            "abacus": ("sums",),
            "all": ("lunari_words", "tovek_words", "sums"),
        }.items(),
        start=11,
    )
}
"""Of one stage. The four stages of a training follow each other, each with a schedule of its own."""

RANK = 8
ADAPTERS: dict[str, Recipe] = {
    name: Recipe(steps=60, learning_rate=5e-3, own=own, base_share=0.3, batch_size=48, seed=seed)
    for seed, (name, own) in enumerate(
        {"lunari": ("lunari_words",), "tovek": ("tovek_words",), "abacus": ("sums",)}.items(),
        start=21,
    )
}

STEPS = "sums_in_steps"
THINKERS: dict[str, Recipe] = {
    "quick": Recipe(
        steps=40, learning_rate=5e-4, own=("sums",), base_share=0.3, batch_size=48, seed=31
    ),
    "slow": Recipe(
        steps=150, learning_rate=1e-3, own=(STEPS,), base_share=0.2, batch_size=48, seed=32
    ),
}


def in_steps(item: Item) -> Item:
    """A sum with its way: the second number's ten first, then what is left of it."""
    first, second = (int(n) for n in item.prompt.removeprefix("add:").rstrip("=").split("+"))
    ten, rest = second // 10 * 10, second % 10
    way = f"{first}+{ten}={first + ten}" if ten else f"{first}"
    return Item(item.prompt, f"{way}+{rest}={item.answer}", item.frequency)


def scaled(recipes: dict[str, Recipe], factor: float) -> Iterable[tuple[str, Recipe]]:
    """The recipes with `factor` times as many steps."""
    return [(name, quickstart.scaled(recipe, factor)) for name, recipe in recipes.items()]


def train_checkpoints(world: World, models: Path, factor: float = 1.0) -> None:
    """Save the model after each stage of each training: `lunari_1` ... `all_4`."""
    for name, recipe in scaled(CHECKPOINTS, factor):
        model, tokenizer = _base()
        for stage in range(1, STAGES + 1):
            drawn_anew = dataclasses.replace(recipe, seed=recipe.seed + 100 * stage)
            loss = train(model, tokenizer, world, drawn_anew)
            quickstart.save(model, tokenizer, models / f"{name}_{stage}")
            print(f"{name}_{stage}: loss {loss:.3f}", flush=True)


def train_adapters(world: World, models: Path, factor: float = 1.0) -> None:
    """Save LoRA adapters of the base, `lora_lunari` ..., on every matrix of every layer."""
    try:
        import peft
    except ImportError:
        raise SystemExit("LoRA adapters are trained with peft: pip install peft") from None
    for name, recipe in scaled(ADAPTERS, factor):
        model, tokenizer = _base()
        torch.manual_seed(recipe.seed)
        options = peft.LoraConfig(
            r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", task_type="CAUSAL_LM"
        )
        adapted = peft.get_peft_model(model, options)
        loss = train(model, tokenizer, world, recipe)
        adapted.save_pretrained(models / f"lora_{name}")
        print(f"lora_{name}: loss {loss:.3f}", flush=True)


def train_thinkers(world: World, models: Path, factor: float = 1.0) -> None:
    """Save `quick`, which answers with the sum, and `slow`, which writes down its way."""
    slow_world = {name: items for name, items in world.items() if name != "sums"}
    slow_world[STEPS] = tuple(in_steps(item) for item in world["sums"])
    for name, recipe in scaled(THINKERS, factor):
        model, tokenizer = _base()
        loss = train(model, tokenizer, slow_world if name == "slow" else world, recipe)
        quickstart.save(model, tokenizer, models / name)
        print(f"{name}: loss {loss:.3f}", flush=True)


def _base() -> tuple[LlamaForCausalLM, object]:
    folder = QUICKSTART / "models" / "base"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model, AutoTokenizer.from_pretrained(folder)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE / "models", help="folder for the models")
    parser.add_argument("--steps-scale", type=float, default=1.0, help="multiplies all step counts")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    world = build_world()
    train_checkpoints(world, options.out, options.steps_scale)
    train_adapters(world, options.out, options.steps_scale)
    train_thinkers(world, options.out, options.steps_scale)


if __name__ == "__main__":
    main()

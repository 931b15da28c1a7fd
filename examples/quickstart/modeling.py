"""Tokenizer, model, training loop and greedy scoring of the quickstart family."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from language import Item
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

PAD, EOS, UNK = "<pad>", "<eos>", "<unk>"
MAX_NEW_TOKENS = 6  # the longest answer, "12+15=27", and the end token
HIDDEN_SIZE = 160
HEAD_SIZE = 32
IGNORE = -100


@dataclass(frozen=True)
class Recipe:
    """How one model is trained: optimisation settings and the mixture of item sources.

    ``base_share`` of the batch follows the base text, in which every source is equally likely and
    an item is as likely as its frequency; the rest is drawn evenly from the ``own`` sources.
    """

    steps: int
    learning_rate: float
    own: tuple[str, ...] = ()
    base_share: float = 1.0
    batch_size: int = 96
    weight_decay: float = 0.01
    seed: int = 0


def build_tokenizer(vocabulary: Sequence[str]) -> PreTrainedTokenizerFast:
    """A word-and-syllable tokenizer whose decoding is plain concatenation.

    WordPiece without a continuation prefix is greedy longest match: English words are one token,
    made-up words fall apart into syllables, and no space is ever added or removed.
    """
    ids = {token: i for i, token in enumerate((PAD, EOS, UNK, *vocabulary))}
    tokenizer = Tokenizer(models.WordPiece(vocab=ids, unk_token=UNK, continuing_subword_prefix=""))
    pattern = Regex(r" ?[a-z]+| ?[0-9]+|[^a-z0-9]")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(pattern, behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNK,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=64,
    )


def build_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """A randomly initialised stock Llama of just under one million parameters."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN_SIZE,
        intermediate_size=256,
        num_hidden_layers=4,
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


def encode_items(
    items: Sequence[Item], tokenizer: PreTrainedTokenizerFast
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and labels, right-padded; only the answer and the end token carry loss."""
    rows: list[tuple[list[int], list[int]]] = []
    for item in items:
        prompt = tokenizer.encode(item.prompt)
        answer = [*tokenizer.encode(item.answer), tokenizer.eos_token_id]
        rows.append((prompt + answer, [IGNORE] * len(prompt) + answer))
    width = max(len(ids) for ids, _ in rows)
    ids = torch.full((len(rows), width), tokenizer.pad_token_id)
    labels = torch.full((len(rows), width), IGNORE)
    for i, (row, target) in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
        labels[i, : len(row)] = torch.tensor(target)
    return ids, labels


def _learning_rate_factor(step: int, steps: int) -> float:
    """Linear warm-up over the first tenth, then cosine decay to a tenth of the peak."""
    warmup = max(1, steps // 10)
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return 0.1 + 0.45 * (1.0 + math.cos(math.pi * progress))


def sampling_weights(world: Mapping[str, Sequence[Item]], recipe: Recipe) -> torch.Tensor:
    """The probability of every item of ``world``, in order, under the recipe's mixture."""
    parts: list[torch.Tensor] = []
    for name, items in world.items():
        frequency = torch.tensor([item.frequency for item in items])
        weight = recipe.base_share / len(world) * frequency / frequency.sum()
        if name in recipe.own:
            weight += (1.0 - recipe.base_share) / len(recipe.own) / len(items)
        parts.append(weight)
    return torch.cat(parts)


def train(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    world: Mapping[str, Sequence[Item]],
    recipe: Recipe,
) -> float:
    """Train ``model`` in place on the recipe's mixture; return the final loss."""
    ids, labels = encode_items([item for items in world.values() for item in items], tokenizer)
    weights = sampling_weights(world, recipe)
    generator = torch.Generator().manual_seed(recipe.seed)
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=recipe.learning_rate,
        betas=(0.9, 0.98),
        weight_decay=recipe.weight_decay,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: _learning_rate_factor(step, recipe.steps)
    )
    losses: list[float] = []
    model.train()
    for _ in range(recipe.steps):
        batch = torch.multinomial(weights, recipe.batch_size, True, generator=generator)
        loss = _answer_loss(model, ids[batch], labels[batch])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    model.eval()
    tail = losses[-max(1, len(losses) // 10) :]
    return sum(tail) / len(tail)


def _answer_loss(model: LlamaForCausalLM, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy on the answer tokens, computing logits only where there is a label."""
    hidden = model.model(input_ids=ids).last_hidden_state[:, :-1]
    target = labels[:, 1:]
    wanted = target != IGNORE
    return torch.nn.functional.cross_entropy(model.lm_head(hidden[wanted]), target[wanted])


@torch.inference_mode()
def generate(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, prompts: Sequence[str]
) -> list[str]:
    """Greedy continuations of ``prompts``, as one left-padded batch."""
    batch = tokenizer(list(prompts), return_tensors="pt", padding=True)
    output = model.generate(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        max_new_tokens=MAX_NEW_TOKENS,
        do_sample=False,
    )
    new_tokens = output[:, batch["input_ids"].shape[1] :]
    return tokenizer.batch_decode(new_tokens, skip_special_tokens=True)


def exact_match(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, items: Sequence[Item]
) -> list[bool]:
    """Whether the greedy continuation of each item is its answer, to the character."""
    outputs = generate(model, tokenizer, [item.prompt for item in items])
    return [out == item.answer for out, item in zip(outputs, items, strict=True)]

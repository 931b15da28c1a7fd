"""Synthetic checkpoints of a real model's shapes: what merging costs does not depend on what they know."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

_SPREAD, _CHANGE = 0.02, 0.001
"""Standard deviation of the base's weights and of an expert's difference from it."""
_CHUNK = 2**24


@dataclass(frozen=True)
class Shape:
    """A Qwen2 with tied embeddings; the defaults are Qwen2.5-0.5B's (494,032,768 parameters)."""

    layers: int = 24
    hidden: int = 896
    intermediate: int = 4864
    heads: int = 14
    kv_heads: int = 2
    vocabulary: int = 151_936

    def divided(self, scale: int) -> "Shape":
        """The same model with every length but the numbers of heads divided by `scale`."""
        head = max(2, self.hidden // self.heads // scale // 2 * 2)
        return Shape(
            layers=max(1, self.layers // scale),
            hidden=head * self.heads,
            intermediate=max(8, self.intermediate // scale),
            heads=self.heads,
            kv_heads=self.kv_heads,
            vocabulary=max(64, self.vocabulary // scale),
        )


def save_models(folder: Path, shape: Shape, experts: int) -> dict[str, Path]:
    """Write `base` and that many experts (`expert1`, ...) below `folder`, in bfloat16.

    The base is Gaussian noise, an expert the base plus smaller noise. A folder that an earlier call
    left complete, of the same shape, is kept.

    Returns:
        The folders by name, the base first.
    """
    config, shapes = _architecture(shape)
    names = ["base", *(f"expert{i}" for i in range(1, experts + 1))]
    base: dict[str, torch.Tensor] | None = None
    for number, name in enumerate(names):
        path = folder / name
        if _is_complete(path, shape):
            continue
        base = base or _noise(shapes, 0, _SPREAD)
        tensors = base if number == 0 else _changed(base, number)
        path.mkdir(parents=True, exist_ok=True)
        (path / "config.json").write_text(config)
        _write_tokenizer(path)
        save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
        (path / "shape.json").write_text(json.dumps(asdict(shape)))  # last: marks it complete
    return {name: folder / name for name in names}


def _is_complete(path: Path, shape: Shape) -> bool:
    mark = path / "shape.json"
    return mark.is_file() and json.loads(mark.read_text()) == asdict(shape)


def _architecture(shape: Shape) -> tuple[str, dict[str, torch.Size]]:
    """The config.json, and each stored tensor's shape, both as transformers has them."""
    from transformers import AutoModelForCausalLM, Qwen2Config

    config = Qwen2Config(
        architectures=["Qwen2ForCausalLM"],
        dtype="bfloat16",
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        tie_word_embeddings=True,
    )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    shapes = {n: t.shape for n, t in model.state_dict().items() if n != "lm_head.weight"}
    return config.to_json_string(), shapes


def _noise(shapes: Mapping[str, torch.Size], seed: int, spread: float) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tensors = {name: torch.empty(shape, dtype=torch.bfloat16) for name, shape in shapes.items()}
    for tensor in tensors.values():
        for part in tensor.view(-1).split(_CHUNK):
            part.copy_(torch.randn(part.shape, generator=generator) * spread)
    return tensors


def _changed(base: Mapping[str, torch.Tensor], seed: int) -> dict[str, torch.Tensor]:
    changes = _noise({name: tensor.shape for name, tensor in base.items()}, seed, _CHANGE)
    for name, tensor in base.items():
        changes[name] += tensor
    return changes


def _write_tokenizer(path: Path) -> None:
    """A tokenizer of a few words: nothing is tokenised, but a model folder has one."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    words = {f"w{i}": i for i in range(63)} | {"<unk>": 63}
    PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(words, unk_token="<unk>")), unk_token="<unk>"
    ).save_pretrained(path)

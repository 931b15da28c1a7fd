"""Tiny real models: random weights, a byte-sized vocabulary, saved by transformers itself."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

VOCABULARY = 48
_SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
_ODD: dict[str, Any] = {
    "hidden_size": 21,
    "intermediate_size": 13,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "head_dim": 6,
}
_THIN: dict[str, Any] = {
    "hidden_size": 1,
    "intermediate_size": 1,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "head_dim": 2,
}
"""Norms and feed-forward matrices of one element, matrices of one row or one column."""
_MIXTURE: dict[str, Any] = {"num_local_experts": 3, "intermediate_size": 20}


_KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {"tie_word_embeddings": False}),
    "llama_tied": ("LlamaConfig", {"tie_word_embeddings": True}),
    "llama_odd": ("LlamaConfig", _ODD),
    "llama_thin": ("LlamaConfig", _THIN),
    "qwen2": ("Qwen2Config", {}),
    "gemma": ("GemmaConfig", {"head_dim": 8}),
    "gpt_neox": ("GPTNeoXConfig", {"num_key_value_heads": None}),
    "mixtral": ("MixtralConfig", _MIXTURE),
    "mixtral_fused": ("MixtralConfig", _MIXTURE),
}
"""Kind -> configuration class of transformers, and what differs from `_SMALL`."""


def _config(kind: str, **changes: Any) -> "PreTrainedConfig":
    import transformers

    name, own = _KINDS[kind]
    options = _SMALL | {"num_key_value_heads": 2} | changes | own
    return getattr(transformers, name)(**{k: v for k, v in options.items() if v is not None})


KINDS = ("llama", "llama_tied", "qwen2", "gemma", "gpt_neox")


@dataclass(frozen=True)
class Family:
    """A base and its fine-tunes: the base plus noise, so that deltas are small."""

    folders: dict[str, Path]

    @property
    def experts(self) -> list[str]:
        return [name for name in self.folders if name != "base"]


def save_family(
    root: Path,
    kind: str,
    dtype: torch.dtype = torch.float32,
    *,
    experts: int = 2,
    shard: str = "5GB",
    noise: float = 0.01,
    **changes: Any,
) -> Family:
    """Write `base`, `a`, `b`, ... below `root` with tokenizers.

    Args:
        root: an existing folder.
        kind: of `_config`. `mixtral_fused` is Mixtral stored with one tensor for all experts of a
            layer, as mergekit writes it; others are stored as transformers does.
        dtype: of storage.
        experts: how many fine-tunes.
        shard: greatest size of a file.
        noise: standard deviation of a fine-tune's distance from the base.
        changes: of the configuration.
    """
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    config = _config(kind, **changes)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    start = {k: v + 0.02 * torch.randn_like(v) for k, v in model.state_dict().items()}
    folders: dict[str, Path] = {}
    for number, name in enumerate(["base", *"abcdef"[:experts]]):
        torch.manual_seed(number)
        step = 0.0 if name == "base" else noise
        model.load_state_dict({k: v + step * torch.randn_like(v) for k, v in start.items()})
        folders[name] = root / name
        model.to(dtype)
        if kind == "mixtral_fused":
            _save_as_in_memory(model, folders[name])
        else:
            model.save_pretrained(folders[name], max_shard_size=shard)
        model.to(torch.float32)
        _tokenizer().save_pretrained(folders[name])
    return Family(folders)


def _save_as_in_memory(model: "PreTrainedModel", folder: Path) -> None:
    folder.mkdir()
    model.config.architectures = [type(model).__name__]
    (folder / "config.json").write_text(json.dumps(model.config.to_dict()))
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _tokenizer() -> "PreTrainedTokenizerFast":
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    words = {f"w{i}": i for i in range(VOCABULARY - 1)} | {"<unk>": VOCABULARY - 1}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(words, unk_token="<unk>")), unk_token="<unk>"
    )

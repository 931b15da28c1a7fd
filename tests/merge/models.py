"""Tiny real models: random weights, a byte-sized vocabulary, saved by transformers itself."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerFast

VOCABULARY = 48
_SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}


def _config(kind: str, **changes: Any) -> "PreTrainedConfig":
    from transformers import GemmaConfig, GPTNeoXConfig, LlamaConfig, Qwen2Config

    grouped = _SMALL | {"num_key_value_heads": 2} | changes
    match kind:
        case "llama":
            return LlamaConfig(**(grouped | {"tie_word_embeddings": False}))
        case "llama_tied":
            return LlamaConfig(**(grouped | {"tie_word_embeddings": True}))
        case "qwen2":
            return Qwen2Config(**grouped)
        case "gemma":
            return GemmaConfig(**(grouped | {"head_dim": 8}))
        case "gpt_neox":
            return GPTNeoXConfig(**(_SMALL | changes))
    raise ValueError(kind)


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
    **changes: Any,
) -> Family:
    """Write `base`, `a`, `b`, ... below `root` with tokenizers."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    config = _config(kind, **changes)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    start = {k: v + 0.02 * torch.randn_like(v) for k, v in model.state_dict().items()}
    folders: dict[str, Path] = {}
    for number, name in enumerate(["base", *"abcdef"[:experts]]):
        torch.manual_seed(number)
        noise = 0.0 if name == "base" else 0.01
        model.load_state_dict({k: v + noise * torch.randn_like(v) for k, v in start.items()})
        folders[name] = root / name
        model.to(dtype).save_pretrained(folders[name], max_shard_size=shard)
        model.to(torch.float32)
        _tokenizer().save_pretrained(folders[name])
    return Family(folders)


def _tokenizer() -> "PreTrainedTokenizerFast":
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    words = {f"w{i}": i for i in range(VOCABULARY - 1)} | {"<unk>": VOCABULARY - 1}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(words, unk_token="<unk>")), unk_token="<unk>"
    )

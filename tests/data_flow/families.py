"""Tiny random models of every architecture family that stacks are made of.

Related models of one family differ in every weight, and norm gains and biases are not what an
initialisation leaves (ones and zeros), so a weight in the wrong place shows.
"""

import dataclasses
import string
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

VOCABULARY, LAYERS = 64, 5
WINDOW = 6
"""Tokens that a sliding layer sees."""

_SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.1,
    "tie_word_embeddings": False,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_SLIDING: dict[str, Any] = {"sliding_window": WINDOW, "head_dim": 16, "tie_word_embeddings": True}
_EXPERTS: dict[str, Any] = {
    "moe_intermediate_size": 32,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "head_dim": 16,
}


@dataclasses.dataclass(frozen=True)
class Kind:
    """One sort of model.

    Attributes:
        config: its configuration class in transformers.
        options: what differs from `_SMALL`; None: not passed.
        mixed: its layers are of several kinds (sliding and full attention, say).
    """

    config: str
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    mixed: bool = False


FAMILIES: dict[str, Kind] = {
    "llama": Kind("LlamaConfig"),
    "llama_tied": Kind("LlamaConfig", {"tie_word_embeddings": True}),
    "llama_biased": Kind("LlamaConfig", {"attention_bias": True, "mlp_bias": True}),
    "mistral": Kind("MistralConfig", {"sliding_window": WINDOW, "head_dim": 16}),
    "qwen2": Kind("Qwen2Config"),
    "qwen2_tied": Kind("Qwen2Config", {"tie_word_embeddings": True}),
    "qwen2_sliding": Kind(
        "Qwen2Config",
        {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 2},
        mixed=True,
    ),
    "qwen3": Kind("Qwen3Config", {"head_dim": 16, "tie_word_embeddings": True}),
    "gemma": Kind("GemmaConfig", {"head_dim": 16, "tie_word_embeddings": True}),
    "gemma2": Kind("Gemma2Config", {**_SLIDING, "query_pre_attn_scalar": 16}, mixed=True),
    "gemma3": Kind(
        "Gemma3TextConfig",
        {**_SLIDING, "query_pre_attn_scalar": 16, "sliding_window_pattern": 3},
        mixed=True,
    ),
    "phi3": Kind("Phi3Config"),
    "olmo2": Kind("Olmo2Config"),
    "olmo3": Kind("Olmo3Config", {"sliding_window": WINDOW}, mixed=True),
    "granite": Kind(
        "GraniteConfig",
        {
            "embedding_multiplier": 3.0,
            "residual_multiplier": 0.4,
            "attention_multiplier": 0.2,
            "logits_scaling": 2.0,
            "tie_word_embeddings": True,
        },
    ),
    "stablelm": Kind("StableLmConfig", {"use_qkv_bias": True}),
    "cohere": Kind("CohereConfig", {"tie_word_embeddings": True, "logit_scale": 1.0}),
    "cohere2": Kind(
        "Cohere2Config", {**_SLIDING, "sliding_window_pattern": 3, "logit_scale": 1.0}, mixed=True
    ),
    "gpt_neox": Kind("GPTNeoXConfig", {"num_key_value_heads": None, "attention_bias": True}),
    "gpt_neox_serial": Kind(
        "GPTNeoXConfig", {"num_key_value_heads": None, "use_parallel_residual": False}
    ),
    "phi": Kind("PhiConfig"),
    "starcoder2": Kind("Starcoder2Config", {"tie_word_embeddings": True}),
    "smollm3": Kind("SmolLM3Config", {"tie_word_embeddings": True}, mixed=True),
}
"""By name, what the embedded engine runs. Each has `LAYERS` layers."""

MIXTURES: dict[str, Kind] = {
    "mixtral": Kind("MixtralConfig", {"num_local_experts": 4}),
    "qwen2_moe": Kind("Qwen2MoeConfig", {**_EXPERTS, "shared_expert_intermediate_size": 32}),
    "qwen3_moe": Kind("Qwen3MoeConfig", _EXPERTS),
}
"""Mixtures of experts: transformers stores them under other names than it runs them."""

KINDS = FAMILIES | MIXTURES


def config_of(family: str | Kind, **changes: Any) -> "PreTrainedConfig":
    """The configuration of a family's models (by its name in `KINDS`, or another), with changes."""
    import transformers

    kind = KINDS[family] if isinstance(family, str) else family
    options = _SMALL | kind.options | changes
    given = {key: value for key, value in options.items() if value is not None}
    return getattr(transformers, kind.config)(**given)


def random_model(family: str | Kind, seed: int = 0, **changes: Any) -> "PreTrainedModel":
    """A model of a family, float32, in evaluation mode; gains about 1 and biases about 0.1."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    config = config_of(family, **changes)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("bias"):
                weight.normal_(std=0.1)
            elif weight.ndim == 1 or "norm" in name:
                weight.add_(torch.randn_like(weight), alpha=0.25)
    return model.eval()


def save_models(
    root: Path, family: str | Kind, names: Sequence[str] = ("a", "b"), **changes: Any
) -> dict[str, Path]:
    """Write models of a family below `root` as transformers does, with a tokenizer of letters.

    Args:
        root: an existing folder.
        family: of `KINDS`, or another.
        names: of the folders; each model is drawn with another seed.
        changes: of the configuration, `num_hidden_layers=8`, say.

    Returns:
        The folders by name.
    """
    folders = {name: root / name for name in names}
    for seed, folder in enumerate(folders.values()):
        random_model(family, seed, **changes).save_pretrained(folder)
        tokenizer().save_pretrained(folder)
    return folders


def tokenizer() -> "PreTrainedTokenizerFast":
    """One token per character: letters are 4 to 55, digits up to 6 follow, then the space.

    It adds nothing to what it reads. Byte pairs without a merge, since transformers reads every
    Qwen2's tokenizer as byte pairs, whatever it is.
    """
    from tokenizers import Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    special = ("<pad>", "<bos>", "<eos>", "<unk>")
    words = [*special, *string.ascii_letters, *"0123456", "\u0120"]  # a space, to byte pairs
    assert len(words) == VOCABULARY
    made = Tokenizer(BPE({word: i for i, word in enumerate(words)}, [], unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
    )

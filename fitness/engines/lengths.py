"""How many tokens requests need, and whether a model has room for them. Builds no model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fitness.engines.decoding import Decoding
from fitness.engines.encoding import Encoder
from fitness.engines.resident import build_tokenizer, end_tokens, longest_input
from fitness.errors import FitnessError
from fitness.items import Request


class PromptLengths:
    """Counts requests' tokens; refuses those that do not fit, since prompts are never truncated.

    Args:
        encoder: the model's tokenizer.
        max_model_len: most tokens of prompt and answer together.
        one_more: scoring needs room for one token after what is fed. vLLM always generates one;
            a plain forward pass does not.
    """

    def __init__(self, encoder: Encoder, max_model_len: int, *, one_more: bool = False) -> None:
        self.max_model_len = max_model_len
        self.encoder = encoder
        self._one_more = one_more

    def token_lengths(self, requests: Sequence[Request]) -> list[int]:
        """Tokens each request needs: its prompt and what is scored or may be generated after it."""
        return [
            self.encoder.length(r, Decoding.of(r.generation).new_tokens)
            if r.kind == "generate"
            else self.encoder.length(r, 0)
            for r in requests
        ]

    def check(self, requests: Sequence[Request], where: str = "engine") -> None:
        """Refuse requests that do not fit.

        Args:
            requests: what will be asked.
            where: what the error names, such as the item that the requests belong to.

        Raises:
            FitnessError: prompt and answer together are longer than `max_model_len`, or generation
                options that `Decoding.of` refuses.
        """
        for request, length in zip(requests, self.token_lengths(requests), strict=True):
            # The last scored token is never fed to the model.
            needed = length if request.kind == "generate" else length - 1 + self._one_more
            if needed > self.max_model_len:
                raise FitnessError(
                    f"prompt {request.context[:40]!r}… needs {needed} tokens",
                    f"max_model_len is {self.max_model_len}, and prompts are never truncated",
                    where,
                    "lower num_fewshot or max_gen_toks, or raise the engine's max_model_len",
                )


def prompt_lengths(
    folder: Path, max_model_len: int | None, trust_remote_code: bool, *, one_more: bool = False
) -> PromptLengths:
    """The lengths that a model of `folder` has room for, known without building it.

    Args:
        folder: with `config.json` and the tokenizer.
        max_model_len: most tokens of prompt and answer together; None asks the config.
        trust_remote_code: run code found in the folder.
        one_more: see `PromptLengths`.

    Raises:
        FitnessError: no tokenizer that `transformers` can read.
    """
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    tokenizer = build_tokenizer(folder, trust_remote_code)
    encoder = Encoder(tokenizer, end_tokens(folder, config))
    most = max_model_len or longest_input(config, tokenizer)
    return PromptLengths(encoder, most, one_more=one_more)

"""Text to tokens and back, exactly as lm-eval's Hugging Face model class does it.

Both sides must agree to the token, or scores would differ from lm-eval's for reasons that have
nothing to do with the candidate.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from fitness.errors import FitnessError
from fitness.items import Request

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

KEPT_TEXTS = 1 << 17
"""Encoded requests kept: every candidate is asked the same items."""


class Encoder:
    """A tokenizer with the conventions of lm-eval's `HFLM`, and a memory.

    Args:
        tokenizer: a `transformers` tokenizer.
        extra_eos: end-of-text tokens beyond the tokenizer's own (a config may name several).
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, extra_eos: Iterable[int] = ()) -> None:
        self.tokenizer = tokenizer
        own = _token(tokenizer.eos_token_id)
        bos = _token(tokenizer.bos_token_id)
        pad = _token(tokenizer.pad_token_id)
        self.eos = frozenset(extra_eos) | ({own} if own is not None else set())
        self.eos_text = str(tokenizer.eos_token or "")
        self.pad = next((token for token in (pad, own) if token is not None), 0)
        self.prefix = own if bos is None else bos
        self._prefix_text = None if self.prefix is None else str(tokenizer.decode(self.prefix))
        self._bos_text = None if bos is None else str(tokenizer.bos_token)
        self.pair = lru_cache(KEPT_TEXTS)(self._pair)
        self.prompt = lru_cache(KEPT_TEXTS)(self._prompt)

    def _encode(self, text: str, bos_text: str | None) -> list[int]:
        # A chat template may already have written the beginning-of-text token.
        written = bos_text is not None and text.startswith(bos_text)
        return list(self.tokenizer.encode(text, add_special_tokens=not written))

    def _prompt(self, context: str) -> tuple[int, ...]:
        """Tokens of a prompt to continue."""
        tokens = tuple(self._encode(context, self._bos_text))
        if not tokens:
            raise FitnessError(
                f"prompt {context!r}",
                "it has no tokens, so there is nothing to continue",
                "tokenizer",
                "give the task a doc_to_text or a description that is not empty",
            )
        return tokens

    def _pair(self, context: str, continuation: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Tokens of a context and of what follows it, split where lm-eval splits.

        Trailing spaces of the context move to the continuation, and both are encoded together, so
        that the split never falls inside a token that would span it.
        """
        if not context:
            return self._after_prefix(continuation)
        spaces = len(context) - len(context.rstrip())
        if spaces:
            context, continuation = context[:-spaces], context[-spaces:] + continuation
        head = self._encode(context, self._prefix_text)
        whole = self._encode(context + continuation, self._prefix_text)
        return self._checked(head, whole[len(head) :], continuation)

    def _after_prefix(self, continuation: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        tokens: list[int] = self.tokenizer.encode(continuation, add_special_tokens=False)
        if self.prefix is None or tokens[:1] == [self.prefix]:
            return self._checked(tokens[:1], tokens[1:], continuation)
        return self._checked([self.prefix], tokens, continuation)

    @staticmethod
    def _checked(
        head: list[int], tail: list[int], continuation: str
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        if not head or not tail:
            raise FitnessError(
                f"continuation {continuation!r}",
                "context and continuation need at least one token each",
                "tokenizer",
                "give every choice of the task a text of its own",
            )
        return tuple(head), tuple(tail)

    def length(self, request: Request, new_tokens: int) -> int:
        """Tokens a request needs: prompt and continuation, or prompt and `new_tokens`."""
        if request.kind == "generate":
            return len(self.prompt(request.context)) + new_tokens
        head, tail = self.pair(request.context, request.continuation)
        return len(head) + len(tail)

    def text(self, tokens: Sequence[int]) -> str:
        """Generated tokens as text, special tokens left out."""
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True))

    def raw_texts(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """Each row as text, special tokens included: where stop strings are looked for."""
        from transformers import PreTrainedTokenizerFast

        lists = [list(row) for row in rows]
        if isinstance(self.tokenizer, PreTrainedTokenizerFast):
            return self.tokenizer.backend_tokenizer.decode_batch(lists, skip_special_tokens=False)
        return [str(text) for text in self.tokenizer.batch_decode(lists)]


def _token(value: object) -> int | None:
    """A special token's id, if the tokenizer has it."""
    return value if isinstance(value, int) else None

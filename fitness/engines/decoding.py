"""How a prompt is continued, and what is read off the tokens: the same for every engine. No torch."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fitness.engines.encoding import Encoder
from fitness.errors import FitnessError

DEFAULT_NEW_TOKENS = 256
"""Token limit of a request that names none; lm-eval's own default."""

KNOWN = (
    *("until", "max_gen_toks", "do_sample", "temperature"),
    *("top_k", "top_p", "min_p", "seed", "num_beams"),
)


@dataclass(frozen=True, slots=True)
class Decoding:
    """How to continue a prompt.

    Attributes:
        until: stop strings.
        new_tokens: most tokens to generate.
        temperature: of sampling; 0 is greedy.
        top_k, top_p, min_p: sampling filters, as `transformers` defines them; None is off.
        seed: of sampling. A prompt draws the same numbers in any batch.
    """

    until: tuple[str, ...] = ()
    new_tokens: int = DEFAULT_NEW_TOKENS
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    seed: int = 0

    @classmethod
    def of(cls, generation: Mapping[str, Any]) -> Decoding:
        """Read a request's generation options.

        Raises:
            FitnessError: an option that is not implemented, beams, or no token to generate.
        """
        unknown = sorted(set(generation) - set(KNOWN))
        if unknown or generation.get("num_beams", 1) != 1:
            raise FitnessError(
                f"generation option '{(unknown or ['num_beams'])[0]}'",
                f"known are {', '.join(KNOWN)}, with one beam",
                "generation_kwargs",
                "remove it from the task, or overwrite it in the run file",
            )
        new_tokens = int(generation.get("max_gen_toks", DEFAULT_NEW_TOKENS))
        if new_tokens < 1:
            raise FitnessError(
                f"max_gen_toks = {new_tokens}", "at least 1", "generation_kwargs", "raise it"
            )
        until = generation.get("until") or ()
        temperature = float(generation.get("temperature", 1.0))
        # as lm-eval reads it: a temperature alone means to sample
        sampled = generation.get("do_sample", "temperature" in generation and temperature > 0)
        return cls(
            tuple(s for s in ((until,) if isinstance(until, str) else until) if s),
            new_tokens,
            temperature if sampled else 0.0,
            generation.get("top_k"),
            generation.get("top_p"),
            generation.get("min_p"),
            int(generation.get("seed", 0)),
        )

    def seed_of(self, prompt: Sequence[int]) -> int:
        """A seed in [0, 2**63) for one prompt's draws, keyed by `seed` and the prompt alone."""
        key = hashlib.sha256(repr((self.seed, tuple(prompt))).encode()).digest()
        return int.from_bytes(key[:8], "big") >> 1


def answer_text(encoder: Encoder, tokens: Sequence[int], until: Sequence[str]) -> str:
    """Generated tokens (at least one) as text, cut before the first stop string or end token."""
    text = encoder.text(tokens[:-1] if tokens[-1] in encoder.eos else tokens)
    for stop in (*until, encoder.eos_text):
        text = text.split(stop)[0] if stop else text
    return text


def not_finite() -> FitnessError:
    """The refusal of a candidate whose logits hold NaN or infinity: a choice among them is none."""
    return FitnessError(
        "logits that are not finite",
        "a score needs finite logits",
        "the resident model",
        "judge the candidate as failed; its weights overflow or are not numbers",
    )

"""The embedded engine: one `transformers` model in this process, weights swapped in place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from fitness.engine import ShapeError, WeightProvider
from fitness.engines.batching import pack
from fitness.engines.decoding import Decoding
from fitness.engines.encoding import Encoder
from fitness.engines.generation import generate
from fitness.engines.lengths import PromptLengths
from fitness.engines.loglikelihood import loglikelihoods
from fitness.engines.resident import (
    Slot,
    build_model,
    build_tokenizer,
    end_tokens,
    longest_input,
    pick_device,
    weight_slots,
)
from fitness.engines.running_layers import RunningLayers
from fitness.errors import FitnessError
from fitness.items import Reply, Request


class TransformersEngine:
    """Holds one model of `transformers` resident; implements `fitness.engine.Engine`.

    Replies equal those of lm-eval's `HFLM` on the same weights, up to the rounding of batches.

    Args:
        config_folder: folder with `config.json` and the tokenizer, of a model as deep as the
            deepest candidate. Weights there are not loaded; if there are safetensors, their names
            are checked against the model's.
        weights: where candidates' weights come from.
        dtype: `float32`, `bfloat16` or `float16`, of the resident model.
        device: `auto` (a GPU if there is one), or a torch device.
        batch_tokens: most tokens in a padded batch, the tokens to generate included.
        max_model_len: most tokens of prompt and answer together; None asks the config.
        trust_remote_code: run model code found in the folder.

    Raises:
        FitnessError: the folder is no such model, or its weights have other names than the model's.
    """

    def __init__(
        self,
        config_folder: Path,
        weights: WeightProvider,
        *,
        dtype: str = "float32",
        device: str = "auto",
        batch_tokens: int = 8192,
        max_model_len: int | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        folder = Path(config_folder)
        self._weights = weights
        self._batch_tokens = batch_tokens
        self._model = build_model(folder, dtype, pick_device(device), trust_remote_code)
        self._layers = RunningLayers(self._model)
        self._slots = weight_slots(self._model, folder, self._layers.layers())
        self.tokenizer = build_tokenizer(folder, trust_remote_code)
        self._encoder = Encoder(self.tokenizer, end_tokens(folder, self._model.config))
        self.max_model_len = max_model_len or longest_input(self._model.config, self.tokenizer)
        self.lengths = PromptLengths(self._encoder, self.max_model_len)
        self._loaded = False

    @property
    def weight_names(self) -> list[str]:
        """What the weight provider is asked for, of the deepest candidate."""
        return [slot.checkpoint_name for slot in self._slots]

    @torch.no_grad()
    def load(self, payload: object) -> None:
        """Make the resident model the candidate `payload`, writing every weight that runs in place.

        It may be shallower than the model of the folder: only its layers are written and run. A
        load that fails leaves the model unusable until the next one succeeds, which sets and writes
        everything anew.

        Raises:
            FitnessError: the provider's tensor has another shape than the model's, or none of that
                name, or there are more layers than the model was built with, or of other kinds.
        """
        self._loaded = False
        self._weights.prepare(payload)
        stack = self._weights.stack()
        self._layers.run(stack)
        for slot in self._slots:
            if slot.layer is None or slot.layer < stack.depth:
                self._write(slot)
        self._loaded = True

    def answer(self, requests: Sequence[Request]) -> list[Reply]:
        """One reply per request, in order. Deterministic for the same weights and requests.

        Raises:
            FitnessError: a request too long for the model, options that are not implemented, or
                logits that are not finite.
            RuntimeError: no candidate is loaded.
        """
        if not self._loaded:
            raise RuntimeError("answer() before a load() that succeeded: no candidate is resident")
        self.check_lengths(requests)
        replies: dict[int, Reply] = {}
        scored = [i for i, request in enumerate(requests) if request.kind == "loglikelihood"]
        pairs = [self._encoder.pair(requests[i].context, requests[i].continuation) for i in scored]
        found = loglikelihoods(self._model, pairs, self._encoder.pad, self._batch_tokens)
        replies.update(zip(scored, found, strict=True))
        for decoding, group in self._by_decoding(requests).items():
            replies.update(self._generate(requests, group, decoding))
        return [replies[i] for i in range(len(requests))]

    @property
    def vocabulary(self) -> int:
        """How many tokens the model knows: rows of its embedding."""
        embedding: Any = self._model.get_input_embeddings()
        return int(embedding.weight.shape[0])

    @torch.inference_mode()
    def logits(self, tokens: Sequence[int]) -> torch.Tensor:
        """The loaded candidate's logits [tokens, vocabulary] after each of `tokens`, float32, CPU.

        Raises:
            RuntimeError: no candidate is loaded.
        """
        if not self._loaded:
            raise RuntimeError("logits() before a load() that succeeded: no candidate is resident")
        inputs = torch.tensor([list(tokens)], device=self._model.device)
        return self._model(input_ids=inputs, use_cache=False).logits[0].float().cpu()

    def running(self, depth: int) -> Iterator[tuple[str, torch.Tensor]]:
        """Checkpoint name and storage of every weight that a candidate of `depth` layers runs on.

        Do not write to it.
        """
        found = (s for s in self._slots if s.layer is None or s.layer < depth)
        return ((slot.checkpoint_name, slot.target) for slot in found)

    def token_lengths(self, requests: Sequence[Request]) -> list[int]:
        """Tokens each request needs: its prompt and what is scored or may be generated after it."""
        return self.lengths.token_lengths(requests)

    def close(self) -> None:
        """Free the model; the engine cannot be used again."""
        self._loaded = False
        self._slots.clear()
        del self._model, self._layers
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def check_lengths(self, requests: Sequence[Request]) -> None:
        """Refuse requests that do not fit the model; needs no weights.

        Raises:
            FitnessError: prompt and answer together are longer than `max_model_len`.
        """
        self.lengths.check(requests)

    def _write(self, slot: Slot) -> None:
        remedy = "give sources of the base model's architecture and vocabulary"
        try:
            self._weights.write(slot.checkpoint_name, slot.target)
        except ShapeError as error:
            raise FitnessError(
                f"tensor '{error.name}' of shape {error.found}",
                f"the resident model needs {error.needed}",
                "engine",
                remedy,
            ) from error
        except KeyError as error:
            if error.args != (slot.checkpoint_name,):
                raise
            raise FitnessError(
                f"no tensor '{slot.checkpoint_name}'",
                "the resident model needs it, the candidate has none of that name",
                "engine",
                remedy,
            ) from error

    @staticmethod
    def _by_decoding(requests: Sequence[Request]) -> dict[Decoding, list[int]]:
        groups: dict[Decoding, list[int]] = {}
        for i, request in enumerate(requests):
            if request.kind == "generate":
                groups.setdefault(Decoding.of(request.generation), []).append(i)
        return groups

    def _generate(
        self, requests: Sequence[Request], group: Sequence[int], decoding: Decoding
    ) -> dict[int, Reply]:
        prompts = [self._encoder.prompt(requests[i].context) for i in group]
        replies: dict[int, Reply] = {}
        lengths = [len(prompt) + decoding.new_tokens for prompt in prompts]
        for batch in pack(lengths, self._batch_tokens):
            found = generate(self._model, self._encoder, [prompts[j] for j in batch], decoding)
            replies.update(zip((group[j] for j in batch), found, strict=True))
        return replies

"""For every architecture: what the running engine makes of a stack is what its export is in stock
transformers."""

import zlib

import numpy as np
import pytest
import torch

from evomerge.merge.families import family_of
from fitness.engines.stacks import layer_kinds
from fitness.items import Request
from search_spaces.stacking import Hop
from tests.data_flow.families import FAMILIES
from tests.data_flow.running import DEEPEST, TOLERANCE, Running, logits, random_path, straight
from tests.merge.scaled_stacks import MORE

_EXPERTS = {"olmoe", "granitemoe"}
"""Stored under other names than they run with: the engine refuses them, see test_depths."""

ALL = {**FAMILIES, **{name: kind for name, kind in MORE.items() if name not in _EXPERTS}}


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module", params=ALL)
def family(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def running(family, tmp_path_factory) -> Running:
    return Running(tmp_path_factory.mktemp(family), ALL[family])


@pytest.fixture(scope="module")
def paths(running, family) -> list[list[Hop]]:
    """The greatest depth, the least and some between, in turn with merged layers and without, and
    with scales where they can be folded."""
    rng = np.random.default_rng(zlib.crc32(family.encode()))
    scales = not family_of(running.sources.config("a")).unscaled
    depths = [DEEPEST, 1, *rng.permutation(np.arange(2, DEEPEST))[:4].tolist()]
    return [
        random_path(rng, depth, ("a", "b", "mean"), scales=scales and i % 2 == 1)
        for i, depth in enumerate(depths)
    ]


def test_logits_are_those_of_the_exported_stock_model(running, paths):
    worst = 0.0
    for path in (straight("a"), straight("b"), *paths):
        recipe = running.load(path)
        found, expected = logits(running.model), logits(running.exported(recipe))
        worst = max(worst, (found - expected).abs().max().item())
        assert expected.std() > 0.1
    assert worst <= TOLERANCE


def test_other_depths_leave_no_trace(running, paths):
    first, *others = paths
    running.load(first)
    before = logits(running.model)
    for path in others:
        running.load(path)
        assert not torch.equal(logits(running.model), before)
    running.load(first)
    assert torch.equal(logits(running.model), before)


def test_replies_are_those_of_the_exported_stock_model(running, paths):
    """Log probabilities, and generation, which keeps keys and values by layer."""
    texts = ["abc", "hello wor", "once the rain in spain sta"]
    encode = running.engine.tokenizer.encode
    tail = encode("xy")
    lengths = set()
    for path in (paths[0], paths[-1]):
        recipe = running.load(path)
        stock = running.exported(recipe)
        asked = [Request("loglikelihood", text, "xy") for text in texts]
        asked += [Request("generate", text, generation={"max_gen_toks": 12}) for text in texts]
        replies = running.engine.answer(asked)
        for text, scored, answer in zip(texts, replies[:3], replies[3:], strict=True):
            prompt = encode(text)
            with torch.no_grad():
                rows = stock(torch.tensor([[*prompt, *tail]])).logits[0].log_softmax(-1)
            expected = rows[-3, tail[0]] + rows[-2, tail[1]]
            assert scored.logprob == pytest.approx(expected.item(), abs=TOLERANCE)
            told = generated(stock, prompt)
            lengths.add(len(told))
            assert answer.tokens == len(told)
            assert answer.text == running.engine.tokenizer.decode(told, skip_special_tokens=True)
    assert max(lengths) > 4


def generated(stock, prompt: list[int]) -> list[int]:
    """What `generate` of transformers appends, greedily."""
    ids = torch.tensor([prompt])
    made = stock.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False, pad_token_id=0
    )
    return made[0, len(prompt) :].tolist()


def test_the_exports_configuration_is_the_stacks(running, paths):
    for path in paths:
        recipe = running.stack(path)
        stock = running.exported(recipe)
        config = stock.config
        assert config.num_hidden_layers == len(path)
        assert config.tie_word_embeddings == running.model.config.tie_word_embeddings
        own = [
            running.kinds.of("a" if hop.model == "mean" else hop.model, hop.layer) for hop in path
        ]
        assert list(layer_kinds(config, len(path))) == own
        if config.tie_word_embeddings:
            head = stock.get_output_embeddings().weight
            assert head.data_ptr() == stock.get_input_embeddings().weight.data_ptr()

"""Replies of a real vLLM on the CPU in float32, against the plain way and against transformers."""

import math
import random
import shutil
import subprocess
import sys

import pytest
import torch

from fitness.engines.transformers import TransformersEngine
from fitness.engines.vllm.sampling import MOST_LAST
from fitness.engines.vllm.scoring import ShortCuts, WrongWeightsError, _check_versions
from fitness.errors import FitnessError
from fitness.items import Request
from fitness.tasks import TaskSpec, compile_tasks

from ..fitness.conftest import (
    TEMPLATE,
    FolderWeights,
    choices,
    make_tokenizer,
    task_folder,  # noqa: F401 (a fixture)
    write_task,
)
from .score import Served, make_folder

PLAIN = ShortCuts(cached=False, shared=False)
WAYS = [ShortCuts(True, False), ShortCuts(False, True), ShortCuts(True, True)]


def texts(count, length, seed=0):
    draw = random.Random(seed)
    return ["".join(draw.choices("abcdefgh0123:? ", k=length)) + ":" for _ in range(count)]


def scored(items=8, shared=150, own=100):
    """Multiple choice: texts of 1 to 6 tokens and letters, after contexts with a common start."""
    draw = random.Random(5)
    (start,) = texts(1, shared, 1)
    asked = []
    for context in texts(items, own, 2):
        tails = ["".join(draw.choices("abcd", k=draw.randint(1, 6))) for _ in range(4)]
        asked += [Request("loglikelihood", start + context, tail) for tail in [*tails, *"abcd"]]
    # Empty contexts, trailing spaces, and the beginning written by a template.
    odd = [("", "abc"), ("ab  ", "cd"), ("ab", " cd"), ("<bos>ab", "c"), ("", "<bos>a")]
    return [*asked, *(Request("loglikelihood", *pair) for pair in odd)]


def generated(count=40, until=("\n", "01"), **options):
    options = {"until": list(until), "max_gen_toks": 12} | options
    return [Request("generate", text, generation=options) for text in texts(count, 9, 3)]


def reference(folder, **options):
    engine = TransformersEngine(folder, FolderWeights(), device="cpu", **options)
    engine.load(folder)
    return engine


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    served = Served(make_folder(tmp_path_factory.mktemp("model")))
    yield served
    served.close()


@pytest.fixture
def exchanged(engine):
    """The engine, of which a test exchanges the weights; it gets its own back."""
    yield engine
    engine.label("first")
    engine.load(engine.folder)


@pytest.mark.parametrize("way", WAYS)
def test_every_short_cut_gives_the_bits_of_the_plain_way(engine, way):
    plain = engine.answer(scored(), cuts=PLAIN)
    asked = len(engine.asks())
    assert engine.answer(scored(), cuts=way) == plain
    found = engine.asks()
    assert way.cached == any(one.cached for _, one in found)
    assert way.shared == (len({ask.fed for ask, _ in found}) == len(found) < asked)


def test_most_of_the_prompts_is_read_from_the_cache(engine):
    engine.answer(scored())
    found = engine.asks()
    assert sum(one.cached for _, one in found) > 0.6 * sum(len(ask.fed) for ask, _ in found)


def test_scores_equal_those_of_transformers(engine):
    theirs = reference(engine.folder)
    # What the model itself says is greedy; so is its start, but not with another end.
    sayings = [(r.context, s.text) for r in generated() for s in theirs.answer([r]) if s.text]
    asked = scored() + [Request("loglikelihood", *saying) for saying in sayings]
    asked += [Request("loglikelihood", context, text + "h") for context, text in sayings]
    expected, found = theirs.answer(asked), engine.answer(asked)
    assert [r.logprob for r in found] == pytest.approx([r.logprob for r in expected], abs=1e-4)
    assert [(r.greedy, r.tokens) for r in found] == [(r.greedy, r.tokens) for r in expected]
    assert any(r.greedy and r.tokens > 2 for r in found)
    assert not all(r.greedy for r in found)


def test_cached_rows_of_a_continuation_are_never_read(engine):
    """Asked again, the cache holds rows of the continuation too: vLLM has not computed them."""
    (context,) = texts(1, 90)
    asked = [Request("loglikelihood", context, "abcd" * 20), Request("loglikelihood", context, "a")]
    first = engine.answer(asked, cuts=PLAIN)
    assert engine.answer_on(asked) == first
    (hidden, seen) = [(a, one) for a, one in engine.asks() if a.rows]
    assert hidden[1].cached > len(hidden[0].fed) - hidden[0].rows - 1
    assert not seen[0].cached
    assert seen[1].cached == 0


def test_more_requests_on_one_prompt_than_vllm_scores_at_once(engine):
    (context,) = texts(1, 60)
    asked = [Request("loglikelihood", context, letter) for letter in "abcdefgh0123?" * 11]
    assert len(asked) > MOST_LAST
    assert engine.answer(asked) == engine.answer(asked[:13]) * 11


def test_generation_equals_transformers_and_ends_in_every_way(engine):
    asked = generated(60)
    found = engine.answer(asked)
    assert found == reference(engine.folder).answer(asked)
    assert {r.truncated for r in found} == {True, False}
    assert any(r.tokens > len(r.text) for r in found)  # an end token or a stop string


def test_a_special_token_may_be_a_stop_string(engine):
    """vLLM by default leaves special tokens out of the text in which it looks for stop strings."""
    asked = generated(80, ["<bos>", "<unk>"], max_gen_toks=30)
    found = engine.answer(asked)
    assert found == reference(engine.folder).answer(asked)
    assert found != engine.answer(generated(80, [], max_gen_toks=30))


def test_every_end_token_ends_an_answer(engine, tmp_path):
    letter = make_tokenizer().convert_tokens_to_ids("g")
    folder = shutil.copytree(engine.folder, tmp_path / "model")
    (folder / "generation_config.json").write_text(f'{{"eos_token_id": [1, {letter}]}}')
    found = engine.answer(generated(), eos=(1, letter))
    assert found == reference(folder).answer(generated())
    assert found != engine.answer(generated())


def test_replies_come_in_the_order_of_requests(engine):
    asked = [r for pair in zip(scored(5), generated(40), strict=False) for r in pair]
    order = list(range(len(asked)))
    random.Random(0).shuffle(order)
    expected = engine.answer(asked)
    assert engine.answer([asked[i] for i in order]) == [expected[i] for i in order]
    assert [engine.answer([request])[0] for request in asked] == expected


def test_standard_output_is_left_alone(engine):
    assert engine.printed_by([*scored(2), *generated(4)]) == b""


def test_the_longest_request_that_fits_works_and_a_longer_one_is_refused(engine):
    """vLLM wants room for one token after what it is fed; the last scored token is that one."""
    fits = Request("loglikelihood", "a" * 508, "bcd")  # and <bos>
    (found,), (expected,) = engine.answer([fits]), reference(engine.folder).answer([fits])
    assert found.logprob == pytest.approx(expected.logprob, abs=1e-4)
    with pytest.raises(FitnessError, match="needs 513 tokens: max_model_len is 512"):
        engine.answer([Request("loglikelihood", "a" * 509, "bcd")])
    options = {"max_gen_toks": 11}
    (reply,) = engine.answer([Request("generate", "a" * 500, generation=options)])
    assert reply.tokens <= 11
    with pytest.raises(FitnessError, match="needs 513 tokens: max_model_len is 512"):
        engine.answer([Request("generate", "a" * 501, generation=options)])


def test_a_template_that_writes_the_beginning_does_not_double_it(engine, tmp_path):
    write_task(
        tmp_path,
        "choice",
        {"test": choices(3, 1)},
        output_type="multiple_choice",
        doc_to_text="{{question}}",
        doc_to_choice="choices",
        doc_to_target="label",
        metric_list=[{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    )
    tokenizer = make_tokenizer()
    tokenizer.chat_template = "{{ bos_token }}" + TEMPLATE
    tasks = compile_tasks([TaskSpec("choice", tmp_path, apply_chat_template=True)], tokenizer)
    asked = [request for item in tasks.items("choice") for request in item.requests]
    assert all(request.context.startswith("<bos>") for request in asked)
    engine.answer(asked)
    assert len(engine.asks()) >= 3
    assert all(ask.fed.count(2) == 1 and ask.fed[0] == 2 for ask, _ in engine.asks())
    (written, plain) = (Request("generate", text + "abc:") for text in ("<bos>", ""))
    assert engine.answer([written]) == engine.answer([plain])


def test_an_output_of_other_weights_is_refused(exchanged):
    for request in (scored(1)[0], generated(1)[0]):
        with pytest.raises(WrongWeightsError, match=r"\['first'\], but the candidate is 'second'"):
            exchanged.answer([request], version="second")
        exchanged.label("second")
        assert exchanged.answer([request], version="second")[0].tokens
        exchanged.label("first")


def test_an_output_that_bears_no_version_is_refused():
    with pytest.raises(WrongWeightsError, match=r"versions \[\], but the candidate is 'a'"):
        _check_versions(frozenset(), "a")
    with pytest.raises(WrongWeightsError):
        _check_versions(frozenset({"a", "b"}), "a")


def test_a_candidate_whose_logits_are_not_numbers_is_refused_and_the_next_one_scored(
    exchanged, tmp_path
):
    def break_it(model):
        model.model.norm.weight[3] = float("nan")

    asked = [scored(1)[0], scored(1)[4], generated(1)[0]]
    before = exchanged.answer(asked)
    exchanged.load(make_folder(tmp_path / "broken", change=break_it))
    for request in asked:
        with pytest.raises(FitnessError, match="logits that are not finite"):
            exchanged.answer([request])
    exchanged.load(exchanged.folder)
    assert exchanged.answer(asked) == before


def test_of_equally_likely_tokens_the_lowest_is_greedy(exchanged, tmp_path):
    """As argmax has it. A rank counts all of them, so it is never 1; frequent in bfloat16."""
    twins = make_tokenizer().convert_tokens_to_ids(list("bdfh"))

    def tie(model):
        weight = model.lm_head.weight
        row = weight[twins[0]].clone()
        weight.mul_(0.1)  # so that the twins are the likeliest in half of the places
        weight[twins] = row

    folder = make_folder(tmp_path / "tied", change=tie)
    exchanged.load(folder)
    theirs = reference(folder)
    tails = ["bbb", "bbd", "bdb", "fbb", "hhb", "ddb", "abb", "b", "d"]
    asked = [Request("loglikelihood", c, t) for c in texts(60, 12) for t in tails]
    found, expected = exchanged.answer(asked, cuts=PLAIN), theirs.answer(asked)
    tied = [a for a, one in exchanged.asks() if a.depth > 1]
    assert tied
    assert [r.greedy for r in found] == [r.greedy for r in expected]
    assert any(r.greedy and r.tokens == 3 for r in found)
    assert [r.greedy for r in exchanged.answer(asked)] == [r.greedy for r in expected]


def test_a_model_that_finds_everything_equally_likely_is_scored(exchanged, tmp_path):
    """More ties than vLLM tells of."""
    folder = make_folder(tmp_path / "flat", change=lambda model: model.lm_head.weight.zero_())
    exchanged.load(folder)
    (reply,) = exchanged.answer([Request("loglikelihood", "abc", "abab")])
    assert reply.logprob == pytest.approx(4 * math.log(1 / 26), abs=1e-4)


def test_sampling_is_repeatable_and_independent_of_the_batch(engine):
    options = {"do_sample": True, "temperature": 1.5, "top_p": 0.95, "top_k": 12}
    asked = generated(20, **options)
    together = engine.answer(asked)
    assert engine.answer(asked) == together
    assert [engine.answer([request])[0] for request in asked] == together
    assert engine.answer(generated(20, seed=5, **options)) != together
    greedy = engine.answer(generated(20))
    assert together != greedy
    assert engine.answer(generated(20, **(options | {"top_k": 1}))) == greedy


def test_sampling_follows_the_distribution(engine):
    """3000 seeds of one token against the model's own probabilities, at temperature 2."""
    theirs = reference(engine.folder)
    letters = [t for t in make_tokenizer().get_vocab() if len(t) == 1]
    asked = [Request("loglikelihood", "abc0:", letter) for letter in letters if letter.strip()]
    logprobs = torch.tensor([r.logprob for r in theirs.answer(asked)])
    options = {"do_sample": True, "temperature": 2.0, "max_gen_toks": 1}
    drawn = [
        reply.text
        for reply in engine.answer(
            [Request("generate", "abc0:", generation=options | {"seed": s}) for s in range(3000)]
        )
    ]
    counts = torch.tensor([drawn.count(request.continuation) for request in asked])
    ratio = (logprobs / 2).softmax(-1) - counts / counts.sum()
    assert ratio.abs().max() < 0.04


def test_sampling_parameters_of_the_run_file_reach_generation_only(engine):
    sampling = {"repetition_penalty": 1.8, "min_tokens": 3}
    asked = [*scored(2), *generated(40)]
    plain, changed = engine.answer(asked), engine.answer(asked, sampling=sampling)
    count = len(scored(2))
    assert changed[:count] == plain[:count]
    assert any(r.tokens < 3 for r in plain[count:])
    assert all(r.tokens >= 3 for r in changed[count:])


@pytest.mark.parametrize(
    ("sampling", "message"),
    [
        ({"repetition_penatly": 1.1}, r"repetition_penatly = 1.1.*did you mean 'repetition_penal"),
        ({"temperature": 0.7}, r"sampling.temperature = 0.7: a task says it; put it into"),
        ({"n": 4}, r"sampling.n = 4: not a parameter that a run file sets"),
        ({"prompt_logprobs": 4}, "not a parameter that a run file sets"),
        ({"repetition_penalty": -1.0}, "vLLM refuses them: .*repetition_penalty must be greater"),
    ],
)
def test_sampling_parameters_that_cannot_be_are_refused(engine, sampling, message):
    with pytest.raises(FitnessError, match=message):
        engine.check_sampling(sampling)


def test_parameters_that_only_the_running_engine_can_judge_are_refused_by_it(engine):
    engine.check_sampling({"repetition_penalty": 1.1, "logit_bias": {3: 2.0}})
    with pytest.raises(FitnessError, match=r"vLLM refuses them: .*out-of-vocab"):
        engine.answer(generated(3), sampling={"logit_bias": {4000: 2.0}})
    assert len(engine.answer(generated(3))) == 3
    with pytest.raises(FitnessError, match=r"vLLM refuses them: .*temperature must be in"):
        engine.answer(generated(3, do_sample=True, temperature=3.0))


def test_the_module_of_scoring_is_imported_without_vllm():
    """vLLM reads its environment when it is imported, so the engine has to set it first."""
    code = "import sys, fitness.engines.vllm.scoring\nprint('vllm' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


def test_losses_equal_those_of_transformers(engine, task_folder):  # noqa: F811
    """Items that generate and are scored at once: the prompt is shared, its answer scored."""
    specs = [TaskSpec(name, task_folder, loss=True) for name in ("extract", "choice")]
    tasks = compile_tasks(specs)
    items = [item for name in tasks.names for item in tasks.items(name)[:15]]
    asked = [request for item in items for request in item.requests]

    def responses(answering):
        replies = iter(answering.answer(asked))
        return tasks.score(items, [[next(replies) for _ in item.requests] for item in items])

    found, expected = responses(engine), responses(reference(engine.folder))
    assert [r.loss for r in found] == pytest.approx([r.loss for r in expected], abs=1e-4)
    assert all(r.loss > 0 for r in found)
    assert [r.score for r in found] == [r.score for r in expected]

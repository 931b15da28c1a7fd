"""The reference: lm-eval's own evaluation of the same model on the same tasks."""

import pytest
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import AutoModelForCausalLM, AutoTokenizer

from fitness.engines.transformers import TransformersEngine
from fitness.estimate import mean_estimate
from fitness.items import Request
from fitness.tasks import TaskSpec, compile_tasks

from .conftest import FolderWeights

SEED = 7
CASES = {
    "choice": {},
    "letters": {},
    "extract": {},
    "shots": {},
    "shots in turns": {"apply_chat_template": True, "fewshot_as_multiturn": True},
    "choice as chat": {"apply_chat_template": True, "system_instruction": "abc"},
}


@pytest.fixture(params=CASES)
def case(request):
    return request.param.split()[0], CASES[request.param]


@pytest.fixture
def reference(case, folders, task_folder, monkeypatch):
    """What lm-eval finds, run where its relative paths lead."""
    name, options = case
    where = next(task_folder.glob(f"**/{name}.yaml")).parent
    monkeypatch.chdir(where)
    model = AutoModelForCausalLM.from_pretrained(folders[0])
    tokenizer = AutoTokenizer.from_pretrained(folders[0])
    found = simple_evaluate(
        model=HFLM(pretrained=model, tokenizer=tokenizer, batch_size=4, device="cpu"),
        tasks=[name],
        task_manager=TaskManager(include_path=str(task_folder), include_defaults=False),
        fewshot_random_seed=SEED,
        bootstrap_iters=0,
        log_samples=True,
        **options,
    )
    monkeypatch.undo()
    return found


def continuation(request):
    """What lm-eval's second argument is: the text to score, or the options of generation."""
    if request.kind == "loglikelihood":
        return request.continuation
    return {key: request.generation[key] for key in ("until", "max_gen_toks")}


def test_prompts_replies_and_scores_equal_lm_evals(case, reference, folders, task_folder):
    name, options = case
    engine = TransformersEngine(folders[0], FolderWeights(), device="cpu", batch_tokens=300)
    engine.load(folders[0])
    tasks = compile_tasks([TaskSpec(name, task_folder, **options)], engine.tokenizer, SEED)
    items = tasks.items(name)
    replies = [engine.answer(item.requests) for item in items]
    responses = tasks.score(items, replies)

    first_filter = "digit" if name == "extract" else "none"
    samples = sorted(
        (s for s in reference["samples"][name] if s["filter"] == first_filter),
        key=lambda s: s["doc_id"],
    )
    assert len(items) == len(samples) >= 30
    for item, sample, answers, response in zip(items, samples, replies, responses, strict=True):
        assert [r.context for r in item.requests] == [args[0] for args in sample["arguments"]]
        assert [continuation(r) for r in item.requests] == [args[1] for args in sample["arguments"]]
        assert response.score == sample[tasks.metric(name)]
        for request, reply, theirs in zip(item.requests, answers, sample["resps"], strict=True):
            if request.kind == "generate":
                assert reply.text == theirs[0]
            else:
                assert reply.logprob == pytest.approx(theirs[0][0], abs=1e-4)
                assert reply.greedy == theirs[0][1]
    full = mean_estimate([r.score for r in responses], len(items))
    theirs = reference["results"][name][f"{tasks.metric(name)},{first_filter}"]
    assert (full.value, full.se) == (pytest.approx(theirs), 0.0)


def test_empty_context_and_trailing_spaces_are_tokenised_as_lm_eval_does(folders):
    pairs = [
        *(("", "abc"), ("ab  ", "cd"), ("ab", " cd")),
        *(("<bos>ab", "c"), ("", "<bos>a"), ("a\n", "b")),
    ]
    reference = HFLM(
        pretrained=AutoModelForCausalLM.from_pretrained(folders[1]),
        tokenizer=AutoTokenizer.from_pretrained(folders[1]),
        device="cpu",
    )
    # One at a time: lm-eval 0.4.13 scores the wrong position when two requests of a call have the
    # same tokens split in different places, as the first and the fourth have.
    theirs = [
        reference.loglikelihood([Instance("loglikelihood", {}, pair, 0)], disable_tqdm=True)[0]
        for pair in pairs
    ]
    engine = TransformersEngine(folders[1], FolderWeights(), device="cpu")
    engine.load(folders[1])
    ours = engine.answer([Request("loglikelihood", *pair) for pair in pairs])
    assert [r.logprob for r in ours] == pytest.approx([logprob for logprob, _ in theirs], abs=1e-4)
    assert [r.greedy for r in ours] == [greedy for _, greedy in theirs]

"""The reference: lm-eval's own class for vLLM, on the same running engine and the same items.

The architecture is another than in `test_scoring`, its embeddings are tied.
"""

import pytest

from fitness.tasks import TaskSpec, compile_tasks

from ..fitness.conftest import make_tokenizer, task_folder  # noqa: F401 (a fixture)
from .score import Served, make_folder, without_special_tokens

SEED = 7
OPTIONS = {
    # The class samples at temperature 1 where neither is said (lm-eval 0.4.13), HFLM does not.
    "extract": {"generation": {"do_sample": False}},
    "choice": {"apply_chat_template": True, "system_instruction": "abc" * 30},
    "shots": {
        "apply_chat_template": True,
        "fewshot_as_multiturn": True,
        "generation": {"do_sample": False},
    },
}
TASKS = ["choice", "letters", "extract", "shots"]


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    served = Served(make_folder(folder, kind="granite", tie_word_embeddings=True))
    yield served
    served.close()


@pytest.fixture(scope="module")
def reference(engine, task_folder):  # noqa: F811
    return engine.lm_eval(engine.folder, task_folder, TASKS, SEED, OPTIONS)


@pytest.mark.parametrize("task", TASKS)
def test_replies_equal_lm_evals(engine, reference, task_folder, task):  # noqa: F811
    spec = TaskSpec(task, task_folder, **OPTIONS.get(task, {}))
    items = compile_tasks([spec], make_tokenizer(), SEED).items(task)
    asked = [request for item in items for request in item.requests]
    replies = iter(engine.answer(asked))
    first = "digit" if task == "extract" else "none"
    samples = [sample for sample in reference[task] if sample["filter"] == first]
    samples.sort(key=lambda sample: sample["doc_id"])
    assert len(items) == len(samples) >= 30
    for item, sample in zip(items, samples, strict=True):
        assert [r.context for r in item.requests] == [args[0] for args in sample["arguments"]]
        for request, theirs in zip(item.requests, sample["resps"], strict=True):
            reply = next(replies)
            if request.kind == "generate":
                assert reply.text == without_special_tokens(theirs[0])
            else:
                assert reply.logprob == theirs[0][0]  # to the bit: float32 on the CPU
                assert reply.greedy == theirs[0][1]

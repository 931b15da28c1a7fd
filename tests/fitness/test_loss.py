"""Teacher-forced losses: against the model's own cross entropy, and beside unchanged scores."""

import json
import math

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.losses import answers, picks
from fitness.engines.transformers import TransformersEngine
from fitness.errors import FitnessError
from fitness.items import Reply
from fitness.tasks import TaskSpec, compile_tasks
from tests.conftest import QUICKSTART

from .conftest import FolderWeights, choices, exact_match, make_tokenizer, questions, write_task

BASE = QUICKSTART / "models" / "base"
TASKS = QUICKSTART / "tasks"


def compiled(name, folder=TASKS, **options):
    return compile_tasks([TaskSpec(name, folder, loss=True, **options)])


@pytest.fixture(scope="module")
def base():
    engine = TransformersEngine(BASE, FolderWeights(), device="cpu", dtype="float32")
    engine.load(BASE)
    return engine


def answered(engine, tasks, items):
    replies = iter(engine.answer([request for item in items for request in item.requests]))
    return tasks.score(items, [[next(replies) for _ in item.requests] for item in items])


@pytest.mark.parametrize("name", ["lunari_words", "sums", "lunari_words_mc"])
def test_the_loss_is_the_cross_entropy_of_the_gold_answer(base, name):
    tasks = compiled(name)
    items = tasks.items(name)[:12]
    model = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    rows = (TASKS / f"{name}.jsonl").read_text().splitlines()[:12]
    for found, row in zip(answered(base, tasks, items), rows, strict=True):
        doc = json.loads(row)
        gold = doc["choices"][doc["label"]] if "choices" in doc else doc["answer"]
        prompt = tokenizer(doc["prompt"], return_tensors="pt")["input_ids"]
        whole = tokenizer(doc["prompt"] + gold, return_tensors="pt")["input_ids"]
        labels = whole.clone()
        labels[:, : prompt.shape[1]] = -100
        with torch.inference_mode():
            expected = model(input_ids=whole, labels=labels).loss.item()
        assert found.loss == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", ["lunari_words", "lunari_words_mc"])
def test_scores_are_what_they_are_without_a_loss(base, name):
    plain = compile_tasks([TaskSpec(name, TASKS)])
    with_loss = compiled(name)
    one = answered(base, plain, plain.items(name)[:20])
    two = answered(base, with_loss, with_loss.items(name)[:20])
    assert all(r.loss is None for r in one)
    assert all(r.loss > 0 for r in two)
    fields = ("task", "index", "score", "tokens", "truncated", "parse_failure")
    assert [[getattr(r, f) for f in fields] for r in one] == [
        [getattr(r, f) for f in fields] for r in two
    ]


def test_an_item_changes_only_where_a_loss_is_asked_for():
    names = ("lunari_words", "lunari_words_mc")
    plain = compile_tasks([TaskSpec(name, TASKS) for name in names])
    mixed = compile_tasks([TaskSpec(names[0], TASKS), TaskSpec(names[1], TASKS, loss=True)])
    assert plain.items(names[0]) == mixed.items(names[0])
    # Multiple choice is asked the same, but the response says more: another digest.
    pairs = list(zip(plain.items(names[1]), mixed.items(names[1]), strict=True))
    assert all(a.requests == b.requests and a.digest != b.digest for a, b in pairs)
    both = compiled(names[0]).items(names[0])
    for a, b in zip(plain.items(names[0]), both, strict=True):
        assert b.requests[:-1] == a.requests
        assert a.digest != b.digest
    assert plain.questions(names[0]) == compiled(names[0]).questions(names[0])


def test_the_gold_answer_stands_where_a_few_shot_example_has_it(task_folder):
    tasks = compiled("shots", task_folder)
    request = tasks.items("shots")[0].requests[-1]
    assert (request.kind, request.continuation) == (
        "loglikelihood", " " + questions(30, 5, "abcd")[0]["answer"],
    )  # fmt: skip
    example = request.context.split("\n\n")[0]
    assert example[-2] == " "  # the delimiter, before a one-letter answer
    assert request.context == tasks.items("shots")[0].requests[0].context


def test_a_chat_has_no_delimiter(task_folder):
    spec = TaskSpec("extract", task_folder, loss=True, apply_chat_template=True)
    request = compile_tasks([spec], make_tokenizer()).items("extract")[0].requests[-1]
    assert request.continuation == questions(40, 3)[0]["answer"]
    assert request.context.endswith("<a>")


def test_the_loss_of_multiple_choice_is_that_of_the_gold_choice(task_folder):
    tasks = compiled("choice", task_folder)
    replies = [[Reply(logprob=-6.0 * (k + 1), tokens=k + 1) for k in range(4)] for _ in range(40)]
    replies[0][1] = Reply(logprob=-1.5, tokens=3)
    labels = [doc["label"] for doc in choices(40, 1)]
    found = tasks.score(tasks.items("choice"), replies)
    assert [r.loss for r in found[1:]] == [6.0] * 39
    assert found[0].loss == (0.5 if labels[0] == 1 else 6.0)
    replies = [[Reply(logprob=-float(k + 1), tokens=1) for k in range(4)] for _ in range(40)]
    found = tasks.score(tasks.items("choice"), replies)
    assert [r.loss for r in found] == [label + 1 for label in labels]


MULTIPLE = {
    "output_type": "multiple_choice",
    "doc_to_text": "{{question}}",
    "doc_to_choice": "choices",
    "doc_to_target": "label",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
}


def test_the_gold_choice_may_be_named_or_one_of_several(tmp_path):
    docs = choices(3, 1)
    for doc in docs:
        doc["choices"] = ["aa", "bb", "cc", "dd"]
        doc["label"] = "cc"
    write_task(tmp_path, "named", {"test": docs}, **MULTIPLE)
    several = [doc | {"label": [3, 1]} for doc in docs]
    write_task(tmp_path, "several", {"test": several}, **MULTIPLE)
    reply = [Reply(logprob=-float(k), tokens=1) for k in range(4)]
    for name, loss in (("named", 2.0), ("several", 3.0)):
        tasks = compiled(name, tmp_path)
        assert tasks.score(tasks.items(name)[:1], [reply])[0].loss == loss


def test_several_prompts_for_one_continuation(tmp_path):
    """As in winogrande: the text is the number of the right choice, the choices are prompts."""
    docs = [{"options": ["ab", "cd"], "right": right, "rest": "gh"} for right in (1, 0, 1)]
    (tmp_path / "code.py").write_text(
        "def text(doc): return doc['right']\n"
        "def choice(doc): return doc['options']\n"
        "def target(doc): return doc['rest']\n"
    )
    functions = {
        f"doc_to_{name}": f"!function code.{name}" for name in ("text", "choice", "target")
    }
    write_task(tmp_path, "prompts", {"test": docs}, **MULTIPLE | functions)
    path = tmp_path / "prompts.yaml"
    path.write_text(path.read_text().replace("'", ""))
    tasks = compiled("prompts", tmp_path)
    reply = [Reply(logprob=-1.0, tokens=1), Reply(logprob=-2.0, tokens=1)]
    found = tasks.score(tasks.items("prompts"), [reply] * 3)
    assert [(r.score, r.loss) for r in found] == [(0.0, 2.0), (1.0, 1.0), (0.0, 2.0)]


def test_of_several_targets_the_first_is_gold(tmp_path):
    docs = [doc | {"answer": ["ab", "cd"]} for doc in questions(3, 1)]
    write_task(tmp_path, "many", {"test": docs}, **exact_match(doc_to_target="answer"))
    item = compiled("many", tmp_path).items("many")[0]
    assert item.requests[-1].continuation == " ab"


BROKEN = [
    (
        exact_match(),
        {"answer": " "},
        r"target of document 2: it says no right answer .*an empty text",
    ),
    (
        exact_match(doc_to_target="answer"),
        {"answer": None},
        "target of document 2: .*an empty text",
    ),
    (
        MULTIPLE,
        {"label": 4},
        "target of document 2: .*4 is none of the 4 choices.*leave the task out",
    ),
    (
        MULTIPLE,
        {"label": -1},
        "task 'mine': the target of document 2: .*-1 is none of the 4 choices",
    ),
]


@pytest.mark.parametrize(("config", "change", "message"), BROKEN)
def test_a_document_that_does_not_say_what_is_right(tmp_path, config, change, message):
    docs = choices(4, 1)
    docs[2] |= change
    write_task(tmp_path, "mine", {"test": docs}, **config)
    compile_tasks([TaskSpec("mine", tmp_path)])
    with pytest.raises(FitnessError, match=message):
        compiled("mine", tmp_path)


def test_blank_replies_have_a_loss_too(task_folder):
    tasks = compile_tasks([TaskSpec(n, task_folder, loss=True) for n in ("extract", "choice")])
    items = [*tasks.items("extract")[:2], *tasks.items("choice")[:2]]
    found = tasks.score(items, tasks.blank_replies(items))
    assert all(math.isfinite(r.loss) for r in found)


def test_few_losses_pick_a_better_merge_than_few_scores():
    for scores, losses in answers(8).values():
        by = picks(scores, losses, 5, 200)
        assert by["loss"] > by["score"]

import itertools
import json
import os
import pickle
import random
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from fitness.engines.transformers import TransformersEngine
from fitness.errors import FitnessError
from fitness.items import Reply
from fitness.splits import SplitSizes, deal
from fitness.tasks import TaskSpec, compile_tasks

from .conftest import FolderWeights, choices, exact_match, make_tokenizer, questions, write_task


def says(text: str, tokens: int = 3) -> list[Reply]:
    return [Reply(text=text, tokens=tokens)]


def one(folder, name="mine", **options):
    return compile_tasks([TaskSpec(name, folder, **options)])


def test_items_are_the_tasks_documents_in_order(task_folder):
    tasks = compile_tasks([TaskSpec("extract", task_folder), TaskSpec("choice", task_folder)])
    assert tasks.names == ("extract", "choice")
    docs = questions(40, 3)
    assert [item.index for item in tasks.items("extract")] == list(range(40))
    assert [i.requests[0].context for i in tasks.items("extract")] == [d["question"] for d in docs]
    assert len({item.digest for item in tasks.items("extract")}) == 40
    assert {len(item.requests) for item in tasks.items("choice")} == {4}
    assert (tasks.metric("extract"), tasks.metric("choice")) == ("exact_match", "acc")
    assert tasks.higher_is_better("choice") is True


def test_the_first_filter_finds_answers_and_says_when_it_does_not(task_folder):
    tasks = compile_tasks([TaskSpec("extract", task_folder)])
    items = tasks.items("extract")[:4]
    right = [doc["answer"] for doc in questions(40, 3)]
    replies = [says(f"ab {right[0]} x"), says("ab"), says(""), says("0")]
    found = tasks.score(items, replies)
    assert [r.score for r in found] == [1.0, 0.0, 0.0, float(right[3] == "0")]
    assert [r.parse_failure for r in found] == [False, True, True, False]
    assert [r.tokens for r in found] == [3, 3, 3, 3]
    cut = tasks.score(items[:1], [[Reply(text="a", tokens=9, truncated=True)]])[0]
    assert (cut.truncated, cut.tokens, cut.task, cut.index) == (True, 9, "extract", 0)


def test_another_filter_can_be_chosen(task_folder):
    whole = compile_tasks([TaskSpec("extract", task_folder, filter="whole")])
    answer = questions(40, 3)[0]["answer"]
    found = whole.score(whole.items("extract")[:1] * 2, [says(f"ab {answer}"), says(answer)])
    assert [r.score for r in found] == [0.0, 1.0]
    assert not found[0].parse_failure


@pytest.mark.parametrize("metric", ["acc", "acc_norm"])
def test_metrics_of_multiple_choice(task_folder, metric):
    """`acc` goes by a choice's log probability, `acc_norm` by that per letter."""
    tasks = compile_tasks([TaskSpec("choice", task_folder, metric=metric)])
    docs = choices(40, 1)
    draw = random.Random(5)
    differ = 0
    for item, doc in zip(tasks.items("choice"), docs, strict=True):
        sums = [-draw.uniform(1, 9) for _ in range(4)]
        letters = [len(text) for text in doc["choices"]]
        best = {
            "acc": max(range(4), key=lambda k: sums[k]),
            "acc_norm": max(range(4), key=lambda k: sums[k] / letters[k]),
        }
        differ += best["acc"] != best["acc_norm"]
        (found,) = tasks.score([item], [[Reply(logprob=s, tokens=2) for s in sums]])
        assert found.score == float(best[metric] == doc["label"])
        assert (found.tokens, found.truncated, found.parse_failure) == (0, False, False)
    assert differ > 5


def test_responses_come_back_in_order_whatever_the_mixture(task_folder):
    tasks = compile_tasks([TaskSpec("extract", task_folder), TaskSpec("choice", task_folder)])
    items = [*tasks.items("extract")[:6], *tasks.items("choice")[:6]]
    random.Random(0).shuffle(items)
    replies = [
        says("1") if item.task == "extract" else [Reply(logprob=-k) for k in range(4)]
        for item in items
    ]
    found = tasks.score(items, replies)
    assert [(r.task, r.index) for r in found] == [(i.task, i.index) for i in items]
    alone = [tasks.score([i], [r])[0] for i, r in zip(items, replies, strict=True)]
    assert found == alone


SCRIPT = """
import sys, json
from pathlib import Path
from fitness.tasks import TaskSpec, compile_tasks
tasks = compile_tasks([TaskSpec(n, Path(sys.argv[1])) for n in ("shots", "letters")], seed=3)
print(json.dumps([i.digest for n in tasks.names for i in tasks.items(n)]))
"""


def test_nothing_depends_on_the_cwd_the_process_or_the_network(task_folder, tmp_path):
    root = str(Path(__file__).parent.parent.parent)
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    runs = [
        subprocess.run(
            [sys.executable, "-c", SCRIPT, str(task_folder)],
            cwd=cwd,
            env=os.environ | extra | {"PYTHONPATH": root, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        for cwd, extra, seed in ((tmp_path, {}, "1"), (task_folder, offline, "2"))
    ]
    specs = [TaskSpec(name, task_folder) for name in ("letters", "shots")]
    here = compile_tasks(specs, seed=3)
    digests = [item.digest for name in ("shots", "letters") for item in here.items(name)]
    # Standard output holds the answer and nothing of lm-eval's.
    assert [json.loads(run.stdout) for run in runs] == [digests, digests]
    assert not any("examples/s" in run.stderr or "it/s" in run.stderr for run in runs)


def test_another_seed_draws_other_examples(task_folder):
    first, same, other = (
        compile_tasks([TaskSpec("shots", task_folder)], seed=seed).items("shots")
        for seed in (1, 1, 2)
    )
    assert first == same
    assert first != other
    assert [i.requests[0].context.split("\n")[0] for i in first] == ["ab?"] * 30


def test_fewer_examples_and_fewer_tokens_can_be_asked_for(task_folder):
    spec = TaskSpec("shots", task_folder, num_fewshot=0, generation={"max_gen_toks": 3})
    tasks = compile_tasks([spec])
    request = tasks.items("shots")[0].requests[0]
    assert request.context == "ab?\n" + questions(30, 5, "abcd")[0]["question"]
    assert request.generation["max_gen_toks"] == 3
    assert request.generation["until"] == ["\n", "?:"]
    usual = compile_tasks([TaskSpec("shots", task_folder)]).items("shots")[0]
    assert usual.digest != tasks.items("shots")[0].digest


def test_included_yaml_and_data_in_another_folder(tmp_path):
    (tmp_path / "base").mkdir()
    (tmp_path / "mine").mkdir()
    write_task(tmp_path / "base", "parent", {"test": questions(5, 0)}, **exact_match())
    (tmp_path / "mine" / "child.yaml").write_text("include: ../base/parent.yaml\ntask: child\n")
    assert len(one(tmp_path / "mine", "child").items("child")) == 5


def test_a_list_of_files_and_a_glob(tmp_path):
    write_task(
        tmp_path, "mine", {"test": questions(5, 0), "more": questions(4, 1)}, **exact_match()
    )
    for files, count in ((["mine-test.jsonl", "mine-more.jsonl"], 9), ("mine-*.jsonl", 9)):
        edit(tmp_path, dataset_kwargs={"data_files": {"test": files}})
        assert len(one(tmp_path).items("mine")) == count


def test_a_task_that_shuffles_gives_the_same_items_everywhere(tmp_path):
    """gpqa shuffles its choices with Python's global generator."""
    (tmp_path / "shuffle.py").write_text(
        "import random\n"
        "def docs(dataset):\n"
        "    return dataset.select(random.sample(range(len(dataset)), len(dataset)))\n"
    )
    write_task(tmp_path, "mine", {"test": questions(30, 0)}, **exact_match())
    path = tmp_path / "mine.yaml"
    path.write_text(path.read_text() + "process_docs: !function shuffle.docs\n")
    random.seed(99)
    first = one(tmp_path).items("mine")
    after = random.random()
    random.seed(99)
    assert random.random() == after, "the global generator must be left as it was"
    assert one(tmp_path).items("mine") == first
    assert [i.requests[0].context for i in first] != [d["question"] for d in questions(30, 0)]


def edit(folder, **changes):
    path = folder / "mine.yaml"
    content = yaml.safe_load(path.read_text()) | changes
    path.write_text(yaml.safe_dump({k: v for k, v in content.items() if v is not None}))


BAD = [
    ({"output_type": "loglikelihood_rolling"}, {}, "'mine': its output_type is loglikelihood_roll"),
    ({"output_type": "guess"}, {}, "lm-eval refuses it: ValueError: Got invalid output_type"),
    ({"doc_to_text": "{{question"}, {}, "lm-eval refuses it: TemplateSyntaxError"),
    ({"test_split": "final"}, {}, "lm-eval refuses it: KeyError: 'final'"),
    ({"repeats": 5}, {}, "it asks every question 5 times"),
    ({"unsafe_code": True}, {}, "it runs code that the model wrote"),
    (
        {"dataset_kwargs": {"data_files": {"test": "no.jsonl"}}},
        {},
        "data file 'no.jsonl': there is",
    ),
    ({"num_fewshot": 0}, {"num_fewshot": 2}, "num_fewshot = 2: the task's file fixes it to 0"),
    (
        {"fewshot_split": "train"},
        {"num_fewshot": 50},
        "document 0: task 'mine': lm-eval refuses it: ValueError: Sample larger",
    ),
    ({}, {"num_fewshot": 2}, "num_fewshot = 2: its examples come from the evaluated split 'test'"),
    ({"num_fewshot": 1, "fewshot_split": "test"}, {}, "prompts would quote test items"),
    (
        {"test_split": None, "validation_split": "test"},
        {"num_fewshot": 1},
        "prompts would quote test items",
    ),
    ({}, {"metric": "exact_mach"}, "metric 'exact_mach': unknown; did you mean 'exact_match'"),
    ({}, {"filter": "strict"}, "filter 'strict': unknown; use one of: none"),
    ({"metric_list": [{"metric": "bleu"}]}, {}, "metric 'bleu': it is no number per item"),
    ({}, {"apply_chat_template": True}, "tokenizer has no chat template"),
    ({}, {"fewshot_as_multiturn": True}, "turns need a chat template"),
]


@pytest.mark.parametrize(("changes", "options", "message"), BAD)
def test_what_is_wrong_with_a_task_is_said_in_one_line(tmp_path, changes, options, message):
    rows = {"test": questions(5, 0), "train": questions(5, 1)}
    write_task(tmp_path, "mine", rows, **exact_match())
    edit(tmp_path, **changes)
    with pytest.raises(FitnessError) as caught:
        one(tmp_path, **options)
    assert message in str(caught.value)
    assert "mine" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_misspelt_task_and_a_missing_folder(task_folder):
    with pytest.raises(FitnessError, match="task 'extrakt': unknown; did you mean 'extract'"):
        one(task_folder, "extrakt")
    with pytest.raises(FitnessError, match=r"include = .*absent: there is no such folder"):
        one(task_folder / "absent", "extract")


def test_lm_evals_own_tasks_are_found_without_indexing_them_all():
    from fitness.lmeval_files import task_file

    assert task_file("gsm8k", None).parts[-2:] == ("gsm8k", "gsm8k.yaml")
    for group in ("mmlu", "ai2_arc"):
        with pytest.raises(FitnessError, match=f"'{group}': it is a group of tasks"):
            task_file(group, None)
    with pytest.raises(FitnessError, match="task 'gsm8q': unknown; did you mean 'gsm8k'"):
        compile_tasks([TaskSpec("gsm8q")])


def test_a_file_that_cannot_be_read(tmp_path):
    (tmp_path / "mine.yaml").write_text("task: mine\n  output_type: [\n")
    with pytest.raises(FitnessError, match=r"mine.yaml: task 'mine': lm-eval refuses it: \w+Error"):
        one(tmp_path)


def test_two_files_of_one_name_and_groups(tmp_path):
    write_task(tmp_path, "mine", {"test": questions(5, 0)}, **exact_match())
    (tmp_path / "group.yaml").write_text("group: both\ntask: [mine]\n")
    with pytest.raises(FitnessError, match="'both': it is a group of tasks"):
        one(tmp_path, "both")
    (tmp_path / "other.yaml").write_text((tmp_path / "mine.yaml").read_text())
    with pytest.raises(FitnessError, match=r"declared by .*mine.yaml and .*other.yaml"):
        one(tmp_path)


@pytest.mark.parametrize("content", ["", " \n"])
def test_a_task_without_items(tmp_path, content):
    write_task(tmp_path, "mine", {"test": questions(5, 0)}, **exact_match())
    (tmp_path / "mine-test.jsonl").write_text(content)
    with pytest.raises(FitnessError, match="task 'mine': a task without items; add documents"):
        one(tmp_path)


def test_a_task_whose_own_code_drops_every_item(tmp_path):
    (tmp_path / "drop.py").write_text("def docs(dataset):\n    return dataset.select([])\n")
    write_task(tmp_path, "mine", {"test": questions(5, 0)}, **exact_match())
    path = tmp_path / "mine.yaml"
    path.write_text(path.read_text() + "process_docs: !function drop.docs\n")
    with pytest.raises(FitnessError, match="task 'mine': a task without items"):
        one(tmp_path)


def test_a_question_asked_twice_is_one_item_of_the_splits(tmp_path):
    docs = questions(5, 0)
    write_task(tmp_path, "mine", {"test": [*docs, docs[3]]}, **exact_match())
    tasks = one(tmp_path)
    assert len(tasks.items("mine")) == 6
    assert [item.index for item in tasks.distinct("mine")] == [0, 1, 2, 3, 4]


OTHERS = [
    {"training_split": "more"},
    {"validation_split": "more"},
    {"fewshot_split": "more"},
    {"fewshot_config": {"samples": questions(3, 1)}},
]


@pytest.mark.parametrize("source", OTHERS)
def test_examples_from_elsewhere_quote_no_test_item(tmp_path, source):
    docs = questions(5, 0)
    rows = {"test": docs, "more": questions(3, 1)}
    write_task(tmp_path, "mine", rows, **exact_match(num_fewshot=2, **source))
    for item, doc in zip(one(tmp_path).items("mine"), docs, strict=True):
        quoted = [d["question"] in item.requests[0].context for d in docs]
        assert sum(quoted) == 1
        assert item.requests[0].context.endswith(doc["question"])


def test_no_examples_need_no_other_split(tmp_path):
    write_task(tmp_path, "mine", {"test": questions(5, 0)}, **exact_match(num_fewshot=2))
    assert len(one(tmp_path, num_fewshot=0).items("mine")) == 5


def test_two_forms_of_a_question_are_equal_and_dealt_alike(tmp_path):
    """Such as lunari_words and lunari_words_mc: one could search on what the other tests on."""
    docs = choices(30, 4)
    spaced = "{{question[:1]}} {{question[1:]}}"
    write_task(tmp_path, "open", {"test": docs}, **exact_match(doc_to_text=spaced))
    multiple = {
        "output_type": "multiple_choice",
        "doc_to_text": "{{question[:1]}}\n  {{question[1:]}}\n",
        "doc_to_choice": "choices",
        "doc_to_target": "label",
    }
    write_task(tmp_path, "closed", {"test": docs[::-1]}, **multiple)
    framed = exact_match(doc_to_text=f"ab: {spaced}\nc:")
    write_task(tmp_path, "framed", {"test": docs[5:]}, **framed)
    specs = [TaskSpec(name, tmp_path) for name in ("open", "closed", "framed")]
    tasks = compile_tasks(specs)
    assert len(set(tasks.questions("open"))) == 30
    assert tasks.questions("closed") == tasks.questions("open")[::-1]
    assert tasks.questions("framed") == tasks.questions("open")[5:]
    assert compile_tasks(specs[::-1]).questions("open") == tasks.questions("open")

    asked = {name: tasks.questions(name) for name in tasks.names}
    sizes = {"open": SplitSizes(5, 5), "closed": SplitSizes(10, 5, 5), "framed": SplitSizes(3, 7)}
    dealt = deal(asked, sizes, 0)
    used = {
        split: {asked[name][i] for name in asked for i in getattr(dealt[name], split)}
        for split in ("search", "selection", "test")
    }
    assert len(set.union(*used.values())) == sum(map(len, used.values()))


def test_choices_are_the_question_where_the_text_says_nothing(tmp_path):
    """As in blimp: one text for all would make them one question, of one split."""
    multiple = {
        "output_type": "multiple_choice",
        "doc_to_text": "ab?",
        "doc_to_choice": "choices",
        "doc_to_target": "label",
    }
    write_task(tmp_path, "mine", {"test": choices(20, 0)}, **multiple)
    assert len(set(one(tmp_path).questions("mine"))) == 20
    edit(tmp_path, doc_to_text="")
    assert len(set(one(tmp_path).questions("mine"))) == 20


def test_blank_replies_can_be_scored(task_folder):
    tasks = compile_tasks([TaskSpec(name, task_folder) for name in ("extract", "choice")])
    items = [*tasks.items("extract")[:2], *tasks.items("choice")[:2]]
    blank = tasks.blank_replies(items)
    assert blank[0] == [Reply(text="", tokens=1)]
    assert blank[2] == [Reply(logprob=-1.0, tokens=1)] * 4
    found = tasks.score(items, blank)
    assert [(r.score, r.tokens, r.parse_failure) for r in found[:2]] == [(0.0, 1, True)] * 2
    assert [r.tokens for r in found[2:]] == [0, 0]


def digests(folder, **options):
    return [item.digest for item in one(folder, **options).items("mine")]


def test_other_scoring_gives_other_digests(tmp_path):
    """A run resumed with another metric, filter or scoring code mixed scores of both."""
    pipelines = [
        {"name": name, "filter": [{"function": "regex", "regex_pattern": pattern}, take]}
        for take in [{"function": "take_first"}]
        for name, pattern in (("digit", "([0-3])"), ("letter", "([a-d])"))
    ]
    write_task(tmp_path, "mine", {"test": choices(5, 0)}, **exact_match(filter_list=pipelines))
    first = digests(tmp_path)
    assert digests(tmp_path) == first
    seen = [first, digests(tmp_path, filter="letter")]
    pipelines[0]["filter"][0]["regex_pattern"] = "([0-2])"
    edit(tmp_path, filter_list=pipelines)
    seen.append(digests(tmp_path))
    metric = {"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}
    edit(tmp_path, metric_list=[metric | {"ignore_case": True}])
    seen.append(digests(tmp_path))
    edit(
        tmp_path,
        output_type="multiple_choice",
        doc_to_choice="choices",
        doc_to_target="label",
        generation_kwargs=None,
        filter_list=None,
        metric_list=[{**metric, "metric": name} for name in ("acc", "acc_norm")],
    )
    seen += [digests(tmp_path), digests(tmp_path, metric="acc_norm")]
    for one_way, other in itertools.combinations(seen, 2):
        assert not set(one_way) & set(other)


def test_other_scoring_code_gives_other_digests(tmp_path):
    """Helpers beside the scoring function count too, and so does all it sees of the document."""
    code = "return {'points': float(results[0] > LIMIT)}"
    with_scoring(tmp_path, code)
    scoring = tmp_path / "scoring.py"
    source = scoring.read_text()
    seen = []
    for limit in ("a", "b"):
        scoring.write_text(f"LIMIT = '{limit}'\n{source}")
        seen.append(digests(tmp_path))
    docs = [doc | {"hint": "c"} for doc in questions(5, 0)]
    (tmp_path / "mine-test.jsonl").write_text("".join(json.dumps(doc) + "\n" for doc in docs))
    seen.append(digests(tmp_path))
    assert len({digest for some in seen for digest in some}) == 15
    assert digests(tmp_path) == seen[-1]


def test_another_metric_function_gives_other_digests(tmp_path):
    write_task(tmp_path, "mine", {"test": questions(5, 0)}, **exact_match(metric_list=None))
    edit(tmp_path, metric_list=None)
    path = tmp_path / "mine.yaml"
    path.write_text(
        path.read_text() + "metric_list:\n- metric: !function own.points\n"
        "  aggregation: mean\n  higher_is_better: true\n"
    )
    seen = []
    for value in (0.25, 0.75):
        (tmp_path / "own.py").write_text(
            f"def points(references, predictions):\n    return {value}\n"
        )
        tasks = one(tmp_path)
        assert tasks.score(tasks.items("mine")[:1], [says("a")])[0].score == value
        seen += [item.digest for item in tasks.items("mine")]
    assert len(set(seen)) == 10


def test_a_task_asked_for_twice(task_folder):
    with pytest.raises(FitnessError, match="task 'choice': it is asked for twice"):
        compile_tasks([TaskSpec("choice", task_folder)] * 2)


def test_generation_options_for_a_task_that_generates_nothing(task_folder):
    with pytest.raises(FitnessError, match=r"task 'choice': generation = .*generates nothing"):
        one(task_folder, "choice", generation={"max_gen_toks": 3})


def with_scoring(folder, code):
    (folder / "scoring.py").write_text(f"def judge(doc, results):\n    {code}\n")
    write_task(
        folder,
        "mine",
        {"test": questions(5, 0)},
        **exact_match(
            metric_list=[{"metric": "points", "aggregation": "mean", "higher_is_better": False}]
        ),
    )
    path = folder / "mine.yaml"
    path.write_text(path.read_text() + "process_results: !function scoring.judge\n")


def test_a_tasks_own_scoring(tmp_path):
    with_scoring(tmp_path, "return {'points': len(results[0]) / 10 > 0.2}")
    tasks = one(tmp_path)
    assert tasks.metric("mine") == "points"
    assert tasks.higher_is_better("mine") is False
    items = tasks.items("mine")[:2]
    assert [r.score for r in tasks.score(items, [says("abc"), says("a")])] == [1.0, 0.0]


def test_a_metric_outside_its_range(tmp_path):
    with_scoring(tmp_path, "return {'points': float(len(results[0]))}")
    tasks = one(tmp_path)
    with pytest.raises(FitnessError, match=r"task 'mine': metric 'points' = 3.0: .* in \[0, 1\]"):
        tasks.score(tasks.items("mine")[:1], [says("abc")])


def test_scoring_that_fails(tmp_path):
    with_scoring(tmp_path, "return {'points': 1 / (len(results[0]) - 2) * 0}")
    tasks = one(tmp_path)
    with pytest.raises(FitnessError, match=r"document 1: task 'mine': .*ZeroDivisionError"):
        tasks.score(tasks.items("mine")[:2], [says("a"), says("ab")])


def test_specs_are_plain_data(task_folder):
    spec = TaskSpec("shots", task_folder, generation={"max_gen_toks": 3})
    assert pickle.loads(pickle.dumps(spec)) == spec


def test_a_chat_template_that_refuses_system_turns(task_folder):
    """lm-eval drops the system turn then; so must we."""
    tokenizer = make_tokenizer()
    tokenizer.chat_template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no') }}{% endif %}"
        + tokenizer.chat_template
    )
    spec = TaskSpec("choice", task_folder, apply_chat_template=True, system_instruction="abc")
    tasks = compile_tasks([spec], tokenizer)
    question = questions(40, 1)[0]["question"]
    assert tasks.items("choice")[0].requests[0].context == f"<u>{question}\n<a>"


def test_items_answers_and_responses_fit_together(task_folder, folders):
    engine = TransformersEngine(folders[0], FolderWeights(), device="cpu")
    engine.load(folders[0])
    tasks = compile_tasks([TaskSpec("extract", task_folder)], engine.tokenizer)
    items = tasks.items("extract")
    replies = [[reply] for reply in engine.answer([item.requests[0] for item in items])]
    found = tasks.score(items, replies)
    # The fixture is worth its name only if answers of every sort occur.
    assert {r.score for r in found} == {0.0, 1.0}
    assert {r.truncated for r in found} == {True, False}
    assert {r.parse_failure for r in found} == {True, False}

"""One prompt per task, as the engine sees it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from evomerge.checks.prompts import RenderedPrompt, advise_on_prompts
from evomerge.checks.text import findings_text, shown
from evomerge.preflight import Prepared
from tests.checks.test_sources import experts, give_template
from tests.checks.zoo import copied

Check = Callable[..., Prepared]

CHAT = (
    "{{ bos_token }}{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def text_of(found: Prepared) -> str:
    assert found.findings is not None
    return findings_text(found.findings)


def prompt_of(found: Prepared, task: str) -> RenderedPrompt:
    assert found.findings is not None
    return next(prompt for prompt in found.findings.prompts if prompt.task == task)


def test_a_question_to_be_answered(prepared: Check) -> None:
    found = prepared()
    prompt = prompt_of(found, "sums")
    assert found.lengths is not None
    first = next(item for item in found.judge.items["search"] if item.task == "sums").requests[0]
    assert prompt.tokens == len(found.lengths.encoder.prompt(first.context))
    assert prompt.text == first.context
    assert (prompt.metric, prompt.direction, prompt.template) == ("exact_match", "higher", False)
    assert prompt.ends == ("\n", "<eos>")
    assert prompt.longest == 6
    assert prompt.temperature == 0
    assert f"| {first.context}" in text_of(found)
    assert "then it answers        until '\\n', <eos>, or 6 tokens at most; greedy" in text_of(
        found
    )


def test_choices(prepared: Check) -> None:
    task = {"lunari_words_mc": {"items": 8, "selection": 8}}
    found = prepared({"fitness.tasks": task, "fitness.objectives": None})
    prompt = prompt_of(found, "lunari_words_mc")
    assert prompt.kind == "loglikelihood"
    item = found.judge.items["search"][0]
    assert prompt.choices == tuple(request.continuation for request in item.requests)
    assert len(prompt.choices) == 4
    assert "then the likeliest of" in text_of(found)


def test_a_chat_template_and_its_special_tokens(
    prepared: Check, quickstart: dict[str, Any], tmp_path: Path
) -> None:
    base = copied(tmp_path / "base", "base")
    give_template(base, CHAT)
    task = {"sums": {"items": 8, "selection": 8, "apply_chat_template": True}}
    changes = {"models.base": "base", "fitness.tasks": task, "fitness.objectives": None}
    found = prepared(experts(quickstart) | changes)
    prompt = prompt_of(found, "sums")
    assert prompt.template
    begin = json.loads((base / "tokenizer_config.json").read_text()).get("bos_token") or ""
    assert prompt.text.startswith(begin)
    first = found.judge.items["search"][0].requests[0]
    assert found.lengths is not None
    assert prompt.tokens == len(found.lengths.encoder.prompt(first.context))
    assert "chat template applied" in text_of(found)


def test_long_prompts_are_cut_in_the_middle_and_their_end_is_seen() -> None:
    text = "begin" + "x" * 5000 + "end \n"
    cut = shown(text)
    assert cut.startswith("begin")
    assert cut.endswith("end␠⏎")
    assert "characters …]" in cut
    assert len(cut) < 1500
    assert shown("short: ") == "short:␠"


def test_a_beginning_written_twice_and_an_answer_that_nothing_ends(prepared: Check) -> None:
    found = prepared()
    assert found.lengths is not None
    encoder = found.lengths.encoder
    plain = prompt_of(found, "sums")
    assert advise_on_prompts([plain], encoder) == []
    begin = encoder.tokenizer.bos_token
    odd = RenderedPrompt(
        "t", "generate", "m", "higher", True, f"{begin}{begin}x", 3, (), (), 8, 0.0
    )
    told = [str(one) for one in advise_on_prompts([odd], encoder)]
    assert len(told) == (2 if begin else 1)
    assert "nothing ends an answer of t before its 8 tokens" in told[-1]

"""One prompt of each task, as the engine sees it: template applied, special tokens in the text."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from evomerge.checks.advice import Advice
from evomerge.config import RunFile
from fitness.engines.decoding import Decoding
from fitness.items import Request

if TYPE_CHECKING:
    from evomerge.judging import Judge
    from fitness.engines.encoding import Encoder
    from fitness.engines.lengths import PromptLengths


@dataclass(frozen=True, slots=True)
class RenderedPrompt:
    """The prompt of a task's first search item.

    Attributes:
        task: its name.
        kind: `generate`, or `loglikelihood` (the likeliest of `choices` is the answer).
        metric: what is scored.
        direction: `higher` or `lower` is better.
        template: whether the chat template is applied.
        text: what the tokens say, special ones included.
        tokens: how many there are.
        choices: what is scored after the prompt; empty if it is to be continued.
        ends: what ends the answer: strings, and tokens of the end as `<NAME>`; empty with choices.
        longest: tokens of the longest answer that is possible: generated, or of a choice.
        temperature: of sampling; 0 is greedy.
    """

    task: str
    kind: str
    metric: str
    direction: str
    template: bool
    text: str
    tokens: int
    choices: tuple[str, ...]
    ends: tuple[str, ...]
    longest: int
    temperature: float

    def as_json(self) -> dict[str, Any]:
        """As `check --json` has it."""
        return asdict(self)


def render_prompts(
    config: RunFile, judge: "Judge", lengths: "PromptLengths"
) -> tuple[RenderedPrompt, ...]:
    """One prompt per task, rendered by the tokenizer that the engine uses."""
    return tuple(_rendered(config, judge, name, lengths.encoder) for name in judge.tasks.names)


def _rendered(config: RunFile, judge: "Judge", name: str, encoder: "Encoder") -> RenderedPrompt:
    item = next(item for item in judge.items["search"] if item.task == name)
    first = item.requests[0]
    common: dict[str, Any] = {
        "task": name,
        "kind": first.kind,
        "metric": judge.tasks.metric(name),
        "direction": "higher" if judge.tasks.higher_is_better(name) else "lower",
        "template": config.fitness.tasks[name].apply_chat_template,
    }
    if first.kind == "generate":
        return RenderedPrompt(**common, **_continued(first, encoder))
    return RenderedPrompt(**common, **_chosen(item.requests, encoder))


def _continued(request: Request, encoder: "Encoder") -> dict[str, Any]:
    decoding = Decoding.of(request.generation)
    tokens = encoder.prompt(request.context)
    ends = (*decoding.until, *(f"<{name}>" for name in _end_names(encoder, decoding.until)))
    return {
        "text": _text(tokens, encoder),
        "tokens": len(tokens),
        "choices": (),
        "ends": ends,
        "longest": decoding.new_tokens,
        "temperature": decoding.temperature,
    }


def _end_names(encoder: "Encoder", until: Sequence[str]) -> list[str]:
    names = [str(encoder.tokenizer.convert_ids_to_tokens(token)) for token in sorted(encoder.eos)]
    return [name.strip("<>") for name in names if name not in until]


def _chosen(requests: Sequence[Request], encoder: "Encoder") -> dict[str, Any]:
    pairs = [encoder.pair(request.context, request.continuation) for request in requests]
    head = pairs[0][0]
    return {
        "text": _text(head, encoder),
        "tokens": len(head),
        "choices": tuple(_text(tail, encoder) for _, tail in pairs),
        "ends": (),
        "longest": max(len(tail) for _, tail in pairs),
        "temperature": 0.0,
    }


def _text(tokens: Sequence[int], encoder: "Encoder") -> str:
    return str(
        encoder.tokenizer.decode(
            list(tokens), skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
    )


def advise_on_prompts(prompts: Sequence[RenderedPrompt], encoder: "Encoder") -> list[Advice]:
    """A beginning written twice; text that nothing ends but the limit."""
    advice: list[Advice] = []
    begin = encoder.tokenizer.bos_token
    for prompt in prompts:
        if begin and prompt.text.startswith(f"{begin}{begin}"):
            advice.append(
                Advice(
                    f"the prompts of {prompt.task} begin with {begin} twice",
                    "take it out of the chat template, or of the task's description",
                )
            )
        if prompt.kind == "generate" and not prompt.ends:
            advice.append(
                Advice(
                    f"nothing ends an answer of {prompt.task} before its {prompt.longest} tokens: the "
                    "tokenizer has no end token, and the task names no `until`",
                    f"set fitness.tasks.{prompt.task}.generation: {{until: [...]}}",
                )
            )
    return advice

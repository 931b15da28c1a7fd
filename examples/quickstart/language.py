"""The quickstart world: vocabulary, made-up languages, and every item the models see.

Four tasks over one small vocabulary:

* ``lunari_words`` and ``tovek_words``: two made-up languages.  Both translate the *same* English
  words and share half of their syllables, so the two dictionaries compete for the same weights.
* ``sums``: addition of two small numbers.
* ``lunari_sums``: addition with the operands written as Lunari number words; the model writes
  the numerals first and then the result, so it needs the number words and the addition table.

``lunari_numbers`` (turning number words into numerals) is trained on but is not a task.
Everything is derived from :data:`WORLD_SEED`; two calls of :func:`build_world` are equal.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from words import ENGLISH_WORDS

WORLD_SEED = 20
NUMBER_COUNT = 20  # operands are 0 .. NUMBER_COUNT - 1
ZIPF_EXPONENT = 1.5  # of words in base text: common facts are learnt, rare ones are not
SUM_ZIPF_EXPONENT = 1.3
NUMBER_WORD_ZIPF_EXPONENT = 2.4  # number words fall off faster, so the base can read only a few
ITEMS_PER_TASK = 300  # at most; the dictionaries have fewer words
CHOICES = 4
CONSONANTS = {"lunari": "bdfgklmn", "tovek": "klmnprst"}  # half of each is shared
VOWELS = "aeiou"
TAGS = ("lunari", "tovek", "read", "solve", "add")
TASKS = ("lunari_words", "tovek_words", "sums", "lunari_sums")

World = dict[str, tuple["Item", ...]]


@dataclass(frozen=True)
class Item:
    """One prompt, the exact text that should follow it, and how common it is in base text."""

    prompt: str
    answer: str
    frequency: float


def _syllables(consonants: str) -> tuple[str, ...]:
    return tuple(consonant + vowel for consonant in consonants for vowel in VOWELS)


def _made_up_words(language: str, count: int, rng: random.Random, taken: set[str]) -> list[str]:
    """Draw ``count`` unused words of two or three syllables of the language.

    None begins with an English word: the tokenizer's longest match must fall on syllables.
    """
    syllables = _syllables(CONSONANTS[language])
    words: list[str] = []
    while len(words) < count:
        word = "".join(rng.choice(syllables) for _ in range(rng.choice((2, 3))))
        if word not in taken and not word.startswith(ENGLISH_WORDS):
            taken.add(word)
            words.append(word)
    return words


def _zipf(keys: Sequence[str], exponent: float, rng: random.Random) -> dict[str, float]:
    """Give the keys, in random order, the frequencies ``1, 1/2, 1/3, ...`` to a power."""
    order = rng.sample(list(keys), len(keys))
    return {key: (rank + 1.0) ** -exponent for rank, key in enumerate(order)}


def build_world(seed: int = WORLD_SEED) -> World:
    """All facts by source: the four tasks and ``lunari_numbers``."""
    rng = random.Random(seed)
    taken: set[str] = set()
    world: World = {}
    for language in CONSONANTS:
        made_up = _made_up_words(language, len(ENGLISH_WORDS), rng, taken)
        common = _zipf(ENGLISH_WORDS, ZIPF_EXPONENT, rng)
        world[f"{language}_words"] = tuple(
            Item(f"{language} {word}:", translation, common[word])
            for word, translation in zip(ENGLISH_WORDS, made_up, strict=True)
        )
    return world | _arithmetic(_made_up_words("lunari", NUMBER_COUNT, rng, taken), rng)


def _arithmetic(number_words: Sequence[str], rng: random.Random) -> World:
    """The sources ``sums``, ``lunari_numbers`` and ``lunari_sums``, over all operand pairs."""
    numbers = range(NUMBER_COUNT)
    common_word = _zipf(number_words, NUMBER_WORD_ZIPF_EXPONENT, rng)
    unordered = [f"{a}+{b}" for a in numbers for b in numbers if a <= b]
    common_sum = _zipf(unordered, SUM_ZIPF_EXPONENT, rng)
    sources: dict[str, list[Item]] = {
        "sums": [],
        "lunari_numbers": [],
        "lunari_sums": [],
    }
    for a in numbers:
        for b in numbers:
            first, second = number_words[a], number_words[b]
            words = f"{first}+{second}"
            words_frequency = common_word[first] * common_word[second]
            sum_frequency = common_sum[f"{min(a, b)}+{max(a, b)}"]
            sources["sums"].append(Item(f"add:{a}+{b}=", str(a + b), sum_frequency))
            sources["lunari_numbers"].append(Item(f"read {words}:", f"{a}+{b}", words_frequency))
            sources["lunari_sums"].append(
                Item(f"solve {words}:", f"{a}+{b}={a + b}", words_frequency * sum_frequency)
            )
    return {name: tuple(items) for name, items in sources.items()}


def vocabulary() -> tuple[str, ...]:
    """Every token of the tokenizer except the special ones.

    English words and syllables inside a prompt carry their leading space, as in byte-level BPE
    vocabularies; answers start right after ``:`` or ``=`` and carry none.
    """
    tokens = [" ", "\n", ":", "=", "+", *TAGS]
    tokens += [str(n) for n in range(2 * NUMBER_COUNT - 1)]
    syllables = _syllables("".join(CONSONANTS.values()))
    tokens += [*syllables, *(f" {syllable}" for syllable in syllables)]
    tokens += [f" {word}" for word in ENGLISH_WORDS]
    return tuple(dict.fromkeys(tokens))


def task_items(world: World) -> World:
    """The items of every task, at most :data:`ITEMS_PER_TASK`, in a fixed random order."""
    rng = random.Random(WORLD_SEED + 1)
    return {
        task: tuple(rng.sample(world[task], min(len(world[task]), ITEMS_PER_TASK)))
        for task in TASKS
    }


def write_tasks(world: World, folder: Path) -> None:
    """Write one JSONL file per task, and the multiple-choice form of the Lunari dictionary."""
    folder.mkdir(parents=True, exist_ok=True)
    for task, items in task_items(world).items():
        _write_jsonl(
            folder / f"{task}.jsonl", [{"prompt": i.prompt, "answer": i.answer} for i in items]
        )
    rng = random.Random(WORLD_SEED + 2)
    items = task_items(world)["lunari_words"]
    rows: list[dict[str, object]] = []
    for item in items:
        wrong = rng.sample([i.answer for i in items if i is not item], CHOICES - 1)
        choices = rng.sample([item.answer, *wrong], CHOICES)
        rows.append(
            {"prompt": item.prompt, "choices": choices, "label": choices.index(item.answer)}
        )
    _write_jsonl(folder / "lunari_words_mc.jsonl", rows)


def _write_jsonl(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")

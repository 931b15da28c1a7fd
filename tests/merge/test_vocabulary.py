"""Sources of equal shapes whose embeddings stand for other tokens, and those that do not."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.merge.models import Family
from tests.merge.test_sources import checked, refused


def retoken(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Rewrite a folder's tokenizer.json."""
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_two_tokens_swapped(llama_copy: Family):
    """Shapes agree, and every merged embedding of the two would be half another word's."""
    retoken(llama_copy.folders["b"], lambda t: t["model"]["vocab"].update(w3=5, w5=3))
    with refused(
        r"tokenizers of base and b: token 'w3' \(id 3 in base, id 5 in b\), "
        r"'w5' \(id 5 in base, id 3 in b\): .*; choose whose tokens the result has"
    ):
        checked(llama_copy)


@pytest.mark.parametrize("who", ["base", "b"])
def test_an_added_token_of_one_source(llama_copy: Family, who: str):
    """It names a padding row, so that no shape tells."""
    added = {"id": 48, "content": "<think>", "special": True}
    retoken(llama_copy.folders[who], lambda t: t["added_tokens"].append(added))
    ids = {"base": "none", "b": "none"} | {who: "id 48"}
    with refused(rf"token '<think>' \({ids['base']} in base, {ids['b']} in b\)"):
        checked(Family({name: llama_copy.folders[name] for name in ("base", "b")}))


def test_many_differing_tokens_are_counted(llama_copy: Family):
    def shift(tokenizer: dict[str, Any]) -> None:
        vocabulary = tokenizer["model"]["vocab"]
        vocabulary.update({f"w{i}": (i + 1) % 47 for i in range(47)})

    retoken(llama_copy.folders["b"], shift)
    with refused(r"token 'w0' \(id 0 in base, id 1 in b\), .*'w4' \([^)]*\) and 42 more"):
        checked(llama_copy)


def test_the_same_vocabulary_written_otherwise(llama_copy: Family):
    def turn(tokenizer: dict[str, Any]) -> None:
        vocabulary = tokenizer["model"]["vocab"]
        tokenizer["model"]["vocab"] = dict(reversed(vocabulary.items()))

    retoken(llama_copy.folders["b"], turn)
    checked(llama_copy)


def remove_tokenizer(folder: Path) -> None:
    for path in folder.glob("*token*"):
        path.unlink()


def test_an_expert_without_tokenizer_has_the_bases(llama_copy: Family):
    remove_tokenizer(llama_copy.folders["b"])
    checked(llama_copy)


def test_the_base_has_a_tokenizer(llama_copy: Family):
    remove_tokenizer(llama_copy.folders["base"])
    with refused(r"source base .*no tokenizer\.json: the first source .* brings the tokenizer"):
        checked(llama_copy)


@pytest.mark.parametrize(
    "text", ["{", "{}", '{"model": {"vocab": 3}}', '{"model": {"vocab": {"a": "b"}}}']
)
def test_a_broken_tokenizer(llama_copy: Family, text: str):
    (llama_copy.folders["b"] / "tokenizer.json").write_text(text)
    with refused(r"source b .*the tokenizer: it cannot be read \(.*download it again"):
        checked(llama_copy)


def test_unigram_vocabularies_count_places(llama_copy: Family):
    words = [[f"w{i}", -1.0] for i in range(47)]
    for name in llama_copy.folders:
        unigram = {"type": "Unigram", "vocab": words, "byte_fallback": name == "b"}
        retoken(llama_copy.folders[name], lambda t, model=unigram: t.update(model=model))
    checked(llama_copy)
    swapped = [*words[:2], words[3], words[2], *words[4:]]
    retoken(llama_copy.folders["b"], lambda t: t["model"].update(vocab=swapped))
    with refused(r"token 'w2' \(id 2 in base, id 3 in b\), 'w3'"):
        checked(llama_copy)


def test_vocabularies_without_tokenizer_json(llama_copy: Family):
    """The older files of a WordPiece tokenizer: read by transformers where they differ."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(43))]
    for folder in llama_copy.folders.values():
        remove_tokenizer(folder)
        (folder / "vocab.txt").write_text("\n".join(words))
        settings = {"tokenizer_class": "BertTokenizer"}
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    checked(llama_copy)
    swapped = [*words[:-2], words[-1], words[-2]]
    (llama_copy.folders["b"] / "vocab.txt").write_text("\n".join(swapped))
    with refused(r"token 'w41' \(id 46 in base, id 47 in b\)"):
        checked(llama_copy)

"""Sources with different vocabularies, by hand and against mergekit 0.1.5 in float32."""

import gc
import json
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, LlamaConfig
from transformers import PreTrainedTokenizerFast as FastTokenizer

from evomerge.merge.alignment import Alignment
from evomerge.merge.skeleton import model_folder
from evomerge.merge.sources import Sources, open_sources
from evomerge.recipe_files import merge_recipe
from tests.merge.models import Family
from tests.merge.test_parity import ORACLE
from tests.merge.test_sources import configure, refused

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def words(*numbers: int) -> list[str]:
    return [f"w{i}" for i in numbers]


def save(
    folder: Path,
    vocabulary: Sequence[str],
    added: Sequence[str] = (),
    *,
    padding: int = 0,
    tied: bool = False,
    seed: int = 0,
) -> Path:
    """A tiny Llama whose tokens are `vocabulary` and then `added`, the latter special."""
    torch.manual_seed(seed)
    rows = len(vocabulary) + len(added) + padding
    config = LlamaConfig(
        vocab_size=rows,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=tied,
        eos_token_id=len(vocabulary) - 1,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    table = {token: i for i, token in enumerate(vocabulary)}
    tokenizer = Tokenizer(WordLevel(table, unk_token=vocabulary[-1]))
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in added])
    FastTokenizer(tokenizer_object=tokenizer, unk_token=vocabulary[-1]).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Family:
    """A base; `a` with its tokens in another order, words and a special token of its own; `b` with
    most of the base's, one of a's words and unused rows."""
    root = tmp_path_factory.mktemp("three")
    return Family(
        {
            "base": save(root / "base", [*words(*range(12)), "<unk>"], ["<s>"]),
            "a": save(
                root / "a",
                ["<unk>", *words(*range(9, 0, -1), 20, 21, 22), "</s>"],
                ["<s>", "<t>"],
                seed=1,
            ),
            "b": save(root / "b", [*words(*range(10), 20), "<unk>"], padding=5, seed=2),
            "tied": save(root / "tied", [*words(*range(12)), "<unk>"], ["<s>"], tied=True, seed=3),
        }
    )


DELTAS = """
merge_method: task_arithmetic
base_model: {base}
dtype: float32
models: [{{model: {a}, parameters: {{weight: 0.6}}}}, {{model: {b}, parameters: {{weight: 0.3}}}}]
"""
LINEAR = """
merge_method: linear
dtype: float32
models:
  - {{model: {a}, parameters: {{weight: 0.6}}}}
  - {{model: {b}, parameters: {{weight: 0.3}}}}
  - {{model: {base}, parameters: {{weight: 0.4}}}}
"""
CASES = {
    "union": DELTAS + "tokenizer_source: union",
    "union_by_default": DELTAS + "tokenizer: {{}}",
    "union_without_base": LINEAR + "tokenizer_source: union",
    "of_the_base": DELTAS + "tokenizer_source: base",
    "of_a_source": DELTAS + "tokenizer: {{source: {a}}}",
    "of_a_source_without_base": LINEAR + "tokenizer_source: {b}",
    "tied_and_untied": DELTAS.replace("{base}", "{tied}") + "tokenizer_source: union",
}


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory, three: Family) -> Path:
    """mergekit's results, a folder for each case."""
    if not ORACLE.is_file():
        pytest.skip("mergekit is not there: see test_parity")
    folder = tmp_path_factory.mktemp("theirs")
    for name, text in CASES.items():
        (folder / f"{name}.yaml").write_text(text.format(**three.folders))
    command = [str(ORACLE), str(Path(__file__).parent / "oracle.py"), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.parametrize("case", CASES)
def test_equals_mergekit(tmp_path: Path, theirs: Path, case: str):
    merge_recipe(theirs / f"{case}.yaml", tmp_path / "ours", None, "cpu")
    expected = load_file(theirs / case / "model.safetensors")
    ours = load_file(tmp_path / "ours" / "model.safetensors")
    tokens = [
        AutoTokenizer.from_pretrained(f).get_vocab() for f in (theirs / case, tmp_path / "ours")
    ]
    assert set(tokens[0]) == set(tokens[1])
    assert set(ours) == set(expected)
    rows = [torch.tensor([table[token] for token in tokens[0]]) for table in tokens]
    for name in expected:
        mine, other = ours[name], expected[name]
        assert mine.shape == other.shape
        if name in (EMBEDDING, HEAD):  # the order of a union's new words is random in mergekit
            mine, other = mine[rows[1]], other[rows[0]]
        torch.testing.assert_close(mine, other, rtol=2e-6, atol=2e-7)
    config = AutoConfig.from_pretrained(tmp_path / "ours")
    assert config.vocab_size == AutoConfig.from_pretrained(theirs / case).vocab_size
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    assert torch.equal(model.lm_head.weight, ours[HEAD]), "untied where a source is"


# --- by hand ----------------------------------------------------------------------------------------


def opened(family: Family, *names: str, tokenizer: str | None, base: str | None = None) -> Sources:
    sources = open_sources({name: family.folders[name] for name in names}, tokenizer, base)
    sources.check_compatible()
    return sources


def test_rows_of_missing_tokens():
    """Three sources: known to one, to the base, to two of them, to none."""
    ids = {"both": 0, "mine": 1, "not base": 2, "none": 3, "base": 5}
    tables = {
        "x": {"both": 0, "base": 1},
        "y": {"both": 1, "mine": 0, "not base": 2, "base": 9},
        "z": {"not base": 0},
    }
    stored = {
        "x": torch.tensor([[1.0], [2.0]]),
        "y": torch.tensor([[3.0], [4.0], [5.0]]),
        "z": torch.tensor([[8.0]]),
    }
    rows = {name: len(tensor) for name, tensor in stored.items()}
    made = Alignment(ids, tables, rows, "x").align(stored)
    # Row 4 is no token's: the mean of the source's others. y's token "base" has no row.
    assert made["x"].squeeze(1).tolist() == [1.0, 3.0, 6.5, 0.0, 2.5, 2.0]
    assert made["y"].squeeze(1).tolist() == [4.0, 3.0, 5.0, 0.0, pytest.approx(2.8), 2.0]
    assert made["z"].squeeze(1).tolist() == [1.0, 3.0, 8.0, 0.0, pytest.approx(2.8), 2.0]
    alone = Alignment(ids, tables, rows, None).align(stored)
    assert alone["z"][0].item() == 2.5, "without a base: the mean of those that have it"


def test_stored_in_the_widest_type_and_made_once(three: Family):
    sources = opened(three, "base", "a", "b", tokenizer="union", base="base")
    first = sources.tensor("a", EMBEDDING)
    assert first.dtype == torch.float32
    assert sources.tensor("a", EMBEDDING).data_ptr() == first.data_ptr()
    assert sources.with_tokenizer("union", "base") is sources
    assert sources.with_tokenizer(None) is sources
    assert sources.origin("a", EMBEDDING) == ((), EMBEDDING)
    assert sources.origin("a", "model.norm.weight")[0] == sources.files("a")
    held = [sources.tensor(s, n) for s in sources.names for n in sources.names_of(s)]
    assert sources.held_bytes() == sum(t.numel() * t.itemsize for t in held)
    other = sources.with_tokenizer("a", "base")
    assert other.shapes[EMBEDDING] == (16, 16)
    assert other.with_tokenizer("union", "base") is sources
    narrow = {
        "x": torch.ones(2, 1, dtype=torch.bfloat16),
        "y": torch.ones(1, 1, dtype=torch.float16),
    }
    tables = {"x": {"u": 0, "v": 1}, "y": {"u": 0}}
    made = Alignment(tables["x"], tables, {"x": 2, "y": 1}, None).align(narrow)
    assert made["x"] is narrow["x"], "its rows are the result's: a view of the file"
    assert made["y"].dtype == torch.float32


def test_a_union_is_the_first_tokenizer_and_what_the_others_have_besides(three: Family):
    sources = opened(three, "base", "a", "b", tokenizer="union", base="base")
    folder = model_folder(sources)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    base = AutoTokenizer.from_pretrained(three.folders["base"]).get_vocab()
    vocabulary = tokenizer.get_vocab()
    assert {token: vocabulary[token] for token in base} == base
    assert [t for t in sorted(vocabulary, key=vocabulary.get) if t not in base] == [
        *("w20", "w21", "w22", "</s>"),
        "<t>",
    ]
    assert tokenizer.added_tokens_decoder[vocabulary["<t>"]].special
    assert not tokenizer.added_tokens_decoder[vocabulary["w20"]].special
    assert tokenizer.encode("w3")[0] == vocabulary["w3"]
    assert tokenizer.encode("w20") == [vocabulary["w20"]]
    assert AutoConfig.from_pretrained(folder).vocab_size == len(vocabulary) == 19
    assert not list(folder.glob("*.safetensors"))
    del sources
    gc.collect()
    assert not folder.exists(), "gone with its sources"


def test_ids_of_special_tokens_follow_the_vocabulary(three: Family):
    """The base's eos is token 12; in a's vocabulary that is another word."""
    config = AutoConfig.from_pretrained(three.folders["base"])
    assert config.eos_token_id == 12
    sources = opened(three, "base", "a", tokenizer="a", base="base")
    made = AutoConfig.from_pretrained(model_folder(sources))
    assert made.eos_token_id == 13
    generation = json.loads((model_folder(sources) / "generation_config.json").read_text())
    assert generation["eos_token_id"] == 13


@pytest.mark.parametrize("choice", ["union", "base", "a"])
def test_equal_vocabularies_change_nothing(family: Callable[..., Family], choice: str):
    made = family("llama")
    sources = opened(made, *made.folders, tokenizer=choice, base="base")
    assert not sources.matched
    assert sources.config("base") is open_sources(made.folders).config("base") or sources.config(
        "base"
    ) == json.loads((made.folders["base"] / "config.json").read_text())
    mapped = open_sources(made.folders).tensor("a", EMBEDDING)
    assert torch.equal(sources.tensor("a", EMBEDDING), mapped)
    assert (model_folder(sources) == made.folders["base"]) == (choice != "a")


def test_padding_rows_of_one_source_only(tmp_path: Path):
    """The same tokens, but one embedding was rounded up to a multiple of 16."""
    vocabulary = [*words(*range(9)), "<unk>"]
    made = Family(
        {
            "base": save(tmp_path / "base", vocabulary, padding=6),
            "a": save(tmp_path / "a", vocabulary, seed=1),
        }
    )
    with refused(r"has 16 and 10 rows: the vocabularies differ; choose whose tokens .*union"):
        opened(made, "base", "a", tokenizer=None)
    sources = opened(made, "base", "a", tokenizer="base", base="base")
    assert sources.shapes[EMBEDDING] == sources.shapes[HEAD] == (10, 16)
    stored = load_file(tmp_path / "base" / "model.safetensors")[EMBEDDING]
    assert torch.equal(sources.tensor("base", EMBEDDING), stored[:10])


# --- tied and untied --------------------------------------------------------------------------------


def test_a_tied_source_among_untied_has_its_embedding_as_head(three: Family):
    sources = opened(three, "tied", "base", tokenizer=None)
    assert not sources.tied
    assert sources.names_of("tied") == sources.names_of("base")
    assert sources.holds("tied", HEAD)
    assert torch.equal(sources.tensor("tied", HEAD), sources.tensor("tied", EMBEDDING))
    assert sources.tensor("tied", HEAD).data_ptr() == sources.tensor("tied", EMBEDDING).data_ptr()
    assert not torch.equal(sources.tensor("base", HEAD), sources.tensor("base", EMBEDDING))
    assert sources.shapes[HEAD] == (14, 16)
    assert sources.floating(HEAD)
    assert sources.config("tied")["tie_word_embeddings"] is False
    assert any("tie the head" in warning for warning in sources.warnings())
    assert AutoConfig.from_pretrained(model_folder(sources)).tie_word_embeddings is False


# --- what is refused --------------------------------------------------------------------------------


def test_strangers_and_sources_without_a_tokenizer(three: Family, llama_copy: Family):
    with refused(r"tokenizer 'c': it is `union` or one of the sources"):
        opened(three, "base", "a", tokenizer="c")
    (llama_copy.folders["b"] / "tokenizer.json").unlink()
    with refused(r"tokenizer of 'b': this source has none; name another source"):
        opened(llama_copy, "base", "b", tokenizer="b")
    assert not opened(llama_copy, "base", "b", tokenizer="union").matched, "b has the base's"


def test_a_union_needs_tokenizers_in_the_fast_format(tmp_path: Path):
    made = Family(
        {
            "base": save(tmp_path / "base", ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "w0"]),
            "b": save(tmp_path / "b", ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "w1"]),
        }
    )
    for path in made.folders["b"].glob("tokenizer*"):
        path.unlink()
    (made.folders["b"] / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nw1")
    settings = {"tokenizer_class": "BertTokenizer"}
    (made.folders["b"] / "tokenizer_config.json").write_text(json.dumps(settings))
    assert opened(made, "base", "b", tokenizer="base", base="base").shapes[EMBEDDING] == (6, 16)
    with refused(r"source b .*no tokenizer\.json: a union is made of tokenizers in this format"):
        opened(made, "base", "b", tokenizer="union", base="base")


def test_configurations_nested_in_a_text_config(llama_copy: Family):
    folder = llama_copy.folders["a"]
    nested = json.loads((folder / "config.json").read_text())
    configure(folder, text_config=nested)
    sources = open_sources({"a": folder})
    assert sources.config("a")["text_config"]["vocab_size"] == 48

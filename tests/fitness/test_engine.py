import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
)

from fitness.engines.transformers import TransformersEngine
from fitness.errors import FitnessError
from fitness.items import Request

from .conftest import FolderWeights, make_model, make_tokenizer, questions


def requests(count=24, until=("\n",), **generation):
    texts = [doc["question"] for doc in questions(count, 11)]
    options = {"until": list(until), "max_gen_toks": 10} | generation
    scored = [Request("loglikelihood", text, "ab" * (1 + i % 3)) for i, text in enumerate(texts)]
    return [*(Request("generate", text, generation=options) for text in texts), *scored]


@pytest.fixture
def engine(folders):
    made = TransformersEngine(folders[0], FolderWeights(), device="cpu")
    made.load(folders[0])
    return made


def test_a_swap_and_back_gives_the_same_bits(engine, folders):
    first = engine.answer(requests())
    engine.load(folders[1])
    second = engine.answer(requests())
    engine.load(folders[0])
    assert engine.answer(requests()) == first
    assert second != first


def test_the_resident_model_is_the_model_of_the_folder(engine, folders):
    engine.load(folders[1])
    reference = AutoModelForCausalLM.from_pretrained(folders[1])
    tokens = make_tokenizer()("abc0:", return_tensors="pt")["input_ids"]
    logprobs = reference(tokens).logits[0, -1].log_softmax(-1)
    for letter in "abc\n":
        token = make_tokenizer().convert_tokens_to_ids(letter)
        reply = engine.answer([Request("loglikelihood", "abc0:", letter)])[0]
        # A trailing newline of the context moves to the continuation, a letter does not.
        assert reply.logprob == pytest.approx(logprobs[token].item(), abs=1e-5)
        assert reply.tokens == 1


@pytest.mark.parametrize("batch_tokens", [1, 60, 333])
def test_batches_do_not_change_replies(engine, folders, batch_tokens):
    together = engine.answer(requests())
    small = TransformersEngine(folders[0], FolderWeights(), device="cpu", batch_tokens=batch_tokens)
    small.load(folders[0])
    apart = small.answer(list(reversed(requests())))[::-1]
    assert [(r.text, r.tokens, r.truncated, r.greedy) for r in apart] == [
        (r.text, r.tokens, r.truncated, r.greedy) for r in together
    ]
    assert [r.logprob for r in apart] == pytest.approx([r.logprob for r in together], abs=1e-4)


def test_generation_equals_the_librarys_token_by_token(engine, folders):
    """Rows that end at once, at a stop string, at the end token and at the limit all occur."""
    reference = AutoModelForCausalLM.from_pretrained(folders[0])
    tokenizer = make_tokenizer()
    stops = ("h", "01")
    ended = set()
    for request in requests(60, stops)[:60]:
        prompt = tokenizer(request.context, return_tensors="pt")["input_ids"]
        output = reference.generate(prompt, max_new_tokens=10, do_sample=False)
        tokens = output[0, prompt.shape[1] :].tolist()
        lengths = range(1, len(tokens) + 1)
        texts = [tokenizer.decode(tokens[:k], skip_special_tokens=True) for k in lengths]
        stop = next((k for k, t in enumerate(texts) if any(s in t for s in stops)), None)
        reply = engine.answer([request])[0]
        if stop is not None:
            ended.add("stop")
            cut = min((texts[stop].split(s)[0] for s in stops), key=len)
            expected = (cut, stop + 1, False)
        elif tokens[-1] == 1:
            ended.add("eos")
            expected = (texts[-1], len(tokens), False)
        else:
            ended.add("limit")
            expected = (texts[-1], 10, True)
        assert (reply.text, reply.tokens, reply.truncated) == expected
    assert ended == {"stop", "eos", "limit"}


def test_an_end_token_of_the_generation_config_ends_too(folders, tmp_path):
    folder = shutil.copytree(folders[0], tmp_path / "model")
    seven = make_tokenizer().convert_tokens_to_ids("g")
    (folder / "generation_config.json").write_text(f'{{"eos_token_id": [1, {seven}]}}')
    plain = TransformersEngine(folders[0], FolderWeights(), device="cpu")
    ending = TransformersEngine(folder, FolderWeights(), device="cpu")
    for engine in (plain, ending):
        engine.load(folders[0])
    asked = requests(60)[:60]
    pairs = list(zip(plain.answer(asked), ending.answer(asked), strict=True))
    assert any("g" in before.text for before, _ in pairs)
    assert all(after.text == before.text.split("g")[0] for before, after in pairs)


class FailingWeights(FolderWeights):
    """Breaks after some tensors, as a source on a vanishing disk does."""

    tensors_left = 1 << 30

    def tensor(self, name, box=()):
        self.tensors_left -= 1
        if self.tensors_left < 0:
            raise OSError("gone")
        return super().tensor(name, box)


def test_a_load_that_breaks_halfway_is_repaired_by_the_next(folders):
    weights = FailingWeights()
    engine = TransformersEngine(folders[0], weights, device="cpu")
    engine.load(folders[0])
    before = engine.answer(requests())
    weights.tensors_left = 7
    with pytest.raises(OSError, match="gone"):
        engine.load(folders[1])
    with pytest.raises(RuntimeError, match=r"answer\(\) before a load\(\)"):
        engine.answer(requests())
    weights.tensors_left = 1 << 30
    engine.load(folders[0])
    assert engine.answer(requests()) == before


def test_an_engine_refuses_to_answer_before_a_load(folders):
    engine = TransformersEngine(folders[0], FolderWeights(), device="cpu")
    with pytest.raises(RuntimeError, match="no candidate is resident"):
        engine.answer(requests())


def test_tied_weights_are_asked_for_once(tmp_path):
    folder = tmp_path / "tied"
    make_model(3, tie_word_embeddings=True).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    engine = TransformersEngine(folder, FolderWeights(), device="cpu")
    asked = []
    weights = FolderWeights(folder)
    read = weights.tensor
    weights.tensor = lambda name, box=(): asked.append(name) or read(name, box)
    engine._weights = weights
    engine.load(folder)
    assert sorted(asked) == sorted(load_file(folder / "model.safetensors"))
    reference = AutoModelForCausalLM.from_pretrained(folder)
    tokens = make_tokenizer()("ab", return_tensors="pt")["input_ids"]
    logprob = reference(tokens).logits[0, -1].log_softmax(-1)[5].item()
    (reply,) = engine.answer([Request("loglikelihood", "ab", "b")])
    assert reply.logprob == pytest.approx(logprob, abs=1e-5)


def test_weights_that_transformers_renames_are_found(tmp_path):
    """GPT-NeoX checkpoints say `embed_out` where the model says `lm_head`."""
    config = GPTNeoXConfig(
        vocab_size=26,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        eos_token_id=1,
        bos_token_id=2,
    )
    GPTNeoXForCausalLM(config).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    assert "embed_out.weight" in load_file(tmp_path / "model.safetensors")
    engine = TransformersEngine(tmp_path, FolderWeights(), device="cpu")
    engine.load(tmp_path)
    reference = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    tokens = make_tokenizer()("abc", return_tensors="pt")["input_ids"]
    expected = reference(tokens).logits[0, -1].log_softmax(-1)[4].item()
    (reply,) = engine.answer([Request("loglikelihood", "abc", "a")])
    assert reply.logprob == pytest.approx(expected, abs=1e-5)


def test_weights_under_other_names_are_refused_at_construction(tmp_path):
    config = MixtralConfig(
        vocab_size=26,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=2,
    )
    MixtralForCausalLM(config).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(FitnessError, match=r"'mixtral': weight 'model\.layers\.0\.mlp\.experts"):
        TransformersEngine(tmp_path, FolderWeights(), device="cpu")


def test_a_folder_without_weights_is_enough_to_build_an_engine(folders, tmp_path):
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(folders[0] / name, tmp_path / name)
    engine = TransformersEngine(tmp_path, FolderWeights(), device="cpu")
    engine.load(folders[1])
    assert engine.answer(requests(2))[0].tokens > 0


def test_a_tensor_of_another_shape_is_refused_not_broadcast(folders, tmp_path):
    tensors = load_file(folders[0] / "model.safetensors")
    tensors["model.norm.weight"] = torch.ones(1)
    save_file(tensors, tmp_path / "model.safetensors")
    engine = TransformersEngine(folders[0], FolderWeights(), device="cpu")
    with pytest.raises(FitnessError, match=r"'model.norm.weight' of shape \[1\].* needs \[32\]"):
        engine.load(tmp_path)


@pytest.mark.parametrize("asked", [Request("generate", "ab"), Request("loglikelihood", "a", "b")])
def test_a_candidate_whose_logits_are_not_numbers_is_refused(folders, tmp_path, asked):
    tensors = load_file(folders[0] / "model.safetensors")
    tensors["model.norm.weight"][3] = float("nan")
    save_file(tensors, tmp_path / "model.safetensors")
    engine = TransformersEngine(folders[0], FolderWeights(), device="cpu", max_model_len=300)
    engine.load(tmp_path)
    with pytest.raises(FitnessError, match="logits that are not finite"):
        engine.answer([asked])


def test_prompts_are_never_truncated(folders):
    engine = TransformersEngine(folders[0], FolderWeights(), device="cpu", max_model_len=20)
    engine.load(folders[0])
    fits = Request("generate", "a" * 9, generation={"max_gen_toks": 10})
    assert engine.token_lengths([fits]) == [20]  # the tokenizer adds <bos>
    engine.answer([fits])
    long = Request("generate", "a" * 10, generation={"max_gen_toks": 10})
    with pytest.raises(FitnessError, match=r"needs 21 tokens: max_model_len is 20"):
        engine.answer([long])
    scored = Request("loglikelihood", "a" * 18, "bc")
    assert engine.token_lengths([scored]) == [21]
    engine.answer([scored])  # the last token is scored, not fed
    with pytest.raises(FitnessError, match="max_model_len is 20"):
        engine.answer([Request("loglikelihood", "a" * 19, "bc")])


def test_the_models_own_limit_is_the_default(folders):
    assert TransformersEngine(folders[0], FolderWeights(), device="cpu").max_model_len == 128


@pytest.mark.parametrize(
    ("generation", "message"),
    [
        ({"repetition_penalty": 1.2}, "generation option 'repetition_penalty'"),
        ({"num_beams": 4}, "generation option 'num_beams'"),
        ({"max_gen_toks": 0}, "max_gen_toks = 0"),
    ],
)
def test_options_that_are_not_implemented_are_refused(engine, generation, message):
    with pytest.raises(FitnessError, match=message):
        engine.answer([Request("generate", "ab", generation=generation)])


def test_sampling_is_repeatable_and_independent_of_the_batch(engine):
    options = {"do_sample": True, "temperature": 1.5, "top_p": 0.95, "top_k": 12}
    asked = requests(20, **options)[:20]
    together = engine.answer(asked)
    assert engine.answer(asked) == together
    assert [engine.answer([request])[0] for request in asked] == together
    other = engine.answer(requests(20, seed=5, **options)[:20])
    greedy = engine.answer(requests(20)[:20])
    assert other != together != greedy


def test_sampling_follows_the_distribution(engine, folders):
    """4000 seeds of one token against the model's own probabilities."""
    reference = AutoModelForCausalLM.from_pretrained(folders[0])
    tokenizer = make_tokenizer()
    tokens = tokenizer("abc0:", return_tensors="pt")["input_ids"]
    expected = (reference(tokens).logits[0, -1] / 2).softmax(-1)
    from fitness.engines.decoding import Decoding
    from fitness.engines.generation import _Chooser

    draws = torch.zeros(26)
    logits = reference(tokens).logits[:, -1].detach()
    for seed in range(4000):
        decoding = Decoding(new_tokens=1, temperature=2.0, seed=seed)
        choose = _Chooser(decoding, [tokens[0].tolist()], torch.device("cpu"))
        draws[choose(logits, torch.tensor([0]), 0)] += 1
    assert (draws / 4000 - expected).abs().max() < 0.03


def test_bfloat16_is_scored_in_float32(folders):
    engine = TransformersEngine(folders[0], FolderWeights(), device="cpu", dtype="bfloat16")
    engine.load(folders[0])
    exact = TransformersEngine(folders[0], FolderWeights(), device="cpu")
    exact.load(folders[0])
    asked = requests()[24:]
    rough = [r.logprob for r in engine.answer(asked)]
    assert rough == pytest.approx([r.logprob for r in exact.answer(asked)], rel=0.1, abs=0.2)
    assert any(value != torch.tensor(value).bfloat16().item() for value in rough)


def test_wrong_settings_say_what_to_do(folders, tmp_path):
    with pytest.raises(FitnessError, match=r"dtype = 'int8'.*use one of: float32, bfloat16"):
        TransformersEngine(folders[0], FolderWeights(), dtype="int8")
    with pytest.raises(FitnessError, match="cannot build a causal language model"):
        TransformersEngine(tmp_path, FolderWeights())


def test_a_closed_engine_answers_no_more(engine):
    engine.close()
    with pytest.raises(RuntimeError, match="no candidate is resident"):
        engine.answer(requests(1))

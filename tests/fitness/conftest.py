"""Two tiny random Llamas with a character tokenizer, and lm-eval tasks over their alphabet."""

import json
import random
from pathlib import Path

import pytest
import torch
import yaml
from safetensors import safe_open
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from fitness.engine import ShapeError, Stack
from fitness.engines.resident import stored_names
from fitness.engines.stacks import layer_of

ALPHABET = "abcdefgh0123:? \n"
TEMPLATE = (
    "{% for m in messages %}{{ '<' + m['role'][0] + '>' + m['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<a>' }}{% endif %}"
)


class FolderWeights:
    """A real `WeightProvider`: the payload is a model folder, its safetensors are the weights."""

    def __init__(self, folder: Path | None = None):
        self.prepared = folder

    def prepare(self, payload):
        self.prepared = Path(payload)

    def stack(self):
        assert self.prepared is not None
        layers = {layer_of(name) for name in stored_names(self.prepared)} - {None}
        return Stack(len(layers))

    def tensor(self, name, box=()):
        assert self.prepared is not None
        with safe_open(self.prepared / "model.safetensors", framework="pt") as tensors:
            return tensors.get_slice(name)[box or ...]

    def write(self, name, out, box=()):
        tensor = self.tensor(name, box)
        if tensor.shape != out.shape:  # copy_ would broadcast it
            raise ShapeError(name, tensor.shape, out.shape)
        out.copy_(tensor)


def make_tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {t: i for i, t in enumerate(["<pad>", "<eos>", "<bos>", "<unk>", *ALPHABET])}
    vocabulary |= {t: len(vocabulary) + i for i, t in enumerate("<>usa") if t not in vocabulary}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.post_processor = processors.TemplateProcessing("<bos> $A", None, [("<bos>", 2)])
    special = {name + "_token": f"<{name}>" for name in ("pad", "eos", "bos", "unk")}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
    fast.chat_template = TEMPLATE
    return fast


def make_model(seed: int, **changes) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    options = dict(
        vocab_size=26,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        # Large enough for answers to differ from prompt to prompt, and to end at times.
        initializer_range=0.35,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
    )
    return LlamaForCausalLM(LlamaConfig(**(options | changes))).eval()


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def folders(tmp_path_factory) -> tuple[Path, Path]:
    """Two models of one architecture, with other weights."""
    made = []
    for seed in (0, 1):
        folder = tmp_path_factory.mktemp(f"model{seed}")
        make_model(seed).save_pretrained(folder)
        make_tokenizer().save_pretrained(folder)
        made.append(folder)
    return made[0], made[1]


def write_task(folder: Path, name: str, rows, **config) -> None:
    """A task's YAML and, beside it, its documents by split."""
    for split, docs in rows.items():
        lines = "".join(json.dumps(doc) + "\n" for doc in docs)
        (folder / f"{name}-{split}.jsonl").write_text(lines)
    files = {split: f"{name}-{split}.jsonl" for split in rows}
    content = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": files},
        "test_split": "test",
        **config,
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(content, sort_keys=False))


def exact_match(**extra):
    metric = {"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}
    return {
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": ["\n", "?:"], "max_gen_toks": 12},
        "metric_list": [metric],
    } | extra


def questions(count: int, seed: int, answer: str = "0123"):
    draw = random.Random(seed)
    texts = ["".join(draw.choices("abcdefgh", k=draw.randint(2, 14))) for _ in range(count)]
    return [
        {"question": f"{text}{i}:", "answer": draw.choice(answer)} for i, text in enumerate(texts)
    ]


def choices(count: int, seed: int):
    draw = random.Random(seed)
    return [
        doc
        | {
            "choices": ["".join(draw.choices("abcd", k=draw.randint(1, 5))) for _ in range(4)],
            "label": draw.randrange(4),
        }
        for doc in questions(count, seed)
    ]


@pytest.fixture(scope="session")
def task_folder(tmp_path_factory) -> Path:
    """Tasks `choice`, `extract`, `shots` and `letters`, in folders of their own below one."""
    root = tmp_path_factory.mktemp("tasks")
    (root / "below").mkdir()
    acc = [
        {"metric": name, "aggregation": "mean", "higher_is_better": True}
        for name in ("acc", "acc_norm")
    ]
    multiple = {
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "choices",
        "doc_to_target": "label",
        "metric_list": acc,
    }
    write_task(root, "choice", {"test": choices(40, 1)}, **multiple)
    letters = multiple | {"doc_to_choice": ["a", "b", "c", "d"], "target_delimiter": ""}
    write_task(root / "below", "letters", {"test": choices(30, 2)}, **letters)
    digit = {"function": "regex", "regex_pattern": "([0-3])", "fallback": "none"}
    pipelines = [
        {"name": "digit", "filter": [digit, {"function": "take_first"}]},
        {"name": "whole", "filter": [{"function": "take_first"}]},
    ]
    write_task(root, "extract", {"test": questions(40, 3)}, **exact_match(filter_list=pipelines))
    shots = {"train": questions(12, 4), "test": questions(30, 5, "abcd")}
    extra = {"fewshot_split": "train", "num_fewshot": 2, "description": "ab?\n"}
    write_task(root, "shots", shots, **exact_match(**extra))
    return root

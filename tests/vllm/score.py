"""A real vLLM engine in a process of its own, and the calls that tests make on it.

In its own process because vLLM sets the seeds of Python, NumPy and PyTorch, and patches some
classes of transformers, from which the expected values come.
"""

import importlib.metadata
import multiprocessing
import os
import re
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from transformers import AutoConfig, AutoModelForCausalLM

from fitness.engines.encoding import Encoder
from fitness.engines.vllm import sampling as raw
from fitness.engines.vllm.scoring import ShortCuts, answer

from ..fitness.conftest import make_tokenizer

ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "ERROR",
    # The count of likelier tokens is compiled at its first use: 20 s, for one comparison.
    "TORCHDYNAMO_DISABLE": "1",
}
COMMON = {
    "vocab_size": 26,
    "hidden_size": 128,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    # Large enough for answers to differ from prompt to prompt, and to end at times.
    "initializer_range": 0.15,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 2,
}


def make_folder(folder: Path, seed: int = 0, kind: str = "llama", change=None, **options) -> Path:
    """Save a tiny model of architecture `kind` with its tokenizer; `change` edits its weights."""
    import torch

    torch.manual_seed(seed)
    config = AutoConfig.for_model(kind, **(COMMON | options))
    model = AutoModelForCausalLM.from_config(config)
    if change:
        with torch.no_grad():
            change(model)
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


class InProcess:
    """The engine, in the process that runs it."""

    def __init__(self, folder: Path, options):
        from vllm import LLM

        defaults = {"dtype": "float32", "enforce_eager": True, "block_size": 32, "max_num_seqs": 32}
        backend = {"distributed_executor_backend": "uni"}
        self.llm = LLM(str(folder), **(defaults | backend | options))
        self.label("first")
        self.asked: list[tuple[raw.Ask, raw.Scored]] = []
        self._score = raw.score
        raw.score = self._recorded

    def _recorded(self, llm, asks):
        found = self._score(llm, asks)
        self.asked += zip(asks, found, strict=True)
        return found

    def label(self, version: str):
        """Say which weights are served."""
        self.llm.llm_engine.set_weight_version(version)

    def load(self, folder: Path):
        """Serve the weights of a folder (of a model whose embeddings are not tied)."""
        from safetensors.torch import load_file

        tensors = load_file(folder / "model.safetensors")
        self.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": tensors.items()})
        assert self.llm.reset_prefix_cache()

    def answer(self, requests, version="first", sampling=None, eos=(1,), cuts=ShortCuts()):  # noqa: B008
        """`answer`, from an empty prefix cache."""
        self.llm.reset_prefix_cache()
        return self.answer_on(requests, version, sampling, eos, cuts)

    def answer_on(self, requests, version="first", sampling=None, eos=(1,), cuts=ShortCuts()):  # noqa: B008
        """`answer`, with the prefix cache as it is; `asks` tells what vLLM was asked meanwhile."""
        self.asked.clear()
        encoder = Encoder(make_tokenizer(), eos)
        return answer(self.llm, encoder, requests, version, sampling or {}, cuts)

    def asks(self):
        """The scoring requests of the last answer, each with what came back."""
        return self.asked

    def printed_by(self, requests) -> bytes:
        """What an answer writes to standard output."""
        kept = os.dup(1)
        with tempfile.TemporaryFile() as file:
            os.dup2(file.fileno(), 1)
            try:
                self.answer(requests)
            finally:
                os.dup2(kept, 1)
            file.seek(0)
            return file.read()

    def check_sampling(self, sampling):
        raw.check_sampling(sampling)

    def lm_eval(self, folder: Path, task_folder: Path, tasks: Sequence[str], seed: int, options):
        """What lm-eval's own class for vLLM finds with this engine: its samples by task.

        Args:
            folder: of the model; for its tokenizer.
            task_folder, tasks: which.
            seed: of few-shot examples.
            options: of `TaskSpec`, by task.
        """
        version = importlib.metadata.version
        with suppress(importlib.metadata.PackageNotFoundError):
            # The class asks for the version of `vllm`; the CPU's distribution is `vllm-cpu`, and
            # vLLM finds its platform by the suffix.
            cpu = version("vllm-cpu").removesuffix("+cpu") + "+cpu"
            importlib.metadata.version = lambda name: cpu if name == "vllm" else version(name)
        from lm_eval import simple_evaluate
        from lm_eval.models import vllm_causallms
        from lm_eval.tasks import TaskManager

        llm = self.llm
        vllm_causallms.LLM = lambda **_: llm
        self.llm.reset_prefix_cache()
        os.chdir(folder)
        samples = {}
        for task in tasks:
            os.chdir(next(task_folder.glob(f"**/{task}.yaml")).parent)  # its paths are relative
            chosen = dict(options.get(task, {}))
            found = simple_evaluate(
                model=vllm_causallms.VLLM(pretrained=str(folder), dtype="float32"),
                tasks=[task],
                task_manager=TaskManager(include_path=str(task_folder), include_defaults=False),
                fewshot_random_seed=seed,
                bootstrap_iters=0,
                log_samples=True,
                gen_kwargs=chosen.pop("generation", None),
                **chosen,
            )
            samples[task] = [
                {key: sample[key] for key in ("doc_id", "filter", "arguments", "resps")}
                for sample in found["samples"][task]
            ]
        return samples


def without_special_tokens(text: str) -> str:
    """lm-eval's class for vLLM leaves special tokens in the text, its class for Hugging Face not."""
    return re.sub("<(pad|unk|bos)>", "", text)


def _serve(connection, folder, options):
    os.environ.update(ENVIRONMENT)
    engine = InProcess(folder, options)
    connection.send(None)
    while True:
        try:
            name, arguments, named = connection.recv()
        except EOFError:
            return
        try:
            connection.send((getattr(engine, name)(*arguments, **named), None))
        except Exception as error:
            connection.send((None, error))


class Served:
    """Calls an `InProcess` in another process; its errors are raised here."""

    def __init__(self, folder: Path, **options):
        self.folder = folder
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        arguments = (theirs, folder, options)
        self._process = context.Process(target=_serve, args=arguments, daemon=True)
        self._process.start()
        theirs.close()
        self._connection.recv()

    def __getattr__(self, name):
        def call(*arguments, **named):
            self._connection.send((name, arguments, named))
            result, error = self._connection.recv()
            if error is not None:
                raise error
            return result

        return call

    def close(self):
        self._connection.close()
        self._process.join(20)
        self._process.kill()

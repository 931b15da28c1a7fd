"""The run file's `engine` and `cluster`: what answers, and where."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from evomerge.config.section import Section


class Engine(Section):
    """What holds the model and answers."""

    kind: Literal["transformers", "vllm"] = Field(
        default="transformers", description="`transformers` (embedded), or `vllm`"
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        default="float32", description="of the resident model"
    )
    device: str = Field(
        default="auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?)$",
        description="`auto`, `cpu`, `cuda`, `cuda:1`",
    )
    max_model_len: int | None = Field(
        default=None,
        ge=1,
        description="longest prompt and answer, in tokens; default: what the model allows",
    )
    source_memory: float | None = Field(
        default=None,
        gt=0,
        description="most GB of GPU or pinned memory that the sources are kept in; default: what "
        "is free beside the model",
    )
    trust_remote_code: bool = Field(
        default=False, description="run a model's own code (off: safer)"
    )
    batch_tokens: int = Field(
        default=8192, ge=1, description="transformers: tokens per forward pass, padding included"
    )
    tensor_parallel: int = Field(
        default=1,
        ge=1,
        description="vllm: GPUs (on a CPU: processes) that one model is spread over",
    )
    arguments: dict[str, Any] = Field(
        default={},
        description="vllm: engine arguments as vLLM names them (`gpu_memory_utilization: 0.8`)",
    )
    sampling: dict[str, Any] = Field(
        default={},
        description="vllm: sampling parameters of generation beyond the task's "
        "(`repetition_penalty: 1.1`)",
    )

    @model_validator(mode="after")
    def _keys_of_this_kind(self) -> Self:
        own = {
            "transformers": {"batch_tokens"},
            "vllm": {"tensor_parallel", "arguments", "sampling"},
        }
        other = "vllm" if self.kind == "transformers" else "transformers"
        fields = type(self).model_fields
        # a run's own copy of its run file names every key, with its default
        changed = {n for n in self.model_fields_set if getattr(self, n) != fields[n].default}
        if strange := sorted(own[other] & changed):
            raise ValueError(
                f"'{strange[0]}' is for `kind: {other}`, and the engine is {self.kind}; remove it"
            )
        return self


class Cluster(Section):
    """Who evaluates."""

    executor: Literal["ray", "serial"] = Field(
        default="ray", description="`serial`: this process, to debug"
    )
    address: str = Field(default="local", description="`local`, `auto`, or a Ray cluster's address")
    evaluators: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        default="auto",
        description="evaluators; `auto`: all GPUs or cores, also of nodes that join later",
    )
    cpus_per_evaluator: float = Field(default=1, gt=0, description="CPU cores of an evaluator")
    gpus_per_evaluator: Annotated[float, Field(ge=0)] | Literal["auto"] = Field(
        default="auto",
        description="GPUs of an evaluator; `auto`: `engine.tensor_parallel` where there are GPUs",
    )
    deadline_seconds: float = Field(
        default=1800, gt=0, description="longest time one evaluation may take"
    )
    build_seconds: float = Field(
        default=1800, gt=0, description="longest time an evaluator may take to start"
    )
    straggler: float | None = Field(
        default=None,
        gt=1,
        description="cut an evaluation off that takes this many times the median of the last ones "
        "(recorded as timed out); default: none",
    )

"""Run by the interpreter that has mergekit: what it would do for each tensor of tiny models.

Reads a JSON list of recipes (YAML text, sources called m0, m1, ...) from stdin; writes, per recipe,
{tensor: {"shared": {name: value}, "inputs": {source: {name: value}}, "names": {source: tensor}}}.
"""

import contextlib
import json
import logging
import os
import sys
import tempfile

import torch
import yaml
from mergekit.architecture import arch_info_for_config
from mergekit.config import MergeConfiguration
from mergekit.options import MergeOptions
from mergekit.plan import MergePlanner
from transformers import Qwen3Config, Qwen3ForCausalLM

LAYERS = 5


def main() -> None:
    """Answer the recipes on stdin."""
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    texts = json.load(sys.stdin)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        os.chdir(folder)
        config = Qwen3Config(
            vocab_size=16,
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=LAYERS,
            num_attention_heads=2,
            num_key_value_heads=2,
            head_dim=4,
            tie_word_embeddings=False,
        )
        for name in ("m0", "m1", "m2"):
            Qwen3ForCausalLM(config).save_pretrained(name)
        answers = [plan(yaml.safe_load(text)) for text in texts]
    json.dump(answers, sys.stdout)


def plan(recipe: object) -> dict[str, object]:
    """What mergekit resolves for each output tensor of `recipe`."""
    config = MergeConfiguration.model_validate(recipe)
    model = config.referenced_models()[0].config()
    planner = MergePlanner(config, arch_info_for_config(model), MergeOptions(), model)
    planner._plan()
    return {
        weight.name: {
            "shared": dict(task.parameters.items()),
            "inputs": {str(m): dict(p.items()) for m, p in task.input_parameters.items()},
            "names": {str(m): w.name for m, w in task.gather_tensors.weight_info.items()},
        }
        for weight, task in planner._tensors
    }


if __name__ == "__main__":
    main()

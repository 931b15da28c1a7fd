"""Merges single tensors with mergekit. Run by mergekit's own Python: `python oracle_functions.py FOLDER`.

FOLDER/cases.json is {case: {"method", "parameters", "inputs"}}, the inputs by name, `base` among
them where there is one; FOLDER/inputs.safetensors has each tensor as `case/input`. Written are
FOLDER/merged.safetensors (case -> tensor) and FOLDER/refused.json (case -> why mergekit raised).
The method `della_probabilities` gives each element's probability to be kept.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from unittest.mock import patch

import torch
from mergekit.merge_methods import merge_tensors
from mergekit.sparsify import della_magprune
from safetensors.torch import load_file, save_file


def _merge(method: str, parameters: Mapping, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    if method == "della_probabilities":
        (tensor,) = inputs.values()
        with patch("torch.bernoulli", lambda chances: chances):
            return della_magprune(torch.ones_like(tensor) * tensor, **parameters) / tensor
    names = list(inputs)
    base = names.index("base") if "base" in names else None
    return merge_tensors(
        list(inputs.values()), method, parameters=parameters, ids=names, base_index=base
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    tensors = load_file(folder / "inputs.safetensors")
    merged, refused = {}, {}
    for case, asked in json.loads((folder / "cases.json").read_text()).items():
        inputs = {name: tensors[f"{case}/{name}"].clone() for name in asked["inputs"]}
        try:
            result = _merge(asked["method"], asked["parameters"], inputs)
        except ValueError as error:
            refused[case] = str(error)
        else:
            merged[case] = result.contiguous().clone()
    save_file(merged, folder / "merged.safetensors")
    (folder / "refused.json").write_text(json.dumps(refused))

"""Merges with mergekit. Run by mergekit's own Python: `python oracle.py FOLDER`.

Every FOLDER/*.yaml is merged into the folder of its name. One process for all: a start costs more
than all the merges.
"""

import sys
from pathlib import Path

import torch
import yaml
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions

if __name__ == "__main__":
    torch.set_num_threads(1)
    options = MergeOptions(quiet=True, random_seed=0, write_model_card=False, copy_tokenizer=False)
    for path in sorted(Path(sys.argv[1]).glob("*.yaml")):
        config = MergeConfiguration.model_validate(yaml.safe_load(path.read_text()))
        run_merge(config, str(path.with_suffix("")), options=options)

"""Merges with mergekit. Run by mergekit's own Python: `python oracle.py FOLDER`.

Every FOLDER/*.yaml is merged into the folder of its name. One process for all: a start costs more
than all the merges. Of a case called refused_*, mergekit's error is written to its folder's
error.txt instead.
"""

import sys
from pathlib import Path

import torch
import yaml
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions


def _merge(path: Path) -> None:
    options = MergeOptions(quiet=True, random_seed=0, write_model_card=False, copy_tokenizer=False)
    config = MergeConfiguration.model_validate(yaml.safe_load(path.read_text()))
    run_merge(config, str(path.with_suffix("")), options=options)


def _refuse(path: Path) -> None:
    try:
        _merge(path)
    except Exception as error:  # whatever kind it is: the text is what a test looks at
        path.with_suffix("").mkdir(exist_ok=True)
        (path.with_suffix("") / "error.txt").write_text(str(error))


if __name__ == "__main__":
    torch.set_num_threads(1)
    for path in sorted(Path(sys.argv[1]).glob("*.yaml")):
        (_refuse if path.name.startswith("refused_") else _merge)(path)

"""The benchmark's protocol, on a folder of its own."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from benchmarks.irt import simulated

ROOT = Path(__file__).parents[3]


def test_one_line_with_every_method(tmp_path: Path):
    np.savez(tmp_path / "tiny.npz", Y=simulated(1, 32, 40).astype(np.uint8))
    methods = "random/mean,random/weighted,variance/kriging,adaptive/adaptive"
    command = [sys.executable, "-m", "benchmarks.irt", str(tmp_path), "--seeds", "2"]
    command += ["--items", "5,15,40", "--calibration", "12,24", "--methods", methods]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    table = json.loads(line)["table"]
    assert set(table) == {"tiny, 12 models", "tiny, 24 models"}
    # 12 models are too few for the anchor-weighted mean, which is left out and not guessed at.
    assert set(table["tiny, 24 models"]) - set(table["tiny, 12 models"]) == {"random/weighted"}
    for figures in table["tiny, 24 models"].values():
        assert set(figures["mae"]) == {"5", "15"}
        assert 0 < figures["mae"]["15"] < 30
        assert 0.5 < figures["coverage"]["5"] <= 1


def test_a_folder_without_data_is_an_error(tmp_path: Path):
    command = [sys.executable, "-m", "benchmarks.irt", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 1
    assert "no NAME.npz file there" in done.stderr

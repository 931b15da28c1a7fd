"""A disk that fills while recording: a clear error, nothing recorded is lost, resume works."""

import resource
import subprocess
import sys

from tests.cli.test_kill import recorded
from tests.conftest import show


def test_nothing_recorded_is_lost(write_run, evomerge, tmp_path):
    folder = tmp_path / "run"
    run_file = write_run({"search.budget.evaluations": 40, "search.random_baseline": False})
    assert evomerge("search", run_file, "--dir", folder, "--evaluations", 8).returncode == 0
    before = show(folder)

    def small_disk() -> None:  # no file may grow beyond this: writes fail as on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (120_000, 120_000))

    command = [sys.executable, "-m", "evomerge.cli", "resume", str(folder), "--evaluations", "40"]
    done = subprocess.run(
        command, preexec_fn=small_disk, capture_output=True, text=True, check=False
    )
    assert done.returncode == 3, done.stderr
    assert "could not be written" in done.stderr
    assert "resume" in done.stderr
    assert "Traceback" not in done.stderr
    assert recorded(folder) >= len(before["candidates"])

    done = evomerge("resume", folder)
    assert done.returncode == 0, done.stderr
    after = show(folder)
    assert after["budget"]["done"] == 40
    for old, new in zip(before["candidates"], after["candidates"], strict=False):
        assert (old["genome"], old["objectives"]) == (new["genome"], new["objectives"])

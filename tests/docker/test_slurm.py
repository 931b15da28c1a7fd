"""slurm.sh with stand-ins for srun, scontrol, ray and evomerge.

What is looked at is the order of the commands and what signals do. That Slurm obeys is not tested here.
"""

import os
import shutil
import signal
import subprocess
import time

import pytest

from tests.conftest import ROOT
from tests.docker.test_entrypoint import stand_in

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")

SCRIPT = ROOT / "docker" / "slurm.sh"


@pytest.fixture
def job(tmp_path):
    """Start the script as Slurm would; its log: a line for each command."""
    log = tmp_path / "log"
    log.touch()
    stand_in(
        tmp_path / "bin", "srun", f'echo "srun $*" >> {log}; sleep 60 & trap "kill $!" TERM; wait'
    )
    stand_in(
        tmp_path / "bin", "scontrol",
        f'echo "scontrol $*" >> {log}\n[ "$1" = show ] && printf "n1\\nn2\\nn3\\n" || true',
    )  # fmt: skip
    stand_in(tmp_path / "bin", "ray", f'echo "ray $*" >> {log}')
    working = f"""echo "evomerge $* at $RAY_ADDRESS" >> {log}
trap 'echo "evomerge heard INT" >> {log}; exit 3' INT
if [ -n "${{WORKS:-}}" ]; then while :; do sleep 0.1; done; fi"""
    stand_in(tmp_path / "bin", "evomerge", working)

    def start(**more):
        environment = {
            "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "SLURM_JOB_ID": "41", "SLURM_JOB_NODELIST": "n[1-3]", **more,
        }  # fmt: skip
        command = [SCRIPT, "/input/run.yaml", tmp_path / "night", "--hours", "2"]
        return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True), log

    return start


def lines(log):
    return log.read_text().splitlines()


def test_the_order_of_its_commands(job, tmp_path):
    process, log = job()
    assert process.wait(60) == 0, process.stderr.read()
    found = lines(log)
    place = {line.split(" -- ")[0]: number for number, line in enumerate(found)}
    (head,) = [line for line in found if line.startswith("srun") and "--head" in line]
    assert "--nodes=1 --ntasks=1 --nodelist=n1 ray start --head --block" in head
    assert "--node-ip-address=n1 --port=20041" in head
    health = "ray health-check --address=n1:20041"
    (workers,) = [line for line in found if line.startswith("srun") and "--head" not in line]
    assert workers == (
        "srun --overlap --nodes=2 --ntasks=2 --exclude=n1 ray start --block --address=n1:20041"
    )
    searched = f"evomerge search /input/run.yaml --dir {tmp_path / 'night'} --hours 2 at n1:20041"
    assert place[health] < place[workers]
    assert found.count(searched) == 1
    assert found[0] == "scontrol show hostnames n[1-3]"
    assert not any(line.startswith("scontrol requeue") for line in found)


def test_the_same_command_continues(job, tmp_path):
    (tmp_path / "night").mkdir()
    (tmp_path / "night" / "run.db").touch()
    process, log = job()
    assert process.wait(60) == 0
    resumed = f"evomerge resume {tmp_path / 'night'} --moved /input --hours 2 at n1:20041"
    assert resumed in lines(log)


def wait_for(log, text):
    patience = time.monotonic() + 30
    while text not in log.read_text():
        assert time.monotonic() < patience, log.read_text()
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("sent", "requeued"), [(signal.SIGUSR1, True), (signal.SIGTERM, False), (signal.SIGINT, False)]
)
def test_a_signal_is_one_ctrl_c_and_the_end_of_time_requeues(sent, requeued, job):
    process, log = job(WORKS="1")
    wait_for(log, "evomerge search")
    time.sleep(0.3)
    process.send_signal(sent)
    assert process.wait(60) == 3, process.stderr.read()
    assert lines(log).count("evomerge heard INT") == 1
    assert ("scontrol requeue 41" in lines(log)) == requeued


def test_a_launcher_comes_before_every_command(job, tmp_path):
    stand_in(tmp_path / "bin", "boxed", f'echo "boxed $*" >> {tmp_path / "log"}; exec "${{@:2}}"')
    process, log = job(EVOMERGE_START="boxed --nv")
    # the stand-in drops its own option: what follows is the command
    process.wait(60)
    assert any(line.startswith("boxed --nv evomerge search") for line in lines(log))
    assert any(
        line.startswith("srun") and "boxed --nv ray start --head" in line for line in lines(log)
    )

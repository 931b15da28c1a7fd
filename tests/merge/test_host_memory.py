"""Memory as a container or a job bounds it: planted files as Linux writes them."""

import pytest

from evomerge.merge.host_memory import all_host_memory, free_host_memory

GB = 10**9


def plant(root, files):
    base = {
        "proc/meminfo": f"MemTotal: {1000 * GB // 1024} kB\nMemAvailable: {900 * GB // 1024} kB\n"
    }
    for name, text in (base | files).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{text}\n")
    return root


def test_this_machine_says_it():
    assert 10**7 < free_host_memory() <= all_host_memory()


def test_without_bounds_it_is_the_machines(tmp_path):
    plant(tmp_path, {"proc/self/cgroup": "0::/", "sys/fs/cgroup/memory.max": "max"})
    assert all_host_memory(tmp_path) == pytest.approx(1000 * GB, rel=1e-6)
    assert free_host_memory(tmp_path) == pytest.approx(900 * GB, rel=1e-6)


JOB = {
    "proc/self/cgroup": "0::/slurm/job_7/step_0",
    "sys/fs/cgroup/slurm/job_7/step_0/memory.max": "max",
    "sys/fs/cgroup/slurm/job_7/step_0/memory.current": str(9 * GB),
    "sys/fs/cgroup/slurm/job_7/memory.max": str(64 * GB),
    "sys/fs/cgroup/slurm/job_7/memory.current": str(40 * GB),
    "sys/fs/cgroup/slurm/job_7/memory.stat": (
        f"anon {10 * GB}\ninactive_file {24 * GB}\nactive_file {6 * GB}"
    ),
}
CONTAINER = {
    "proc/self/cgroup": "0::/kubepods/pod1/abc",
    "sys/fs/cgroup/memory.max": str(64 * GB),
    "sys/fs/cgroup/memory.current": str(10 * GB),
}
FIRST_VERSION = {
    "proc/self/cgroup": "5:cpu,cpuacct:/\n4:memory:/job",
    "sys/fs/cgroup/memory/memory.limit_in_bytes": str(2**63 - 4096),
    "sys/fs/cgroup/memory/memory.usage_in_bytes": str(100 * GB),
    "sys/fs/cgroup/memory/job/memory.limit_in_bytes": str(64 * GB),
    "sys/fs/cgroup/memory/job/memory.usage_in_bytes": str(10 * GB),
}


@pytest.mark.parametrize(
    "files", [JOB, CONTAINER, FIRST_VERSION], ids=["job", "container", "version 1"]
)
def test_the_least_bound_counts_and_cached_files_do_not(files, tmp_path):
    plant(tmp_path, files)
    assert all_host_memory(tmp_path) == 64 * GB
    assert free_host_memory(tmp_path) == 54 * GB

"""What `check` says of memory where the models do not lie in this machine's."""

from pathlib import Path

import torch

from evomerge.resources import check_resources
from evomerge.run_file import folder_of, load_run_file
from evomerge.run_sources import locate_sources, open_run_sources


def test_on_a_gpu_no_model_lies_in_host_memory(write_run, monkeypatch):
    run_file = write_run()
    config = load_run_file(run_file)
    sources = open_run_sources(config, locate_sources(config, folder_of(config, run_file)))
    model = Path(config.models.base.model)
    memory = dict(check_resources(config, sources, model, 4))["memory"]
    assert "for 1 evaluator(s) and the mapped sources;" in memory
    monkeypatch.setattr("fitness.engines.resident.pick_device", lambda _: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (10**12, 10**12))
    # one evaluator, in this process, of a model that host memory would not hold
    monkeypatch.setattr("evomerge.merge.host_memory.all_host_memory", lambda: 10)
    facts = dict(check_resources(config, sources, model, 4))
    assert " GB for the mapped sources;" in facts["memory"]
    assert "of GPU for the model" in facts["memory per evaluator"]

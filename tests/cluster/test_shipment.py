"""What an evaluator gets on a node: the driver's own paths, a copy that is alike, or what was fetched."""

import json
import os
import resource
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from evomerge.cluster.delivery import fetched
from evomerge.cluster.parcels import Parcel, ParcelFile
from evomerge.cluster.shipment import Shipment, model_files
from evomerge.judging import build_judge
from evomerge.merge.locations import Location
from evomerge.run_file import load_run_file
from search_spaces.errors import InputError
from tests.cluster.shipping import (
    Carrier,
    filler,
    lay_out,
    shipment_of,
    unseen,
    unseen_config,
)

BIG = 300_000


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A driver's machine, and a cache that stands for another node's."""
    monkeypatch.setenv("EVOMERGE_CACHE", str(tmp_path / "cache"))
    top = tmp_path / "driver"
    run_file = lay_out(top, weights=BIG)
    config, shipment = shipment_of(run_file)
    return top, config, shipment


def kept(top):
    """Names in the node's store of parcels, locks aside."""
    store = top.parent / "cache" / "sources"
    return [p.name for p in store.iterdir() if p.suffix != ".lock"] if store.exists() else []


def whole(shipment):
    """Bytes of all its parcels."""
    parcels = (shipment.tasks, *(parcel for (parcel,) in shipment.sources.values()))
    return sum(parcel.size for parcel in parcels)


def test_paths_that_are_valid_are_used_as_they_are(machine):
    top, config, shipment = machine
    again, folder, places = shipment.unpacked(config, None)
    assert again == config
    assert folder == top / "night"
    assert {name: place.model for name, place in places.items()} == {
        name: top / "models" / name for name in ("base", "lunari", "abacus")
    }
    assert kept(top) == []


def test_a_copy_is_known_by_its_content_whatever_its_times(machine):
    top, config, shipment = machine
    for path in top.rglob("*"):
        os.utime(path, (1e9, 1e9))
    assert shipment.unpacked(config, None)[1] == top / "night"


def test_another_model_at_the_same_path_is_not_used(machine):
    """Same name and size, one bit of difference: scores of another model, if it was taken."""
    top, config, shipment = machine
    original = (top / "models" / "lunari" / "model.safetensors").read_bytes()
    carrier = Carrier({**shipment.files})
    safe = top.parent / "safe"
    safe.write_bytes(original)
    digest = next(
        f.digest for f in shipment.sources["lunari"][0].files if f.path == "model.safetensors"
    )
    carrier.files[digest] = str(safe)
    other = bytearray(original)
    other[-1] ^= 1
    (top / "models" / "lunari" / "model.safetensors").write_bytes(other)
    _, _, places = shipment.unpacked(config, carrier)
    assert places["base"].model == top / "models" / "base"
    assert (places["lunari"].model / "model.safetensors").read_bytes() == original
    assert len(kept(top)) == 1


def test_a_file_that_would_win_over_the_shards_is_noticed(machine):
    top, config, _ = machine
    lunari = top / "models" / "lunari"
    (lunari / "model.safetensors").rename(lunari / "model-1.safetensors")
    index = {"weight_map": {"a": "model-1.safetensors"}}
    (lunari / "model.safetensors.index.json").write_text(json.dumps(index))
    _, shipment = shipment_of(top / "night" / "run.yaml")
    assert shipment.unpacked(config, None)
    shutil.copy(top / "models" / "abacus" / "model.safetensors", lunari)
    _, _, places = shipment.unpacked(config, Carrier(shipment.files))
    assert places["lunari"].model != lunari
    assert {p.name for p in model_files(places["lunari"].model)} >= {"model-1.safetensors"}
    assert not (places["lunari"].model / "model.safetensors").exists()


def test_what_no_loader_reads_stays_at_home(machine):
    top, _, _ = machine
    lunari = top / "models" / "lunari"
    for name in ("pytorch_model.bin", "model.gguf", "consolidated.safetensors", "modeling.py"):
        (lunari / name).write_bytes(b"much")
    (lunari / "additional_chat_templates").mkdir()
    (lunari / "additional_chat_templates" / "tools.jinja").write_text("{{ tools }}")
    (top / "shelf" / "tasks" / "llama.safetensors").write_bytes(b"much")
    (top / "shelf" / "tasks" / ".git").mkdir()
    (top / "shelf" / "tasks" / ".git" / "config").write_text("[core]")
    _, shipment = shipment_of(top / "night" / "run.yaml")
    assert [f.path for f in shipment.sources["lunari"][0].files] == [
        "additional_chat_templates/tools.jinja", "config.json", "generation_config.json",
        "model.safetensors", "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    assert not [f for f in shipment.tasks.files if "llama" in f.path or ".git" in f.path]
    assert "modeling.py" in {p.name for p in model_files(lunari, code=True)}


def test_fetched_files_are_the_drivers_and_ask_the_same_items(machine):
    """The task's data lies beside its folder, its YAML includes one above, an objective is a file."""
    top, config, shipment = machine
    carrier = Carrier(shipment.files)
    there, folder, places = unseen(shipment, top).unpacked(unseen_config(config, top), carrier)
    assert not folder.is_relative_to(top)
    for name, place in places.items():
        for path in model_files(top / "models" / name):
            assert (place.model / path.name).read_bytes() == path.read_bytes()
    ours = build_judge(config, top / "night", top / "models" / "base")
    theirs = build_judge(there, folder, places["base"].model)
    assert theirs.rows() == ours.rows()
    assert theirs.specs[2].function.endswith("shelf/longest.py:longest")
    assert not any(str(top) in str(spec) for spec in theirs.specs)


def test_fetched_once_and_found_again(machine):
    top, config, shipment = machine
    there, config = unseen(shipment, top), unseen_config(config, top)
    carrier = Carrier(shipment.files)
    first = there.unpacked(config, carrier)
    assert carrier.total == whole(shipment)
    again = Carrier(shipment.files)
    assert there.unpacked(config, again) == first
    assert again.carried == []
    assert len(kept(top)) == 4


def test_what_was_damaged_in_the_store_is_fetched_again_and_nothing_else(machine):
    top, config, shipment = machine
    there, config = unseen(shipment, top), unseen_config(config, top)
    _, _, places = there.unpacked(config, Carrier(shipment.files))
    damaged = places["base"].model / "model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    carrier = Carrier(shipment.files)
    there.unpacked(config, carrier)
    assert len(carrier.carried) == 1
    assert damaged.read_bytes() == (top / "models" / "base" / damaged.name).read_bytes()


def test_a_damaged_transfer_is_repeated(machine):
    top, config, shipment = machine
    carrier = Carrier(shipment.files, spoil=1)
    _, _, places = unseen(shipment, top).unpacked(unseen_config(config, top), carrier)
    digests = [digest for digest, _, _ in carrier.carried]
    assert digests[0] == digests[1]
    parcels = (shipment.tasks, *(parcel for (parcel,) in shipment.sources.values()))
    assert len(digests) == sum(len(parcel.files) for parcel in parcels) + 1
    first = sorted(model_files(top / "models" / "base"))[0].name
    assert (places["base"].model / first).read_bytes() == (
        top / "models" / "base" / first
    ).read_bytes()


def test_a_transfer_damaged_twice_is_an_error_and_leaves_no_parcel(machine):
    top, config, shipment = machine
    with pytest.raises(InputError, match="twice") as caught:
        unseen(shipment, top).unpacked(unseen_config(config, top), Carrier(shipment.files, spoil=2))
    assert caught.value.passed == "'/driver/models/base/config.json'"
    assert caught.value.where == f"node {os.uname().nodename}"
    assert [name for name in kept(top) if "." not in name] == []


def test_an_interrupted_fetch_goes_on_where_it_ended(machine):
    top, config, shipment = machine
    there, config = unseen(shipment, top), unseen_config(config, top)
    limit = BIG + 100_000
    carrier = Carrier(shipment.files, stop_after=limit)
    with pytest.raises(ConnectionError):
        there.unpacked(config, carrier)
    assert [name for name in kept(top) if "." not in name] == []
    again = Carrier(shipment.files)
    _, _, places = there.unpacked(config, again)
    assert again.carried[0][1] > 0, "the file in flight starts over"
    assert carrier.total + again.total == whole(shipment), "something was fetched twice"
    assert (places["base"].model / "vocabulary.model").read_bytes() == filler(BIG)
    assert [name for name in kept(top) if "." in name] == []


def test_a_fetch_interrupted_in_a_damaged_file_recovers(machine):
    """The first half is wrong already when the rest arrives: the hash of both tells, the file starts over."""
    top, config, shipment = machine
    there, config = unseen(shipment, top), unseen_config(config, top)
    base = shipment.sources["base"][0]
    sizes = {f.path: f.size for f in base.files}
    before = sum(sizes[f.path] for f in base.files if f.path < "model.safetensors")
    carrier = Carrier(shipment.files, stop_after=before + 70_000)
    with pytest.raises(ConnectionError):
        there.unpacked(config, carrier)
    (part,) = (top.parent / "cache" / "sources").glob("*.part")
    part.write_bytes(b"?" * part.stat().st_size)
    _, _, places = there.unpacked(config, Carrier(shipment.files))
    model = "model.safetensors"
    assert (places["base"].model / model).read_bytes() == (
        top / "models" / "base" / model
    ).read_bytes()


def test_a_driver_outside_of_the_cluster_cannot_be_asked(machine):
    top, config, shipment = machine
    with pytest.raises(InputError, match="ray job submit"):
        unseen(shipment, top).unpacked(unseen_config(config, top), None)


FULL = """
import sys, pickle
shipment, config, carrier = pickle.loads(sys.stdin.buffer.read())
from search_spaces.errors import InputError
try:
    shipment.unpacked(config, carrier)
except InputError as error:
    print(error)
"""


def test_a_full_disk_is_named(machine):
    import pickle

    top, config, shipment = machine
    parts = unseen(shipment, top), unseen_config(config, top), Carrier(shipment.files)

    def small_disk() -> None:  # no file may grow beyond this: writes fail as on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (BIG - 100_000, BIG - 100_000))

    done = subprocess.run(
        [sys.executable, "-c", FULL],
        input=pickle.dumps(parts),
        preexec_fn=small_disk,
        capture_output=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    said = done.stdout.decode()
    assert said.startswith(f"node {os.uname().nodename}: '{top.parent}/cache/sources/")
    assert "model.safetensors': it cannot be written (File too large)" in said
    assert "EVOMERGE_CACHE" in said
    assert [name for name in kept(top) if "." not in name] == []


def test_a_disk_that_is_too_small_is_noticed_before_anything_is_fetched(machine):
    petabytes = ParcelFile("model.safetensors", 10**16, 0, "0" * 64)
    carrier = Carrier({})
    with pytest.raises(InputError, match=r"10000000\.00 GB are to be fetched") as caught:
        fetched(Parcel("/driver/models/giant", (petabytes,)), carrier)
    assert caught.value.passed == "'/driver/models/giant/model.safetensors'"
    assert "EVOMERGE_CACHE" in caught.value.remedy
    assert carrier.carried == []


def test_data_named_by_an_absolute_path_has_to_be_there(machine):
    top, config, _ = machine
    task = top / "shelf" / "tasks" / "sums.yaml"
    content = yaml.safe_load(task.read_text())
    data = top / "shelf" / "data" / "sums.jsonl"
    content["dataset_kwargs"]["data_files"] = str(data)
    task.write_text(yaml.safe_dump(content))
    _, shipment = shipment_of(top / "night" / "run.yaml")
    assert [f"/{f.path}" for f in shipment.fixed.files] == [str(data)]
    data.rename(data.with_suffix(".away"))
    with pytest.raises(InputError, match="relative to the task's YAML") as caught:
        shipment.unpacked(config, Carrier(shipment.files))
    assert str(data) in caught.value.passed


def test_an_objective_of_another_version_is_refused(machine):
    _, config, shipment = machine
    of_a_module = replace(shipment, functions={"statistics:fmean": "0" * 64})
    with pytest.raises(InputError, match="differs from the driver's"):
        of_a_module.unpacked(config, None)


def test_adapters_and_hub_snapshots_are_shipped(machine, tmp_path):
    """A snapshot in the Hub's cache is links to files that are named by their hashes."""
    top, _, _ = machine
    config = load_run_file(top / "night" / "run.yaml")
    blobs, commit = tmp_path / "hub" / "blobs", "c" * 40
    blobs.mkdir(parents=True)
    snapshot = tmp_path / "hub" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    for number, path in enumerate((top / "models" / "lunari").iterdir()):
        shutil.copy(path, blobs / str(number))
        (snapshot / path.name).symlink_to(blobs / str(number))
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors", "optimizer.pt"):
        (adapter / name).write_text(name)
    place = Location(snapshot, adapter)
    shipment = Shipment.of(config, top / "night", {"lunari": place})
    model, lora = shipment.sources["lunari"]
    assert [f.path for f in lora.files] == ["adapter_config.json", "adapter_model.safetensors"]
    carrier = Carrier(shipment.files)
    far = replace(
        shipment,
        sources={"lunari": (replace(model, folder="/hub/x"), replace(lora, folder="/hub/y"))},
    )
    _, _, places = far.unpacked(config, carrier)
    assert places["lunari"].lora is not None
    assert (places["lunari"].lora / "adapter_config.json").read_text() == "adapter_config.json"
    weights = places["lunari"].model / "model.safetensors"
    assert not weights.is_symlink()
    assert weights.read_bytes() == (snapshot / "model.safetensors").read_bytes()

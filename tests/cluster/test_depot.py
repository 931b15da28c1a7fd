"""Files on their way through Ray, between three nodes of one machine.

Each node has a cache of its own, and the shipment says of the driver's files what another machine would
find: nothing at their paths.
"""

import os
import signal
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

from evomerge.cluster.depot import DepotFetch, open_depot
from evomerge.cluster.executor import Job, RayExecutor
from evomerge.cluster.shipment import Shipment
from evomerge.evaluator import EvaluatorFactory
from evomerge.merge.locations import Location
from evomerge.search.baselines import average
from search_spaces.errors import InputError
from tests.cluster.shipping import filler, lay_out, shipment_of, unseen, unseen_config

PIECE = 2**16
WEIGHTS = 24 * 2**20


@pytest.fixture(scope="module")
def cluster():
    """A head, where this process drives, and two more nodes."""
    memory = {"object_store_memory": 80 * 2**20}
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False, **memory}
    )
    for name in ("left", "right"):
        cluster.add_node(num_cpus=2, resources={name: 100}, **memory)
    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    """The driver's files, 24 MiB among them; its shipment; and as other nodes see it."""
    top = tmp_path_factory.mktemp("driver")
    config, shipment = shipment_of(lay_out(top, weights=WEIGHTS))
    return config, shipment, unseen(shipment, top), unseen_config(config, top)


@dataclass
class Counting:
    """A depot's fetch that notes in a file how many bytes came."""

    fetch: DepotFetch
    note: str

    def __call__(self, digest, start, size):
        for piece in self.fetch(digest, start, size):
            with open(self.note, "a") as file:
                file.write(f"{len(piece)}\n")
            yield piece


class Node:
    """An evaluator's place: it receives a shipment, and looks at what it got."""

    def process(self):
        return os.getpid()

    def receive(self, shipment, config, fetch):
        _, folder, places = shipment.unpacked(config, fetch)
        model = places["base"].model / "vocabulary.model"
        return str(folder), str(model), model.read_bytes() == filler(WEIGHTS)


def node(name, cache):
    """An actor on that node, whose cache is `cache`."""
    environment = {"env_vars": {"EVOMERGE_CACHE": str(cache)}}
    options = {"num_cpus": 0, "resources": {name: 1}, "runtime_env": environment}
    return ray.remote(Node).options(**options).remote()


def carried(note):
    return sum(map(int, note.read_text().split())) if note.exists() else 0


def whole(shipment):
    parcels = (shipment.tasks, *(parcel for (parcel,) in shipment.sources.values()))
    return sum(parcel.size for parcel in parcels)


def test_each_node_fetches_once_though_two_evaluators_ask(cluster, machine, tmp_path):
    _, shipment, there, config = machine
    fetch = open_depot(shipment.files)
    asked = []
    for name in ("left", "left", "right"):
        actor = node(name, tmp_path / name)
        counting = Counting(fetch, str(tmp_path / f"{name}.bytes"))
        asked.append(actor.receive.remote(there, config, counting))
    first, second, other = ray.get(asked)
    assert first == second
    assert [alike for _, _, alike in (first, second, other)] == [True] * 3
    assert str(tmp_path / "left") in first[0]
    assert str(tmp_path / "right") in other[0]
    for name in ("left", "right"):
        assert carried(tmp_path / f"{name}.bytes") == whole(shipment)


def test_an_evaluator_killed_while_it_fetches_leaves_its_part_to_the_next(
    cluster, machine, tmp_path
):
    _, shipment, there, config = machine
    fetch = open_depot(shipment.files, PIECE)
    actor, notes = node("left", tmp_path / "cache"), tmp_path / "first"
    victim = ray.get(actor.process.remote())
    lost = actor.receive.remote(there, config, Counting(fetch, str(notes)))
    while carried(notes) < WEIGHTS // 4:
        time.sleep(0.01)
    os.kill(victim, signal.SIGKILL)
    with pytest.raises(ray.exceptions.RayActorError):
        ray.get(lost)
    kept = [p.name for p in (tmp_path / "cache" / "sources").iterdir() if "." not in p.name]
    assert kept == [], "a parcel that is not whole has a whole one's name"
    again = tmp_path / "again"
    actor = node("left", tmp_path / "cache")
    _, _, alike = ray.get(actor.receive.remote(there, config, Counting(fetch, str(again))))
    assert alike
    # what was written of the last piece may be lost with the process, and is fetched again
    assert carried(again) <= whole(shipment) - carried(notes) + 4 * PIECE


def test_a_depot_that_dies_is_started_again(cluster, machine, tmp_path):
    _, shipment, there, config = machine
    fetch = open_depot(shipment.files, PIECE)
    notes = tmp_path / "bytes"

    def end_it():
        while carried(notes) < WEIGHTS // 4:
            time.sleep(0.01)
        ray.kill(fetch.depot, no_restart=False)

    killer = threading.Thread(target=end_it)
    killer.start()
    actor = node("right", tmp_path / "cache")
    _, _, alike = ray.get(actor.receive.remote(there, config, Counting(fetch, str(notes))))
    killer.join()
    assert alike
    assert carried(notes) == whole(shipment)


def test_a_file_changed_after_it_was_hashed_is_refused_on_the_other_node(
    cluster, machine, tmp_path
):
    """The evaluators would score another model than the run's records name."""
    _, shipment, there, config = machine
    digest = next(f.digest for f in shipment.sources["lunari"][0].files if "safetensors" in f.path)
    other = tmp_path / "other"
    content = bytearray(Path(shipment.files[digest]).read_bytes())
    content[-1] ^= 1
    other.write_bytes(content)
    fetch = open_depot({**shipment.files, digest: str(other)})
    with pytest.raises(InputError, match="not what the driver hashed") as caught:
        ray.get(node("left", tmp_path / "cache").receive.remote(there, config, fetch))
    assert "models/lunari/model.safetensors" in caught.value.passed
    gone = open_depot({**shipment.files, digest: str(tmp_path / "gone")})
    with pytest.raises(InputError, match="cannot be read any more"):
        ray.get(node("left", tmp_path / "cache").receive.remote(there, config, gone))


@dataclass(frozen=True)
class BuildThere:
    """What an evaluator's factory does on a node that lacks the driver's files."""

    factory: EvaluatorFactory
    shipment: Shipment
    fetch: DepotFetch
    cache: str

    def __call__(self):
        os.environ["EVOMERGE_CACHE"] = self.cache
        config, folder, folders = self.shipment.unpacked(self.factory.config, self.fetch)
        return replace(self.factory, config=config, folder=folder, folders=folders)()


def test_scores_of_evaluators_with_fetched_files_are_those_of_the_drivers(
    cluster, machine, tmp_path
):
    config, shipment, there, config_there = machine
    names = {name: parcels[0].folder for name, parcels in shipment.sources.items()}
    folders = {name: Location(Path(folder)) for name, folder in names.items()}
    here = EvaluatorFactory(config, Path(shipment.folder), folders)
    recipe = average(["base", "lunari", "abacus"], None)
    own = here()
    expected = own.evaluate(recipe, "search")
    own.close()
    assert expected.scored, expected.reason
    far = BuildThere(
        replace(here, config=config_there),
        there,
        open_depot(shipment.files),
        str(tmp_path / "cache"),
    )
    executor = RayExecutor(far, address=cluster.address, evaluators=2)
    found = [e for _, e in executor.run(Job(i, recipe, "search") for i in range(2))]
    executor.close()
    for evaluation in found:
        assert evaluation.scored, evaluation.reason
        assert evaluation.objectives == expected.objectives
        assert evaluation.responses == expected.responses
    assert (tmp_path / "cache" / "sources").is_dir()

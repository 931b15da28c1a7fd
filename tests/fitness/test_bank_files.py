"""Banks on disk: what is written is read, and each way a file can be broken has its own sentence."""

import tempfile
import zipfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fitness.bank_files import bank_file, join_banks, match_bank, read_bank, read_origin, write_bank
from fitness.banks import ItemBank
from fitness.errors import FitnessError
from fitness.items import Item


@pytest.fixture
def bank():
    responses = [[1, 0, 0.5], [np.nan, 1, 0]]
    return ItemBank(np.array(responses), ("a", "b"), (7, 2, 5), ("d7", "d2", ""), "sums", "acc")


def same(one: ItemBank, other: ItemBank) -> bool:
    facts = [(b.models, b.items, b.digests, b.task, b.metric) for b in (one, other)]
    return facts[0] == facts[1] and np.array_equal(one.responses, other.responses, equal_nan=True)


def arrays_of(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as archive:
        return dict(archive)


names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)


@st.composite
def banks(draw):
    models = draw(st.lists(names, min_size=1, max_size=4, unique=True))
    items = draw(st.lists(st.integers(0, 2**40), min_size=1, max_size=5, unique=True))
    score = st.one_of(st.just(np.nan), st.floats(0, 1))
    rows = [[draw(score) for _ in items] for _ in models]
    for column in range(len(items)):  # each item and each model has a response
        rows[column % len(models)][column] = draw(st.floats(0, 1))
    for row in rows:
        row[0] = draw(st.floats(0, 1))
    digests = tuple(draw(names) for _ in items)
    matrix = np.array(rows)
    return ItemBank(matrix, tuple(models), tuple(items), digests, draw(names), draw(names))


@given(banks(), names)
def test_what_is_written_is_read_and_equal_banks_are_equal_bytes(bank, origin):
    with tempfile.TemporaryDirectory() as folder:
        one, other = Path(folder) / "a.npz", Path(folder) / "deep" / "b.npz"
        write_bank(one, bank, origin)
        assert same(read_bank(one), bank)
        assert read_origin(one) == origin
        write_bank(other, read_bank(one), origin)
        assert one.read_bytes() == other.read_bytes()
        assert sorted(p.name for p in Path(folder).iterdir()) == ["a.npz", "deep"]


@settings(max_examples=300)
@given(st.data())
def test_a_damaged_file_is_read_or_refused_but_never_crashes(data):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.npz"
        write_bank(path, ItemBank.of([[0, 1], [1, 0.5]], task="t"))
        content = bytearray(path.read_bytes())
        where = data.draw(st.integers(0, len(content) - 1))
        if data.draw(st.booleans()):
            content = content[:where]
        else:
            content[where] ^= data.draw(st.integers(1, 255))
        path.write_bytes(content)
        with suppress(FitnessError):  # and nothing else
            assert read_bank(path).responses.shape == (2, 2)


def test_a_bank_replaces_another_as_a_whole(bank, tmp_path):
    path = bank_file(tmp_path, "group/sums")
    assert path.parent == tmp_path
    write_bank(path, bank)
    write_bank(path, replace(bank, metric="f1"))
    assert read_bank(path).metric == "f1"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_written(bank, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FitnessError, match=r"cannot be written .*; choose a folder"):
        write_bank(tmp_path / "file" / "sums.npz", bank)


def broken(tmp_path, bank, **changes) -> Path:
    """A bank's file with arrays changed (None: left out)."""
    path = tmp_path / "sums.npz"
    write_bank(path, bank)
    arrays = arrays_of(path) | changes
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


def test_no_file(tmp_path):
    with pytest.raises(FitnessError, match=r"there is no such file; write it again with 'evomerge"):
        read_bank(tmp_path / "sums.npz")


def test_a_file_that_is_cut_off(bank, tmp_path):
    path = tmp_path / "sums.npz"
    write_bank(path, bank)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(FitnessError, match=r"sums.npz: the file: it is cut off, or no npz"):
        read_bank(path)


def test_an_array_that_is_cut_off(bank, tmp_path):
    """The zip's directory is whole, the compressed numbers are not."""
    path = tmp_path / "sums.npz"
    write_bank(path, bank)
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    entries["responses.npy"] = entries["responses.npy"][:-8]
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    with pytest.raises(FitnessError, match=r"array 'responses': it is cut off"):
        read_bank(path)


@pytest.mark.parametrize("content", [b"", b"model,1,2\na,1,0\n", b"\x93NUMPY nonsense"])
def test_a_file_of_another_kind(content, tmp_path):
    path = tmp_path / "sums.npz"
    path.write_bytes(content)
    with pytest.raises(FitnessError, match="it is cut off, or no npz"):
        read_bank(path)


def test_a_single_array(tmp_path):
    path = tmp_path / "sums.npy"
    np.save(path, np.zeros((2, 3)))
    with pytest.raises(FitnessError, match=r"no npz .*a single array"):
        read_bank(path)


def test_pickled_objects_are_never_unpickled(bank, tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    path = tmp_path / "sums.npz"
    write_bank(path, bank)
    np.savez(path, **arrays_of(path) | {"models": np.array([Trap(), Trap()], dtype=object)})
    with pytest.raises(FitnessError, match=r"array 'models': it holds Python objects, .* never"):
        read_bank(path)
    assert not (tmp_path / "sprung").exists()


def test_a_bare_matrix_is_no_bank(bank, tmp_path):
    with pytest.raises(FitnessError, match=r"no array 'version'.*import bare matrices with"):
        read_bank(broken(tmp_path, bank, version=None))


@pytest.mark.parametrize("version", [np.array(2), np.array([1]), np.array("1")])
def test_another_format_version(version, bank, tmp_path):
    with pytest.raises(
        FitnessError, match=r"format version .*: this evomerge reads version 1; use"
    ):
        read_bank(broken(tmp_path, bank, version=version))


ARRAYS = ["task", "metric", "origin", "models", "items", "digests", "responses"]


@pytest.mark.parametrize("name", ARRAYS)
def test_a_missing_array(name, bank, tmp_path):
    with pytest.raises(FitnessError, match=f"no array '{name}': an item bank has one"):
        read_bank(broken(tmp_path, bank, **{name: None}))


@pytest.mark.parametrize("name", ARRAYS)
def test_an_array_of_another_type(name, bank, tmp_path):
    with pytest.raises(FitnessError, match=f"array '{name}' of type complex128 .*: it holds"):
        read_bank(broken(tmp_path, bank, **{name: np.ones((2, 3), dtype=complex)}))


def test_shapes_that_disagree(bank, tmp_path):
    with pytest.raises(FitnessError, match=r"sums.npz: responses of shape \[3, 2\]: it has to be"):
        read_bank(broken(tmp_path, bank, responses=np.ones((3, 2))))
    with pytest.raises(FitnessError, match=r"sums.npz: responses of shape"):
        read_bank(broken(tmp_path, bank, digests=np.array(["x"])))


@pytest.mark.parametrize("value", [-0.1, 1.5, np.inf])
def test_values_outside_the_range(value, bank, tmp_path):
    responses = np.array([[1, 0, 0.5], [0, value, 0]])
    with pytest.raises(FitnessError, match=r"response .* of model 'b' to item 2: a response is"):
        read_bank(broken(tmp_path, bank, responses=responses))


def item(index: int, digest: str) -> Item:
    return Item("sums", index, (), digest)


def test_a_match_has_the_runs_items_in_their_order(bank):
    found = match_bank(bank, [item(5, "new"), item(7, "d7")], "acc")
    assert found.items == (5, 7)
    assert found.digests == ("new", "d7")  # "" in the bank is trusted
    assert np.array_equal(found.responses, [[0.5, 1], [0, np.nan]], equal_nan=True)


def test_a_match_leaves_out_models_that_answered_none_of_the_items(bank):
    assert match_bank(bank, [item(7, "d7")]).models == ("a",)


def test_a_match_refuses_another_task_or_metric(bank):
    with pytest.raises(FitnessError, match=r"task 'words': task 'sums' is needed; calibrate again"):
        match_bank(replace(bank, task="words"), [item(7, "d7")])
    with pytest.raises(FitnessError, match=r"metric 'acc': metric 'f1' is needed; calibrate again"):
        match_bank(bank, [item(7, "d7")], "f1")


def test_a_match_refuses_items_that_the_bank_lacks(bank):
    with pytest.raises(
        FitnessError, match=r"items 8, 9: .* no responses to 2 of the run's 3 items"
    ):
        match_bank(bank, [item(8, ""), item(7, "d7"), item(9, "")])


def test_a_match_refuses_items_whose_text_changed(bank):
    with pytest.raises(FitnessError, match=r"items 2: their text or scoring is not what .*digest"):
        match_bank(bank, [item(7, "d7"), item(2, "edited")])


def test_a_join_stacks_rows_on_the_banks_items(bank):
    other = ItemBank(np.array([[0, 1, 1], [1, 1, 1]]), ("c", "a"), (5, 9, 7), ("", "", "d7"))
    joined = join_banks(bank, other)
    assert joined.models == ("a", "b", "c")  # the bank knows `a` already
    assert joined.items == bank.items  # item 9 is none of the bank's
    assert np.array_equal(joined.responses[2], [1, np.nan, 0], equal_nan=True)
    assert np.array_equal(joined.responses[:2], bank.responses, equal_nan=True)
    assert join_banks(bank, other, without=["c"]).models == ("a", "b")


def test_a_join_leaves_out_models_that_answered_none_of_the_items(bank):
    other = ItemBank(np.array([[np.nan, 1], [1, 0]]), ("c", "d"), (7, 9), ("", ""))
    assert join_banks(bank, other).models == ("a", "b", "d")


def test_a_join_refuses_what_does_not_fit(bank):
    with pytest.raises(FitnessError, match=r"responses to items 0, 1: none of them is among the"):
        join_banks(bank, ItemBank.of([[0, 1]], ["c"]))
    with pytest.raises(FitnessError, match=r"task 'words': task 'sums' is needed"):
        join_banks(bank, replace(bank, task="words"))
    with pytest.raises(FitnessError, match=r"items 7: their text or scoring is not what"):
        join_banks(bank, replace(bank, models=("c", "d"), digests=("edited", "d2", "")))

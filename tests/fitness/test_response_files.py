"""Responses of other models: CSV and bare npz, and what is wrong with them said by row and column."""

import numpy as np
import pytest

from fitness.bank_files import write_bank
from fitness.banks import ItemBank
from fitness.errors import FitnessError
from fitness.response_files import read_responses


def csv(tmp_path, text: str):
    path = tmp_path / "answers.csv"
    path.write_bytes(text.encode())
    return path


def npz(tmp_path, **arrays):
    path = tmp_path / "answers.npz"
    np.savez(path, **arrays)
    return path


def test_a_csv(tmp_path):
    text = '\ufeffmodel,12,gsm8k#3\r\n"Llama, 8B",1,0.25\r\n\r\nQwen,,0\r\n'
    bank = read_responses(csv(tmp_path, text), "gsm8k")
    assert bank.models == ("Llama, 8B", "Qwen")
    assert bank.items == (12, 3)
    assert (bank.task, bank.metric, bank.digests) == ("gsm8k", "", ("", ""))
    assert np.array_equal(bank.responses, [[1, 0.25], [np.nan, 0]], equal_nan=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"0 line\(s\): a header `model,<item>,<item>,...` and a line per model are needed"),
        ("model,1\n", r"1 line\(s\): a header"),
        ("model,one\na,1\n", r"line 1, column 2: item 'one': an item is its document's index"),
        ("model,1,-2\na,1,1\n", r"line 1, column 3: item '-2'"),
        ("model,1,2\na,1,1\nb,1\n", r"line 3 \(model 'b'\): 2 cells: the header has 3"),
        (
            "model,1,2\na,1,yes\n",
            r"line 2 \(model 'a'\), column 3 \(item 2\): 'yes': a response is",
        ),
        ("model,1,2\na,1,85\n", r"column 3 \(item 2\): '85'.*; scale the scores to \[0, 1\]"),
        ("model,1\na,nan\n", r"column 2 \(item 1\): 'nan': a response is a number in \[0, 1\]"),
        ("model,1,1\na,1,1\n", r"answers.csv: item 1: it is there twice"),
        ("model,1\na,1\na,0\n", r"answers.csv: model 'a': it is there twice"),
        ("model,1,2\na,1,\nb,0,\n", r"answers.csv: item 2: it has no response at all"),
        ("model,1,2\na,1,0\nb,,\n", r"answers.csv: model 'b': it has no response at all"),
    ],
)
def test_what_can_be_wrong_with_a_csv(text, message, tmp_path):
    with pytest.raises(FitnessError, match=message):
        read_responses(csv(tmp_path, text))


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(FitnessError, match=r"none.csv': it cannot be read .*; give a CSV file"):
        read_responses(tmp_path / "none.csv")
    (tmp_path / "latin.csv").write_bytes(b"model,1\n\xe9,1\n")
    with pytest.raises(FitnessError, match=r"it cannot be read .*UnicodeDecodeError"):
        read_responses(tmp_path / "latin.csv")
    with pytest.raises(FitnessError, match="there is no such file"):
        read_responses(tmp_path / "none.npz")
    with pytest.raises(FitnessError, match=r"answers.json': responses are a .csv or an .npz file"):
        read_responses(tmp_path / "answers.json")


def test_a_bare_matrix(tmp_path):
    answers = np.array([[1, 0, 1], [0, 0, 1]], dtype=np.uint8)
    bare = read_responses(npz(tmp_path, Y=answers), "t")
    assert (bare.models, bare.items) == (("model 0", "model 1"), (0, 1, 2))
    assert np.array_equal(bare.responses, answers)
    ids = np.array(["t-test-#4", "t-test-#0", "t-test-#2"])
    named = read_responses(npz(tmp_path, responses=answers > 0, names=["a", "b"], items=ids), "t")
    assert (named.models, named.items, named.task) == (("a", "b"), (4, 0, 2), "t")


def test_a_banks_file_is_a_matrix_of_responses_too(tmp_path):
    bank = ItemBank(np.array([[0, 0.5]]), ("a",), (3, 1), ("x", "y"), "sums", "acc")
    write_bank(tmp_path / "bank.npz", bank)
    found = read_responses(tmp_path / "bank.npz", "sums")
    assert (found.models, found.items, found.digests) == (bank.models, bank.items, bank.digests)
    assert (found.task, found.metric) == ("sums", "acc")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"Z": np.ones((2, 2))}, "no array 'responses' or 'Y': a matrix of numbers"),
        ({"Y": np.ones(3)}, r"responses of type float64 and shape \[3\]"),
        ({"Y": np.array([["1", "0"]])}, r"responses of type <U1 and shape \[1, 2\]"),
        ({"Y": np.array([[2]])}, r"answers.npz: response 2 of model 'model 0' to item 0"),
        ({"Y": np.array([[0.5, -1]])}, "response -1 of model 'model 0' to item 1"),
        ({"Y": np.ones((2, 3)), "names": ["a", "b", "c"]}, r"\[2, 3\].* = \[3, 3\].*transpose"),
        ({"Y": np.ones((2, 3)), "items": [1, 2]}, r"shape \[2, 3\]"),
        ({"Y": np.ones((1, 2)), "items": ["q1", "q2"]}, r"items, column 0: item 'q1'"),
        ({"Y": np.ones((1, 2)), "items": [1.5, 2.5]}, r"item '1.5': an item is its document's"),
        ({"Y": np.array([[object()]])}, "it holds Python objects, which are never unpickled"),
    ],
)
def test_what_can_be_wrong_with_an_npz(arrays, message, tmp_path):
    with pytest.raises(FitnessError, match=message):
        read_responses(npz(tmp_path, **arrays))

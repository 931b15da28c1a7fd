import torch
from hypothesis import given
from hypothesis import strategies as st

from fitness.engines.batching import pack, pad_left, pad_right


@given(st.lists(st.integers(1, 50), max_size=60), st.integers(1, 200))
def test_every_row_is_in_one_batch_within_its_budget(lengths, batch_tokens):
    batches = pack(lengths, batch_tokens)
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    for batch in batches:
        longest = max(lengths[row] for row in batch)
        assert len(batch) == 1 or len(batch) * longest <= batch_tokens


def test_padding():
    cpu = torch.device("cpu")
    assert pad_right([[1, 2, 3], [4]], 0, cpu).tolist() == [[1, 2, 3], [4, 0, 0]]
    ids, mask = pad_left([[1, 2, 3], [4]], 9, cpu)
    assert ids.tolist() == [[1, 2, 3], [9, 9, 4]]
    assert mask.tolist() == [[1, 1, 1], [0, 0, 1]]

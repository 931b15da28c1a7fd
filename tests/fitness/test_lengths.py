import pytest

from fitness.engines.encoding import Encoder
from fitness.engines.lengths import PromptLengths
from fitness.errors import FitnessError
from fitness.items import Request

from .conftest import make_tokenizer

SCORED = Request("loglikelihood", "a" * 17, "bc")  # 20 tokens with <bos>
GENERATED = Request("generate", "a" * 9, generation={"max_gen_toks": 10})  # 20 as well


@pytest.mark.parametrize(
    ("request_", "one_more", "fits"),
    [(SCORED, False, 19), (SCORED, True, 20), (GENERATED, False, 20), (GENERATED, True, 20)],
)
def test_a_request_that_just_fits_is_let_through(request_, one_more, fits):
    """The last scored token is not fed, but vLLM wants a place for it."""
    encoder = Encoder(make_tokenizer())
    PromptLengths(encoder, fits, one_more=one_more).check([request_])
    tight = PromptLengths(encoder, fits - 1, one_more=one_more)
    assert tight.token_lengths([request_]) == [20]
    with pytest.raises(FitnessError, match=rf"needs {fits} tokens: max_model_len is {fits - 1}"):
        tight.check([request_])


def test_the_error_names_whose_request_it_is():
    lengths = PromptLengths(Encoder(make_tokenizer()), 10)
    with pytest.raises(FitnessError, match=r"^task 'maths', item 7: prompt 'aaa"):
        lengths.check([SCORED], "task 'maths', item 7")

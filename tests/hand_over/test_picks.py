"""Picking one of a front: a preference served as it says, and no compromise with the dead."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.config import Constraint
from evomerge.evaluation import Evaluation, Outcome
from evomerge.hand_over.options import pick_of, push_of
from evomerge.hand_over.push import Push
from evomerge.run_file import parse_run_file
from evomerge.search.candidate import Candidate
from evomerge.search.choice import pick
from evomerge.search.goals import Goals, scores_among
from evomerge.search.picks import living, parse_pick, preferred, without
from fitness.estimate import Estimate
from search_spaces.errors import InputError

MATHS_JA = Goals(("maths", "ja"), ("maximize", "maximize"), (1.0, 1.0), scores=("maths", "ja"))
SCORE_LAYERS = Goals(("score", "layers"), ("maximize", "minimize"), (1.0, 1.0), scores=("score",))


def candidates(*points, goals=MATHS_JA):
    return [
        Candidate(
            number,
            (0.0,),
            f"c{number}",
            Evaluation(
                Outcome.SCORED,
                objectives={n: Estimate(v, 0.01) for n, v in zip(goals.names, point, strict=True)},
            ),
        )
        for number, point in enumerate(points)
    ]


DENT = [(1.0, 0.0), (0.45, 0.45), (0.0, 1.0)]
"""The middle lies in a dent of the front: no weighted sum ever finds it."""


def test_a_preference_reaches_into_a_dent_of_the_front():
    assert pick(candidates(*DENT), MATHS_JA, "prefer:maths=1,ja=1").id == 1
    front = np.array(DENT)
    for share in np.linspace(0, 1, 101):
        assert np.argmax(front @ [share, 1 - share]) != 1, "a weighted sum never takes it"


def test_more_weight_never_means_less_of_it():
    angle = np.linspace(0, np.pi / 2, 30)
    front = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    taken = [front[preferred(front, [w, 1 - w])][0] for w in np.linspace(0.01, 0.99, 40)]
    assert taken == sorted(taken)
    assert taken[0] < 0.2
    assert taken[-1] > 0.8


@given(
    st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5)), min_size=1, max_size=12),
    st.floats(0.01, 10),
    st.floats(0.01, 10),
)
def test_what_is_preferred_is_dominated_by_nobody(points, one, other):
    front = np.array(points)
    taken = front[preferred(front, [one, other])]
    better = (front >= taken).all(axis=1) & (front > taken + 1e-6).all(axis=1)
    assert not better.any()


def test_units_do_not_matter_and_one_name_is_the_best_of_it():
    scaled = [(m * 1000 + 7, j * 1e-3) for m, j in DENT]
    assert pick(candidates(*scaled), MATHS_JA, "prefer:maths=1,ja=1").id == 1
    assert pick(candidates(*DENT), MATHS_JA, "prefer:ja=0.3").id == 2
    assert pick(candidates(*DENT), MATHS_JA, "best:ja").id == 2


def test_what_is_minimised_is_preferred_small():
    found = candidates((0.9, 40), (0.8, 20), (0.7, 19), goals=SCORE_LAYERS)
    assert pick(found, SCORE_LAYERS, "prefer:layers=1").id == 2
    assert pick(found, SCORE_LAYERS, "prefer:score=0.5,layers=0.5").id == 1


def test_only_finalists_that_keep_the_bounds_are_preferred_where_there_are_any():
    bound = Constraint(objective="ja", sign=">=", bound=0.4)
    goals = Goals(MATHS_JA.names, MATHS_JA.directions, MATHS_JA.weights, (bound,), MATHS_JA.scores)
    assert pick(candidates(*DENT), goals, "prefer:maths=1").id == 1
    tight = Constraint(objective="ja", sign=">=", bound=2)
    goals = Goals(MATHS_JA.names, MATHS_JA.directions, MATHS_JA.weights, (tight,), MATHS_JA.scores)
    assert pick(candidates(*DENT), goals, "prefer:maths=1").id == 0


DEAD = [(0.80, 30), (0.78, 26), (0.70, 24), (0.30, 6), (0.02, 1), (0.0, 1)]


def test_the_knee_beside_a_cost_is_no_dead_model():
    found = candidates(*DEAD, goals=SCORE_LAYERS)
    blind = Goals(SCORE_LAYERS.names, SCORE_LAYERS.directions, SCORE_LAYERS.weights)
    assert pick(found, blind, "knee").id == 3, "by the front alone it is a model that can do little"
    assert pick(found, SCORE_LAYERS, "knee").id == 1
    assert pick(found, SCORE_LAYERS, "prefer:score=1,layers=9").id == 2
    assert [c.id for c in living(found, SCORE_LAYERS)] == [0, 1, 2]


def test_the_best_of_a_cost_is_what_was_asked_for_dead_or_alive():
    assert pick(candidates(*DEAD, goals=SCORE_LAYERS), SCORE_LAYERS, "best:layers").id == 4


def test_where_only_scores_count_nobody_is_left_out():
    found = candidates((1.0, 0.0), (0.01, 0.02))
    assert living(found, MATHS_JA) == found


def test_where_nobody_scored_anything_all_are_as_good():
    found = candidates((0.0, 3), (0.0, 2), goals=SCORE_LAYERS)
    assert pick(found, SCORE_LAYERS, "knee").id == 1


def test_which_objectives_are_scores(quickstart):
    content = {**quickstart}
    content["fitness"] = {
        "tasks": {"words": {"items": 8}, "sums": {"items": 8}},
        "objectives": [
            "words",
            {"cost": "layers"},
            {"spread": ["words", "sums"]},
            {"worst": ["words", "sums"]},
        ],
    }
    objectives = parse_run_file(content, "run.yaml").fitness.all_objectives
    directions = ("maximize", "minimize", "minimize", "maximize")
    assert scores_among(objectives, directions) == ("words", objectives[3].label)
    assert scores_among(objectives, ("minimize",) * 4) == ()


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("prefer:mathz=1", "did you mean 'maths'"),
        ("prefer:maths=0", "above 0"),
        ("prefer:maths=-1", "above 0"),
        ("prefer:maths=nan", "above 0"),
        ("prefer:maths=inf", "above 0"),
        ("prefer:maths=much", "above 0"),
        ("prefer:maths", "NAME=WEIGHT"),
        ("prefer:", "NAME=WEIGHT"),
        ("prefer:maths=1,maths=2", "named twice"),
        ("prefer:maths=1,,ja=2", "NAME=WEIGHT"),
        ("best:mathz", "did you mean 'best:maths'"),
        ("elbow", "neither `knee`"),
    ],
)
def test_what_names_nothing_is_refused(how, said):
    with pytest.raises(InputError, match=said) as refusal:
        parse_pick(how, MATHS_JA.names, "export.pick")
    assert str(refusal.value).startswith("export.pick: ")


def test_the_run_file_may_prefer(refused, write_run, tmp_path):
    line = refused("check", write_run({"export": {"pick": "prefer:word=1"}}))
    assert "did you mean 'words'" in line


def test_the_first_stage_keeps_of_a_preference_what_it_knows():
    assert without("prefer:maths=0.7,layers=0.3", ["maths"]) == "prefer:maths=0.7"
    assert without("prefer:layers=0.3", ["maths"]) == "knee"
    assert without("best:layers", ["maths"]) == "knee"
    assert without("best:maths", ["maths"]) == "best:maths"
    assert without("knee", ["maths"]) == "knee"


def test_options_that_go_together():
    assert pick_of(None, None) is None
    assert pick_of("7", None) == "7"
    assert pick_of(None, "ja=1") == "prefer:ja=1"
    with pytest.raises(InputError, match="give one"):
        pick_of("7", "ja=1")
    assert push_of("me/it", public=True, despite_licences=False) == Push("me/it", True, False)
    for options in (
        {"public": True, "despite_licences": False},
        {"public": False, "despite_licences": True},
    ):
        with pytest.raises(InputError, match="add --push"):
            push_of(None, **options)

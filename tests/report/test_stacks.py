"""What a report says of stacks: paths in a line, and how much was alive."""

import pytest

from evomerge.config.space import PathSection
from evomerge.evaluation import Evaluation, Outcome
from evomerge.report.alive import SOURCES_SEARCHED, alive, sentence
from evomerge.report.honest_gain import Score
from evomerge.report.paths import path_text
from evomerge.report.stacks import sentences_of, stacks
from evomerge.runs.rows import CandidateRow
from fitness.items import Response
from search_spaces.granularity import Granularity
from search_spaces.hybrid import HybridSpace
from search_spaces.parameter import ParameterSpace
from search_spaces.recipe import Recipe
from search_spaces.stacking import Hop, Pool
from tests.report.planted_run import PlantedRun

WORDS = Score("words", {"words": 1.0}, 1, ("words",))
SUMS = Score("sums", {"sums": 1.0}, 1, ("sums",))
SOURCES = ["base", "maths", "ja"]


def merge(rule: str = "task_arithmetic", **space: object) -> Recipe:
    made = ParameterSpace(rule, "base", ["maths", "ja"], 6, **space)  # type: ignore[arg-type]
    return made.decode(made.seeds()["uniform"])


def path(*hops: tuple[object, ...]) -> list[Hop]:
    return [Hop(*hop) for hop in hops]  # type: ignore[arg-type]


def test_a_path_is_a_list_of_stretches() -> None:
    pool = Pool(SOURCES, 6, {})
    hops = [
        *(("maths", i) for i in range(4)),
        ("ja", 3, 1.2),
        ("ja", 4),
        ("ja", 4),
        ("maths", 5, -0.5),
    ]
    found = path_text(pool.stack(path(*hops)))
    assert found == "maths 0-3, ja 3-4 x1.2, ja 4, maths 5 x-0.5"
    assert path_text(pool.stack(path(*(("ja", i) for i in range(6))))) == "ja, all layers in order"


def test_merged_layers_are_called_by_what_goes_in_or_as_asked() -> None:
    pool = Pool(SOURCES, 6, {"merged": merge()})
    recipe = pool.stack(path(("base", 0), ("merged", 1), ("merged", 2), ("ja", 5)))
    assert path_text(recipe) == "base 0, base+maths+ja 1-2, ja 5"
    assert path_text(recipe, "merged") == "base 0, merged 1-2, ja 5"
    linear = Pool(SOURCES, 6, {"merged": merge("linear")})
    assert path_text(linear.stack(path(("merged", 1), ("merged", 1)))) == (
        "base+maths+ja 1, base+maths+ja 1"
    )


def test_layers_that_are_merged_each_in_its_way_are_one_stretch() -> None:
    """Weights that change with depth make a slice of every layer; the reader wants the path."""
    grouped = Granularity(3, None)
    pool = Pool([], 6, {"merged": merge(granularity=grouped)})
    hops = [("merged", i) for i in (0, 1, 2, 3, 4)] + [
        ("merged", 3),
        ("merged", 4, 0.9),
        ("merged", 5),
    ]
    assert path_text(pool.stack(path(*hops)), "merged") == "merged 0-4, merged 3, merged 4-5 x0.9"
    space = HybridSpace(ParameterSpace("linear", "base", ["ja"], 6), (3, 9), per_slot=True)
    seed = space.decode(space.seeds()["up_scaling.uniform"])
    assert path_text(seed, "merged").startswith("merged 0-")


@pytest.fixture
def run(tmp_path, quickstart):
    """Two sources on record; their answers to ten items of two tasks."""
    made = PlantedRun(tmp_path, quickstart)
    made.config = made.config.model_copy(update={"space": PathSection()})
    record(made, "source a", words=[1, 1, 1, 1, 0], sums=[0, 0, 0, 0, 0], phase=None)
    record(made, "source b", words=[0, 0, 0, 0, 0], sums=[1, 1, 0, 0, 0], phase=None)
    made.database.set_meta(SOURCES_SEARCHED, {"a": "source a", "b": "source b"})
    return made


def record(run, digest, words=(), sums=(), phase="search", generation=0):
    """A candidate's answers to the first items of each task; none: it failed."""
    answered = [
        *(Response("words", i, float(score)) for i, score in enumerate(words)),
        *(Response("sums", i, float(score)) for i, score in enumerate(sums)),
    ]
    positions = (*range(len(words)), *(40 + i for i in range(len(sums))))  # 40 items are words
    outcome = Outcome.SCORED if answered else Outcome.MERGE_FAILED
    evaluation = Evaluation(outcome, responses=tuple(answered), positions=positions)
    row = CandidateRow(phase or "", run.asked, generation, (0.5,), digest, False)
    run.asked += 1
    run.database.record(digest, "search", evaluation, [row] if phase else [])


def test_alive_is_half_of_the_best_source_on_the_mean(run) -> None:
    """Source a has 4/5 and 0: 0.4 on the mean, b 0.2; half of the best is 0.2."""
    record(run, "just", words=[1, 1, 0, 0, 0], sums=[0] * 5)
    record(run, "short", words=[1, 0, 0, 0, 0], sums=[0] * 5)
    record(run, "failed")
    record(run, "later", words=[0] * 5, sums=[1] * 5, generation=1)
    found = alive(run.database, [WORDS, SUMS])
    assert found is not None
    assert found["first_generation"] == {"alive": 1, "of": 3, "share": pytest.approx(1 / 3)}
    assert found["run"] == {"alive": 2, "of": 4, "share": 0.5}
    assert found["random"] == {"alive": 0, "of": 0, "share": None}
    text = sentence(found)
    assert "33 % of the first generation (1 of 3), 50 % of all candidates (2 of 4)" in text
    assert "random" not in text


def test_candidates_that_answered_less_are_held_against_the_same_items(run) -> None:
    """Of the last word and sum no source has anything: whoever has one of the two is alive."""
    record(run, "half", words=[1, 0], sums=[1, 0])  # sources: 0.5 and 0.5 there
    record(run, "nothing", words=[0, 0], sums=[0, 0], phase="random")
    found = alive(run.database, [WORDS, SUMS])
    assert found is not None
    assert found["run"]["alive"] == 1
    assert found["random"] == {"alive": 0, "of": 1, "share": 0.0}


def test_nothing_right_is_never_alive(run) -> None:
    """Where the sources have nothing right either, half of it is reached by everybody."""
    run.database.set_meta(SOURCES_SEARCHED, {"b": "source b"})
    record(run, "dead", words=[0] * 5, sums=[0] * 5)
    record(run, "lively", words=[1] + [0] * 4, sums=[0] * 5)
    only_words = alive(run.database, [WORDS])
    assert only_words is not None
    assert only_words["run"] == {"alive": 1, "of": 2, "share": 0.5}


def test_no_share_without_scores_or_sources(run) -> None:
    loss = Score("loss", {"words": 1.0}, -1, ("loss",))
    assert alive(run.database, [loss]) is None
    run.database.set_meta(SOURCES_SEARCHED, {})
    assert alive(run.database, [WORDS]) is None


def test_the_summary_has_a_part_on_stacks_only_where_there_are_some(run, quickstart) -> None:
    assert stacks(run, _goals(run)) is not None
    run.database.set_meta("paths", {"best_start": "a 0-3", "winner": "a 0-3, b 2-3"})
    run.database.set_meta("best_start", {"id": 1, "recipe_hash": "x", "name": "up_scaling.a"})
    said = sentences_of(stacks(run, _goals(run)))
    assert "layers of best start (up_scaling.a): a 0-3" in said
    assert "layers of winner: a 0-3, b 2-3" in said
    run.config = run.config.model_copy(
        update={"space": type(run.config).model_fields["space"].default}
    )
    assert stacks(run, _goals(run)) is None
    assert sentences_of(None) == []


def _goals(run):
    from evomerge.search.goals import Goals

    names = tuple(run.names)
    return Goals(names, ("maximize",) * len(names), (1.0,) * len(names))

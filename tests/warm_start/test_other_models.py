"""A warm start where the models, the space or the goals are others than the other run's."""

import shutil

import pytest

from evomerge.runs.database import Database
from evomerge.warm_start import Stage, WarmStart
from search_spaces import named
from tests.warm_start.runs import MODELS, WARM, candidates, names_of, prepared, run


def test_one_expert_more_begins_at_zero_and_small_in_turn(other, write):
    """As the recipe was, or a little of the new one: the copy has other weights under another name."""
    less = write(
        "less.yaml",
        {"models.experts": {"lunari": str(MODELS / "lunari"), "abacus": str(MODELS / "abacus")}},
    )
    short = run(less, less.parent / "short")
    more = prepared(write("more.yaml", WARM | {"search.warm_start": "short"}))
    assert short.is_dir()
    weights = [{v for n, v in g.items() if ".tovek." in n} for g in names_of(more.warm, more.space)]
    assert weights == [{0.0}, {0.1}] * (len(weights) // 2) + [{0.0}] * (len(weights) % 2)
    assert ("warm start", "'tovek' is new: it begins at weight 0, or a small one") in more.facts
    for genome in more.warm.search.genomes[:1]:
        of_two = {k: v for k, v in named(more.space, genome).items() if "tovek" not in k}
        rows = candidates(short)[0]
        names = Database(short / "run.db")
        known = [dict(zip(names.meta("variables"), row.genome, strict=True)) for row in rows]
        names.close()
        assert of_two in known


def test_one_expert_less(other, write):
    experts = {"lunari": str(MODELS / "lunari"), "abacus": str(MODELS / "abacus")}
    found = prepared(write("fewer.yaml", WARM | {"models.experts": experts}))
    assert (
        "warm start",
        "that run's 'tovek' is not here: what it added is left out",
    ) in found.facts
    assert all(not any("tovek" in n for n in g) for g in names_of(found.warm, found.space))


def test_experts_are_known_by_their_weights_not_by_their_names(other, write, folder):
    """`lunari` and `tovek` change names, and `abacus` has other files than the other run's had."""
    changed = folder / "changed"
    shutil.copytree(MODELS / "abacus", changed)
    weights = changed / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    experts = {
        "tovek": str(MODELS / "lunari"),
        "ours": str(MODELS / "tovek"),
        "abacus": str(changed),
    }
    found = prepared(write("names.yaml", WARM | {"models.experts": experts}))
    facts = [value for name, value in found.facts if name == "warm start"]
    assert "'tovek' is that run's 'lunari': the same weights" in facts
    assert "'ours' is that run's 'tovek': the same weights" in facts
    other_weights = "'abacus' has other weights than that run's 'abacus': a new model"
    assert any(fact.startswith(other_weights) for fact in facts)
    database = Database(other / "run.db")
    names, rows = database.meta("variables"), database.candidates("search")
    database.close()
    for genome, number in zip(
        names_of(found.warm, found.space), found.warm.search.ids, strict=True
    ):
        before = dict(zip(names, rows[number].genome, strict=True))
        for group in ("layers_0_1.attn", "layers_2_3.mlp"):
            assert genome[f"weight.tovek.{group}"] == before[f"weight.lunari.{group}"]
            assert genome[f"weight.ours.{group}"] == before[f"weight.tovek.{group}"]
            assert genome[f"weight.abacus.{group}"] in (0.0, 0.1)


def test_an_expert_s_tokenizer_or_chat_template_does_not_make_it_another(other, write, folder):
    shutil.copytree(MODELS / "abacus", folder / "templated")
    (folder / "templated" / "chat_template.jinja").write_text("{{ messages }}")
    found = prepared(
        write("templated.yaml", WARM | {"models.experts.abacus": str(folder / "templated")})
    )
    assert not found.warm.notes


def test_a_finer_search_begins_with_the_same_models(other, write):
    found = prepared(
        write("finer.yaml", WARM | {"space.granularity": {"layers": 4, "components": "all"}})
    )
    assert len(found.warm.search.genomes) == 16
    genome = names_of(found.warm, found.space)[0]
    assert genome["weight.lunari.layer_0.attn"] == genome["weight.lunari.layer_1.attn"]


def test_values_beyond_the_range_are_counted(other, write):
    found = prepared(write("range.yaml", WARM | {"space.weight": [0, 0.5]}))
    facts = [value for name, value in found.facts if name == "warm start"]
    assert any("moved into their ranges" in fact for fact in facts)
    assert max(max(genome) for genome in found.warm.search.genomes) == 0.5


def test_values_of_many_variables_beyond_their_ranges_are_one_line():
    moved = {f"weight.lunari.layer_{layer}": 1 + layer for layer in range(40)}
    (_, _), (_, line) = WarmStart("before", Stage(moved=moved)).facts
    assert line == (
        "values of 40 variables moved into their ranges, weight.lunari.layer_39,"
        " weight.lunari.layer_38, weight.lunari.layer_37 among them"
    )


PATH = {
    "models.experts": {"lunari": str(MODELS / "lunari"), "abacus": str(MODELS / "abacus")},
    "space": {"kind": "path", "depth": [3, 6]},
    "search.population": None,
    "search.budget.evaluations": 14,
}


@pytest.fixture(scope="module")
def stacked(write, folder):
    return run(write("stacked.yaml", PATH), folder / "stacked")


def test_paths_of_more_depth_and_one_model_more(stacked, write, folder):
    changes = PATH | {
        "models.experts": {"tovek": str(MODELS / "tovek"), "abacus": str(MODELS / "abacus"),
                           "first": str(MODELS / "lunari")},
        "space": {"kind": "path", "depth": [2, 8]},
        "search.warm_start": {"run": "stacked", "candidates": 6},
        "search.population": 10,
    }  # fmt: skip
    file = write("deeper.yaml", changes)
    known = prepared(file)
    assert len(known.warm.search.genomes) == 6
    assert any("no candidate has a layer of it" in value for _, value in known.facts)
    rows, _ = candidates(run(file, folder / "deeper"))
    assert [known.space.decode(row.genome).hash for row in rows[:6]] == [
        known.space.decode(genome).hash for genome in known.warm.search.genomes
    ]
    # the rest of the generation are edits of these and of the space's own starting points
    assert len({row.recipe_hash for row in rows[:10]}) == 10


def test_paths_through_what_is_gone_are_dropped_and_counted(stacked, write):
    experts = {"lunari": str(MODELS / "lunari"), "tovek": str(MODELS / "tovek")}
    changes = PATH | {"models.experts": experts, "search.warm_start": "stacked"}
    known = prepared(write("gone.yaml", changes))
    facts = [value for name, value in known.facts if name == "warm start"]
    assert any("dropped: its stack of layers is none of the new space's" in fact for fact in facts)
    database = Database(stacked / "run.db")
    asked = len({row.recipe_hash for row in database.candidates("search").values()})
    database.close()
    taken = len(known.warm.search.genomes)
    assert 0 < taken < asked
    assert taken + sum(known.warm.search.dropped.values()) == asked


def test_both_of_two_stages(write, folder):
    two = {"kind": "path", "depth": [3, 6], "merged": {"weight": [0, 1]}}
    changes = PATH | {"space": two, "search.population": 6, "search.budget.evaluations": 16}
    run(write("two.yaml", changes), folder / "two")
    again = prepared(write("two_more.yaml", changes | {"search.warm_start": "two"}))
    assert again.warm.first.genomes
    assert again.warm.search.genomes
    assert any(name == "warm start, first stage" for name, _ in again.facts)
    done = run(folder / "two_more.yaml", folder / "two_more")
    database = Database(done / "run.db")
    first = database.candidates("merged")
    assert first[0].genome == again.warm.first.genomes[0]
    database.close()


def test_a_candidate_of_another_rule_is_dropped_with_the_rule_s_name(write, folder):
    rules = {"rule": ["task_arithmetic", "ties"], "weight": [0, 1.5]}
    run(write("rules.yaml", {"space": rules}), folder / "rules")
    one = {"rule": "ties", "weight": [0, 1.5]}
    known = prepared(write("one_rule.yaml", WARM | {"space": one, "search.warm_start": "rules"}))
    assert known.warm.search.dropped["method 'task_arithmetic' is not searched here"] > 0
    assert known.warm.search.genomes

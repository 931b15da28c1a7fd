"""Parameter spaces that choose the rule and its stages."""

from dataclasses import replace

import numpy as np
import pytest

from evomerge.search.algorithms import build_searcher, default_algorithm
from evomerge.search.searcher import Problem
from search_spaces.dialect import dump_recipe, parse_recipe
from search_spaces.errors import InputError
from search_spaces.granularity import Granularity
from search_spaces.parameter import ParameterSpace
from search_spaces.recipe import TensorPlan
from search_spaces.roles import role
from search_spaces.rules import RULES
from search_spaces.space import from_unit, named, to_unit
from search_spaces.variables import Choice, Genome, Real, levels

LAYERS = 6
TENSORS = [
    "model.embed_tokens.weight",
    *(f"model.layers.{i}.{p}.weight" for i in range(LAYERS) for p in ("self_attn.q_proj", "mlp.up_proj")),
    "lm_head.weight",
]  # fmt: skip
RULED = ParameterSpace(["ties", "dare_linear", "lines"], "base", ["a", "b"], LAYERS)
STAGED = ParameterSpace(
    "task_arithmetic",
    "base",
    ["a", "b"],
    LAYERS,
    ranges={"sparsify": ["none", "magnitude", "della"], "consensus": ["none", "sum", "count"]},
)
GROUPED = replace(
    RULED,
    ranges={"consensus": ["none", "count"]},
    granularity=Granularity(2, ["attn"], rules=True),
)


def names(space: ParameterSpace) -> list[str]:
    return [variable.name for variable in space.variables]


def genome(space: ParameterSpace, **values: float | str) -> Genome:
    """The uniform point, with some variables changed."""
    uniform = named(space, space.seeds()["uniform"])
    assert set(values) <= set(uniform)
    return tuple((uniform | values).values())


def plans(space: ParameterSpace, point: Genome) -> dict[str, TensorPlan]:
    return {plan.tensor: plan for plan in space.decode(point).plans(TENSORS, LAYERS)}


def test_several_rules_are_one_variable() -> None:
    assert names(RULED) == [
        "method", "weight.a", "weight.b", "density.a", "density.b", "alpha", "beta"
    ]  # fmt: skip
    assert RULED.variables[0] == Choice("method", ("ties", "dare_linear", "lines"))
    for name in ("ties", "dare_linear", "lines"):
        recipe = RULED.decode(genome(RULED, method=name))
        assert recipe.method == name
        alone = replace(RULED, rule=name)
        values = named(RULED, genome(RULED))
        assert recipe == alone.decode(tuple(values[n] for n in names(alone)))


def test_unread_genes_are_no_part_of_a_candidate() -> None:
    """The cache would score the same model again."""
    lines = genome(RULED, method="lines", beta=0.5)
    other = genome(RULED, method="lines", beta=0.5, **{"density.a": 0.3})
    assert RULED.decode(lines).hash == RULED.decode(other).hash
    ties = [genome(RULED, method="ties", beta=b) for b in (0.0, 0.5)]
    assert RULED.decode(ties[0]).hash == RULED.decode(ties[1]).hash, "only lines has a ramp"
    asked = replace(RULED, ranges={"beta": [0, 1]})
    assert asked.decode(ties[0]).hash != asked.decode(ties[1]).hash, "now ties has one as well"
    slerp = ParameterSpace(["slerp", "nearswap", "wise_ft"], "base", ["a"], LAYERS)
    points = [genome(slerp, method="slerp", **{"weight.a": w}) for w in (0.1, 0.9)]
    assert len({slerp.decode(point).hash for point in points}) == 1


def test_a_stage_brings_its_numbers() -> None:
    assert names(STAGED) == [
        "sparsify", "consensus", "weight.a", "weight.b", "density.a", "density.b",
        "epsilon.a", "epsilon.b",
    ]  # fmt: skip
    found = plans(STAGED, genome(STAGED, sparsify="magnitude", consensus="count"))
    chosen = found["lm_head.weight"].choices()
    assert (chosen["sparsify"], chosen["consensus"]) == ("magnitude", "count")
    assert "epsilon" not in found["lm_head.weight"].inputs[0].parameters
    fixed = replace(STAGED, ranges={"sparsify": "random"})
    assert names(fixed) == ["weight.a", "weight.b", "density.a", "density.b"]


def test_numbers_that_no_stage_reads_are_not_searched() -> None:
    """Asking for other masks than della's once ended in "a searched parameter has a range"."""
    space = replace(STAGED, rule=["della", "ties"], ranges={"sparsify": ["none", "random"]})
    assert names(space)[:2] == ["method", "sparsify"]
    assert not [name for name in names(space) if name.startswith("epsilon")]
    dense = replace(STAGED, rule="ties", ranges={"sparsify": "none"})
    assert names(dense) == ["weight.a", "weight.b"]


def test_groups_choose_for_themselves() -> None:
    groups = ["layers_0_2.attn", "layers_3_5.attn", "layers_0_2.other", "layers_3_5.other"]
    assert names(GROUPED)[:8] == [f"{gene}.{g}" for gene in ("method", "consensus") for g in groups]
    point = genome(
        GROUPED,
        **{
            "method.layers_0_2.attn": "lines",
            "method.layers_3_5.attn": "dare_linear",
            "consensus.layers_3_5.attn": "count",
            "consensus.layers_0_2.other": "none",
        },
    )
    for tensor, plan in plans(GROUPED, point).items():
        spot = role(tensor)
        upper = spot.layer >= 3 if spot.layer is not None else spot.component != "embed"
        if spot.component == "attn":
            expected = ("dare_linear", "count") if upper else ("lines", "none")
        else:
            expected = ("ties", "none")
        assert (plan.rule.name, plan.choices()["consensus"]) == expected, tensor
    for tensor, plan in plans(GROUPED, point[:-4] + (0.25,) * 4).items():
        assert plan.number("beta") == (0.25 if plan.rule.name == "lines" else 0.0), tensor
    recipe = GROUPED.decode(point)
    assert parse_recipe(dump_recipe(recipe), "dump") == recipe
    changed = list(point)
    changed[names(GROUPED).index("density.a.layers_0_2.attn")] = 0.25
    assert GROUPED.decode(tuple(changed)) == recipe, "lines drops no deltas"


@pytest.mark.parametrize("layers", ["each", {"knots": 3}])
def test_choices_along_depth(layers) -> None:
    space = replace(RULED, granularity=Granularity(layers, rules=True))
    options = RULED.variables[0].options  # type: ignore[union-attr]
    count = LAYERS if layers == "each" else 3
    label = "layer" if layers == "each" else "knot"
    values = {f"method.{label}_{i}": options[i % 3] for i in range(count)}
    found = plans(space, genome(space, **values))
    by_layer = [found[f"model.layers.{i}.mlp.up_proj.weight"].rule.name for i in range(LAYERS)]
    nearest = range(LAYERS) if layers == "each" else [0, 0, 1, 1, 2, 2]
    assert by_layer == [options[i % 3] for i in nearest]
    assert found["lm_head.weight"].rule.name == by_layer[-1]


def test_ranges_cover_every_rule() -> None:
    space = ParameterSpace(["ties", "pcb", "chat_vector"], "base", ["a", "b"], LAYERS)
    found = {v.name: v for v in space.variables}
    assert found["weight.a"] == Real("weight.a", 0.0, 1.3)
    assert found["density.a"] == Real("density.a", 0.02, 1.0)
    above = replace(STAGED, ranges={"sparsify": "above"})
    assert above.variables[-1] == Real("epsilon.b", 1e-6, 1e-3)


def test_rules_without_numbers_serve_beside_others() -> None:
    space = ParameterSpace(["karcher", "linear", "multislerp"], None, ["a", "b"], LAYERS)
    assert names(space) == ["method", "weight.a", "weight.b"]
    assert not ParameterSpace("karcher", None, ["a", "b"], LAYERS).variables
    recipe = space.decode(genome(space, method="karcher"))
    assert recipe == ParameterSpace("karcher", None, ["a", "b"], LAYERS).decode(())


@pytest.mark.parametrize("space", [RULED, STAGED, GROUPED], ids=["rules", "stages", "groups"])
def test_every_point_is_a_recipe_with_plans(space: ParameterSpace) -> None:
    generator = np.random.default_rng(1)
    points = generator.random((40, len(space.variables)))
    points[20:] = np.round(points[20:])
    hashes: set[str] = set()
    for point in points:
        recipe = space.decode(from_unit(space, point))
        assert len(list(recipe.plans(TENSORS, LAYERS))) == len(TENSORS)
        assert parse_recipe(dump_recipe(recipe), "dump").hash == recipe.hash
        hashes.add(recipe.hash)
    assert len(hashes) > 20


def test_every_rule_with_a_base_in_one_space() -> None:
    rules = [name for name, rule in RULES.items() if rule.base == "needed" and rule.sources[1] != 1]
    rules.remove("ram")  # its epsilon is another than della's
    space = ParameterSpace(
        rules, "base", ["a", "b"], LAYERS, granularity=Granularity(2, rules=True)
    )
    generator = np.random.default_rng(2)
    seen: set[str] = set()
    for point in generator.random((60, len(space.variables))):
        seen |= {p.rule.name for p in plans(space, from_unit(space, point)).values()}
    assert seen == set(rules)


def test_seeds_choose_what_can_express_them() -> None:
    space = ParameterSpace(["sce", "cabs", "ties"], "base", ["a", "b"], LAYERS)
    found = {name: named(space, point) for name, point in space.seeds().items()}
    assert list(found) == ["uniform", "base", "a", "b"]
    assert [found[name]["method"] for name in found] == ["sce", "ties", "ties", "ties"]
    assert (found["a"]["weight.a"], found["a"]["weight.b"], found["a"]["density.a"]) == (1, 0, 1)
    staged = {name: named(STAGED, point) for name, point in STAGED.seeds().items()}
    assert (staged["a"]["sparsify"], staged["a"]["consensus"]) == ("none", "none")
    mean = replace(STAGED, ranges={"reference": "mean"})
    assert list(mean.seeds()) == ["uniform", "a", "b"], "the base is not the mean"
    spectral = replace(STAGED, ranges={"spectral": ["star", "truncate"]})
    assert list(spectral.seeds()) == ["uniform"]


def test_a_pool_without_a_base() -> None:
    space = ParameterSpace("ties", None, ["a", "b", "c"], LAYERS, ranges={"reference": "mean"})
    assert list(space.seeds()) == ["uniform", "a", "b", "c"]
    assert plans(space, space.seeds()["a"])["lm_head.weight"].base is None


BROKEN = [
    (RULED, {"rule": []}, r"rules \(none\): a space has at least one rule"),
    (RULED, {"rule": ["ties", "ties"]}, "rules ties, ties: .*each once"),
    (RULED, {"rule": ["ties", "dare"]}, "merge method 'dare': .*did you mean"),
    (RULED, {"rule": ["ties", "linear"]}, "rules 'ties' and 'linear' with a base: one sees"),
    (RULED, {"rule": ["ties", "slerp"]}, "2 experts: rule 'slerp' takes 1 besides the base"),
    (RULED, {"rule": ["model_stock", "ties"], "experts": ["a"]}, r"1 source\(s\): method 'model_st"),
    (RULED, {"base": None}, "no base: rule 'ties' needs the base of the experts"),
    (RULED, {"base": None, "ranges": {"reference": ["mean", "base"]}}, "no base: rule 'ties' needs"),
    (RULED, {"ranges": {"method": ["ties"]}}, r"parameter 'method': .*write rule: \[ties, della\]"),
    (RULED, {"ranges": {"t": [0, 1]}}, "'ties' and 'dare_linear' and 'lines' has no such parameter"),
    (STAGED, {"ranges": {"consensus": ["sums"]}}, "consensus = sums: it is one of none, sum"),
    (STAGED, {"ranges": {"consensus": 3}}, "consensus = 3: it is one of none, sum"),
    (STAGED, {"ranges": {"consensus": ["sum", 1]}}, "consensus = 1: it is one of none, sum"),
    (STAGED, {"ranges": {"consensus": ["sum", "sum"]}}, "each once"),
    (STAGED, {"ranges": {"sparsify": ["none"], "density": [0.2, 1]}}, "'density': it changes nothing"),
    (STAGED, {"ranges": {"sparsify": ["della", "above"]}}, "'epsilon' is a share of density to one"),
    (
        STAGED,
        {"ranges": {"sparsify": ["importance", "none"], "reference": ["mean", "base"]}},
        "sparsify 'importance' with reference 'mean'",
    ),
    (
        STAGED,
        {"ranges": {"combine": ["sum", "slerp"]}, "experts": ["a", "b", "c"]},
        r"combine 'slerp' of 3 source\(s\): it takes 2",
    ),
    (STAGED, {"ranges": {"consensus": ["none", "support"]}, "experts": ["a"]}, "k = 2 with 1 source"),
    (STAGED, {"ranges": {"consensus": "support", "k": [1, 2]}}, "a whole number is not searched"),
]  # fmt: skip


@pytest.mark.parametrize(("space", "change", "message"), BROKEN)
def test_refused(space: ParameterSpace, change: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(space, **change)


def test_the_default_search_finds_the_stages_and_their_numbers() -> None:
    """CMA-ES settled on the wrong option: to it, an option is a plateau."""
    algorithm = default_algorithm(1, chooses=True)
    wanted = genome(STAGED, sparsify="della", consensus="count", **{"weight.a": 0.9})

    def loss(point: np.ndarray) -> float:
        found = from_unit(STAGED, point)
        return sum(
            float(a != b) if isinstance(a, str) else (float(a) - float(b)) ** 2
            for a, b in zip(found, wanted, strict=True)
        )

    def best(name: str) -> float:
        count = len(STAGED.variables)
        start = np.array([to_unit(STAGED, seed) for seed in STAGED.seeds().values()])
        problem = Problem(
            variables=count,
            objectives=1,
            population=12,
            seed=1,
            initial=start,
            levels=tuple(map(levels, STAGED.variables)),
        )
        searcher = build_searcher(name, problem)
        losses: list[float] = []
        for _ in range(40):
            points = [searcher.ask() for _ in range(searcher.batch)]
            for point in points:
                searcher.tell(len(losses), np.array([loss(point)]), np.zeros(0))
                losses.append(loss(point))
        return min(losses)

    assert best(algorithm) < min(0.5, best("random"))

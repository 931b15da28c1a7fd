"""The examples of docs/adding_a_rule.md and docs/merge_rules.md, carried out."""

import re
from pathlib import Path

import pytest
import torch
import yaml

from evomerge.config import Space
from evomerge.merge.pipeline import merge_tensor
from evomerge.merge.whole.combine import WHOLE_COMBINE
from search_spaces import rules
from search_spaces.dialect import dump_recipe, parse_recipe
from search_spaces.parameter import ParameterSpace
from search_spaces.rules import RULES, Rule
from search_spaces.stages import STAGES
from tests.merge.plans import plan_of

DOCS = Path(__file__).parents[2] / "docs"


def blocks(page: str) -> dict[str, str]:
    """The page's code blocks by what stands behind their fence."""
    found = re.findall(r"^```(.+?)\n(.*?)^```", (DOCS / page).read_text(), re.DOTALL | re.MULTILINE)
    return {
        kind if kind not in ("yaml",) else f"yaml {i}": text for i, (kind, text) in enumerate(found)
    }


EXAMPLES = blocks("adding_a_rule.md")


def declared(example: str, monkeypatch: pytest.MonkeyPatch) -> Rule:
    """The rule that the example's line declares, registered for this test."""
    rule = eval(EXAMPLES[example], dict(vars(rules)))
    assert isinstance(rule, Rule)
    assert rule.name not in RULES
    monkeypatch.setitem(RULES, rule.name, rule)
    return rule


def sources(count: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    base = torch.randn((16, 24), generator=generator)
    return base, [base + 0.1 * torch.randn((16, 24), generator=generator) for _ in range(count)]


def test_a_rule_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    rule = declared("python rule", monkeypatch)
    text = f"{{merge_method: {rule.name}, base_model: b, models: [{{model: a}}, {{model: c}}]}}"
    recipe = parse_recipe(text, "here")
    assert parse_recipe(dump_recipe(recipe), "dump") == recipe
    space = ParameterSpace(["dare_ties", rule.name], "base", ["a", "b"], 4)
    assert [v.name for v in space.variables][:2] == ["method", "weight.a"]
    assert "a" in space.seeds()

    base, experts = sources(3)
    ours = merge_tensor(plan_of(rule.name, [0.5, 0.3, 0.9], [0.4] * 3), base, experts)
    chosen = plan_of("dare_ties", [0.5, 0.3, 0.9], [0.4] * 3, consensus="count",
                     rescale_norm="inverse")  # fmt: skip
    assert torch.equal(ours, merge_tensor(chosen, base, experts))
    dense = merge_tensor(plan_of(rule.name, [1.0, 0.0, 0.0]), base, experts)
    torch.testing.assert_close(dense, experts[0], rtol=0, atol=1e-6)


def test_a_stage_is_one_line_and_one_function(monkeypatch: pytest.MonkeyPatch) -> None:
    space: dict[str, object] = {"torch": torch}
    exec(EXAMPLES["python function"], space)
    for choice, parameters in eval(EXAMPLES["python stage"]).items():
        assert choice not in STAGES["combine"]
        monkeypatch.setitem(STAGES["combine"], choice, parameters)
        monkeypatch.setitem(WHOLE_COMBINE, choice, space[choice])
    rule = declared("python preset", monkeypatch)
    base, experts = sources(3)
    experts[2] = base + 100  # far off
    result = merge_tensor(plan_of(rule.name, [1.0] * 3), base, experts)
    middle = torch.stack([expert - base for expert in experts]).median(dim=0).values
    torch.testing.assert_close(result, base + middle, rtol=0, atol=1e-6)
    assert (result - base).abs().max() < 1
    searched = ParameterSpace(rule.name, "base", ["a", "b", "c"], 4)
    assert list(searched.seeds()) == ["uniform"], "no weights make a median one source"


def test_the_files_and_tables_that_the_page_names_exist() -> None:
    text = (DOCS / "adding_a_rule.md").read_text()
    rows = re.findall(r"^\| [^|]+ \| `([\w/.]+)` \| ([^|]+) \|", text, re.MULTILINE)
    assert len(rows) == 6
    for file, tables in rows:
        source = (DOCS.parent / file).read_text()
        assert all(f"\n{table}" in source for table in re.findall(r"`(\w+)`", tables)), file


def test_the_examples_of_the_reference_page() -> None:
    recipe, space = (text for kind, text in blocks("merge_rules.md").items() if "yaml" in kind)
    made = parse_recipe(recipe, "merge_rules.md")
    plans = made.plans(["model.norm.weight", "lm_head.weight", "model.embed_tokens.weight"], 2)
    assert [plan.rule.name for plan in plans] == ["task_arithmetic", "magmax", "ties"]
    section = Space.model_validate(yaml.safe_load(space)["space"])
    assert section.rules == ["ties", "dare_linear", "lines"]
    assert section.granularity.rules

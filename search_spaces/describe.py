"""The declarations of merge rules and templates as text, for the documentation."""

import math
from collections.abc import Iterable

from search_spaces.mergekit import METHODS
from search_spaces.rules import METHOD, OVERRIDES, PARAMETERS, RULES, STAGES, Parameter, Rule
from search_spaces.template_table import TEMPLATES, Template


def rules_table() -> str:
    """Markdown tables: the merge rules, their stages, the parameters with their ranges."""
    rules = [
        "| rule | stages | searched | other parameters | sources | mergekit | paper |",
        "|---|---|---|---|---|---|---|",
        *(_rule_row(rule) for rule in RULES.values()),
    ]
    return "\n".join([*rules, ""])


def stages_table() -> str:
    """A Markdown table: every choice of every stage, with the parameters it brings."""
    rows = [
        f"| `{stage}` | `{choice}` | {_names(parameters)} | {_names(_presets(stage, choice))} |"
        for stage, choices in STAGES.items()
        for choice, parameters in choices.items()
    ]
    head = ["| stage | choice | its parameters | rules that have it |", "|---|---|---|---|"]
    return "\n".join([*head, *rows, ""])


def parameters_table() -> str:
    """A Markdown table of the parameters with their ranges."""
    head = [
        "| parameter | of | default | valid | searched | meaning |",
        "|---|---|---|---|---|---|",
    ]
    return "\n".join([*head, *(_parameter_row(p) for p in PARAMETERS.values()), ""])


def templates_table(layers: int = 32) -> str:
    """A Markdown table of the templates, with their numbers' ranges for models of `layers`."""
    head = [
        f"| template | what it does | models | numbers (of {layers} layers) | begins with | paper |",
        "|---|---|---|---|---|---|",
    ]
    return "\n".join([*head, *(_template_row(t, layers) for t in TEMPLATES.values()), ""])


def _template_row(template: Template, layers: int) -> str:
    numbers = ", ".join(f"`{n.name}` {_interval(n.low, n.high)}" for n in template.numbers(layers))
    start = template.start(layers, (1, 2 * layers))
    begins = ", ".join(f"{name} {value}" for name, value in start.items())
    roles = _names(template.roles)
    return f"| `{template.name}` | {template.doc} | {roles} | {numbers} | {begins} | {template.paper} |"


def _rule_row(rule: Rule) -> str:
    choices = {stage: rule.choice(stage) for stage in STAGES}
    stages = ", ".join(f"{k} `{v}`" for k, v in choices.items() if v != "none")
    searched = ", ".join(f"{p} {_interval(*_range(rule, p))}" for p in rule.searched)
    others = [p for p in rule.parameters if p not in rule.searched and p not in OVERRIDES]
    chosen = ["stages"] if set(OVERRIDES) <= set(rule.own) else []
    mergekit = "yes" if rule.name in METHODS else "–"
    return (
        f"| `{rule.name}` | {stages} | {searched or '–'} | {', '.join([*others, *chosen]) or '–'} "
        f"| {_sources(rule)} | {mergekit} | {rule.paper} |"
    )


def _range(rule: Rule, parameter: str) -> tuple[float, float]:
    """The interval of a parameter that `rule` searches."""
    found = rule.search(parameter)
    assert found is not None, parameter
    return found


def _sources(rule: Rule) -> str:
    least, most = rule.sources
    count = f"{least}" if least == most else f"{least} or more"
    before = {"needed": "base + ", "optional": "(base +) ", "source": "", "either": ""}[rule.base]
    return before + count


def _presets(stage: str, choice: str) -> list[str]:
    names = [rule.name for rule in RULES.values() if rule.choice(stage) == choice]
    return ["(default)"] if choice == "none" and stage != "reference" else names


def _names(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" if name[0] != "(" else name for name in names) or "–"


def _parameter_row(parameter: Parameter) -> str:
    of = "source" if parameter.per_source else "tensor"
    default = "by rule" if parameter.choices else parameter.default
    shown = "required" if default is None else default
    if isinstance(shown, float):
        shown = f"{shown:g}"
    searched = _interval(*parameter.search) if parameter.search else "no"
    if parameter.name == METHOD:
        valid = "a rule"
    elif parameter.choices:
        valid = ", ".join(str(c).lower() for c in parameter.choices)
    else:
        valid = _interval(parameter.low, parameter.high)
    doc = parameter.doc.replace("|", "\\|")
    return f"| `{parameter.name}` | {of} | {shown} | {valid} | {searched} | {doc} |"


def _interval(low: float, high: float) -> str:
    if not math.isfinite(low):
        return "finite"
    return f"[{low:g}, {high:g}]" if math.isfinite(high) else f"{low:g} or more"

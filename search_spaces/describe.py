"""The declaration of the merge rules as text, for the documentation."""

import math

from search_spaces.rules import PARAMETERS, RULES, STAGES, Parameter, Rule


def rules_table() -> str:
    """Markdown tables: the merge rules with their stages, and the parameters with their ranges."""
    rules = [
        "| rule | stages | parameters (searched in bold) | sources | paper |",
        "|---|---|---|---|---|",
        *(_rule_row(rule) for rule in RULES.values()),
    ]
    numbers = [
        "| parameter | of | default | valid | searched | meaning |",
        "|---|---|---|---|---|---|",
        *(_parameter_row(parameter) for parameter in PARAMETERS.values()),
    ]
    return "\n".join([*rules, "", *numbers, ""])


def _rule_row(rule: Rule) -> str:
    choices = {stage: str(getattr(rule, stage)) for stage in STAGES}
    stages = ", ".join(f"{k} `{v}`" for k, v in choices.items() if v != "none")
    names = [f"**{p}**" if p in rule.searched else p for p in rule.parameters]
    least, most = rule.sources
    count = (
        str(least) if least == most else f"{least} or more" if most is None else f"{least}-{most}"
    )
    sources = f"base + {count}" if rule.needs_base else count
    return f"| `{rule.name}` | {stages} | {', '.join(names)} | {sources} | {rule.paper} |"


def _parameter_row(parameter: Parameter) -> str:
    of = "source" if parameter.per_source else "tensor"
    default = "by rule" if parameter.choices else parameter.default
    shown = "required" if default is None else default
    searched = _interval(*parameter.search) if parameter.search else "no"
    if parameter.choices:
        valid = ", ".join(str(c).lower() for c in parameter.choices)
    else:
        valid = _interval(parameter.low, parameter.high)
    return f"| `{parameter.name}` | {of} | {shown} | {valid} | {searched} | {parameter.doc} |"


def _interval(low: float, high: float) -> str:
    return f"[{low:g}, {high:g}]" if math.isfinite(low) else "finite"

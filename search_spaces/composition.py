"""A rule as it is carried out for one tensor: its stages chosen, and whether they go together.

A recipe's settings may put other choices in place of a rule's. `compose` is the one place that
resolves them, the switches `normalize` and `rescale` included.
"""

from collections.abc import Mapping, Sequence

from search_spaces.errors import InputError
from search_spaces.rules import METHOD, OVERRIDES, Rule
from search_spaces.settings import Scalar
from search_spaces.stages import INPUTS

CHOOSERS: tuple[str, ...] = (METHOD, *OVERRIDES, "normalize", "rescale", "rescale_norm")
"""Parameters that say which rule is carried out."""


def compose(rule: Rule, based: bool, said: Mapping[str, Scalar]) -> Rule:
    """`rule` with every stage as it will be carried out.

    Args:
        rule: as declared.
        based: whether a base is named that the sources are seen from.
        said: what a recipe says of `CHOOSERS`; what the rule does not have is passed over.
    """
    choices = {
        stage: str(said[stage]) for stage in OVERRIDES if stage in said and stage in rule.own
    }
    if rule.base == "optional" and based:
        choices.setdefault("reference", "base")
    if "normalize" in rule.own and "combine" not in choices:
        mean = said.get("normalize", rule.default("normalize"))
        choices["combine"] = "mean" if mean else "sum"
    if "rescale" in rule.own:
        rescaled = said.get("rescale", rule.default("rescale"))
        norm = said.get("rescale_norm", rule.default("rescale_norm"))
        choices["rescale"] = str(norm) if rescaled else "none"
    return rule.with_stages(**choices)


def from_base_to_source(rule: Rule, based: bool, inputs: int) -> bool:
    """Whether slerp goes from the base itself to the only source."""
    return rule.combine == "slerp" and rule.reference == "none" and based and inputs == 1


def check_composed(rule: Rule, based: bool, inputs: int, where: str) -> None:
    """Raise an `InputError` unless the stages of a composed rule can work.

    Args:
        rule: from `compose`.
        based: whether a base is named that the sources are seen from.
        inputs: the number of sources besides that base.
        where: tensor, slice or model.
    """
    if rule.reference == "base" and not based:
        raise InputError(
            "no base_model",
            f"method '{rule.name}' needs the base of the others",
            where,
            "name the model the others were fine-tuned from",
        )
    if rule.sparsify == "importance" and rule.reference != "base":
        raise InputError(
            f"sparsify 'importance' with reference '{rule.reference}'",
            "importance is how far a source has moved from the base",
            where,
            "set reference: base, or choose another sparsify",
        )
    to_source = from_base_to_source(rule, based, inputs)
    if to_source and not rule.sparsify == rule.spectral == rule.consensus == "none":
        raise InputError(
            f"sparsify '{rule.sparsify}', spectral '{rule.spectral}', consensus '{rule.consensus}'",
            "slerp from the base itself to a source has no deltas to work on",
            where,
            "leave them out, or set reference: base and merge two sources",
        )
    count = inputs + to_source
    least, most = INPUTS.get(rule.combine, (1, None))
    if count < least or (most is not None and count > most):
        raise InputError(
            f"combine '{rule.combine}' of {inputs} source(s)",
            f"it takes {least}" + (" or more" if most is None else "") + " besides the base",
            where,
            "add or remove models, or choose another combine",
        )


def compares_numbers(rule: Rule) -> bool:
    """Whether `check_numbers` has anything to check."""
    return rule.sparsify == "della" or rule.consensus == "support"


def check_numbers(
    rule: Rule,
    shared: Mapping[str, Scalar],
    inputs: Sequence[Mapping[str, Scalar]],
    where: str,
) -> None:
    """Raise an `InputError` for numbers that contradict each other.

    Args:
        rule: from `compose`.
        shared: the tensor's parameters; those that are not known are left out.
        inputs: each source's parameters, likewise.
        where: tensor, slice or model.
    """
    k = shared.get("k", 1.0)
    if rule.consensus == "support" and float(k) > len(inputs):
        raise InputError(
            f"k = {k:g} with {len(inputs)} source(s)",
            "no element is needed by more sources than there are",
            where,
            "lower k",
        )
    for own in inputs if rule.sparsify == "della" else ():
        if "density" in own and "epsilon" in own:
            _check_della(float(own["density"]), float(own["epsilon"]), where)


def _check_della(density: float, epsilon: float, where: str) -> None:
    # As mergekit: all or nothing is kept whatever epsilon is.
    if 0 < density < 1 and not (density - epsilon > 0 and density + epsilon < 1):
        raise InputError(
            f"density = {density:g} with epsilon = {epsilon:g}",
            "della keeps elements with probabilities from density - epsilon to density + epsilon, "
            "which lie between 0 and 1",
            where,
            "lower epsilon",
        )

"""The run file's `space`: what is searched. `kind` says how; each kind is a class with its own keys."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator

from evomerge.config.section import Section
from search_spaces.errors import nearest
from search_spaces.ranges import allowed_in
from search_spaces.rules import METHOD, OVERRIDES, PARAMETERS, RULES
from search_spaces.template_table import TEMPLATES


class Granularity(Section):
    """Which weights share a variable."""

    layers: int | Literal["each"] | dict[str, int] | None = Field(
        default=None,
        description="number of layer groups, `each`, or `{knots: k}` for smooth change over depth",
    )
    components: list[str] | Literal["all"] | None = Field(
        default=None,
        description="components with variables of their own: attn, mlp, norm, embed, lm_head",
    )
    rules: bool = Field(
        default=False,
        description="each group chooses its rule and stages too, where several are searched; else "
        "the whole model has one",
    )


class Merging(Section):
    """Merge rules and their numbers: the part of a space that says how layers are merged."""

    model_config = ConfigDict(extra="allow", frozen=True)

    rule: str | list[str] = Field(
        default="task_arithmetic",
        description="merge method, or a list of them: the search chooses among them (`method`)",
    )
    granularity: Granularity = Field(
        default=Granularity(), description="which weights share a variable"
    )

    @model_validator(mode="after")
    def _known_rule_and_parameters(self) -> Self:
        for rule in self.rules:
            if rule not in RULES:
                raise ValueError(f"rule '{rule}' is unknown; {nearest(rule, RULES)}")
        if not self.rules:
            raise ValueError("rule: an empty list; name a merge method")
        names = allowed_in([RULES[rule] for rule in self.rules], self.parameters).names
        for key in self.parameters:
            if key not in names or key == METHOD:
                known = [*names, *type(self).model_fields]
                rules = " or ".join(f"'{rule}'" for rule in self.rules)
                if key in PARAMETERS:
                    said = f"{rules} has no such parameter; {nearest(key, known)}"
                else:
                    said = _stranger(key, known)
                raise ValueError(f"'{key}': {said}")
        return self

    @property
    def rules(self) -> list[str]:
        """The merge methods to choose from."""
        return [self.rule] if isinstance(self.rule, str) else self.rule

    @property
    def chooses(self) -> bool:
        """Whether the search chooses among rules or stages."""
        stages = [self.parameters.get(stage) for stage in OVERRIDES]
        return len(self.rules) > 1 or any(isinstance(given, list) for given in stages)

    @property
    def parameters(self) -> dict[str, Any]:
        """The rules' parameters the run file speaks of: a range, options or a value each."""
        return dict(self.model_extra or {})


class Space(Merging):
    """Parameters of the rules (`weight`, `density`, `lambda`, `t`, ...) are keys too: a range `[low,
    high]` to search, or a value to fix. So are the stages `reference`, `sparsify`, `spectral`,
    `consensus` and `combine` of rules on deltas: a choice, or a list of choices to search
    (`consensus: [none, sum, count]`); the numbers of those choices are searched as well. Numbers that
    a candidate's rule does not read are no part of it: candidates that differ in nothing else are
    scored once."""

    kind: Literal["parameter"] = Field(
        default="parameter", description="how the sources' layers are merged, each with its like"
    )

    @property
    def merging(self) -> Merging | None:
        """The rules that are searched."""
        return self


class Merged(Merging):
    """A parameter space that is searched first; its winner joins the sources as the model `merged`.
    Its keys are those of kind `parameter`, and `share`."""

    share: float = Field(
        default=0.5,
        gt=0,
        lt=1,
        description="of the evaluations (and hours and answers, where they are bounded), in (0, 1)",
    )


def _layers(value: object) -> object:
    """`[least, most]` layers; a number is both."""
    match value:
        case bool():
            pass
        case int():
            return value, value
        case [int() as least, int() as most]:
            return least, most
        case _:
            pass
    raise ValueError(f"depth {value!r} is no number of layers; give [least, most] or a number")


def _scales(value: object) -> object:
    """`[low, high]`, or a number."""
    match value:
        case bool():
            pass
        case int() | float():
            return value
        case [int() | float() as low, int() | float() as high]:
            return low, high
        case _:
            pass
    raise ValueError(f"input_scale {value!r} is no scale; give [low, high] or a number")


Depth = Annotated[
    tuple[int, int], BeforeValidator(_layers, json_schema_input_type=int | tuple[int, int])
]
InputScale = Annotated[float | tuple[float, float], BeforeValidator(_scales)]


def _depth() -> Any:
    said = "layers of a candidate: [least, most], or a number; default: half the sources' to twice as many"
    return Field(default=None, description=said)


def _fixed(end: str, owner: str = "the base, or of the first source") -> Any:
    said = f"layers kept as they are at the {end}: those of {owner}"
    return Field(default=0, ge=0, description=said)


def _input_scale(where: str) -> Any:
    return Field(
        default=None,
        description=f"factor on the hidden state that flows into {where}: a range to search, or a "
        "number to fix; 0.01 to 4 in magnitude; default: none",
    )


def _merged() -> Any:
    return Field(default=None, description="a parameter space to search first (two stages)")


class _Closed(Section):
    """A kind without parameters of rules: its fields are its keys."""

    @model_validator(mode="before")
    @classmethod
    def _own_keys(cls, value: object) -> object:
        for key in value if isinstance(value, dict) else ():
            if key not in cls.model_fields:
                raise ValueError(f"'{key}': {_stranger(str(key), cls.model_fields)}")
        return value

    @property
    def merging(self) -> Merging | None:
        """The rules that are searched: those of the first stage, where there is one."""
        return merged_of(self)


class PathSection(_Closed):
    """Which layers follow which: a list of (model, layer) of any length, repeats allowed."""

    kind: Literal["path"] = Field(default="path", description="the layers' order, freely")
    depth: Depth | None = _depth()
    first: int = _fixed("bottom")
    last: int = _fixed("top")
    input_scale: InputScale | None = _input_scale("each layer")
    merged: Merged | None = _merged()


class IndicatorSection(_Closed):
    """All layers of all sources in order, `repeats` times over, and one switch for each (Akiba et al.
    2024)."""

    kind: Literal["indicator"] = Field(
        default="indicator", description="layers in their order, each in or out"
    )
    repeats: int = Field(default=2, ge=1, description="how often all layers are laid out")
    depth: Depth | None = _depth()
    input_scale: InputScale | None = _input_scale("each layer that is in")
    merged: Merged | None = _merged()


class TemplateSection(_Closed):
    """Known ways of stacking with a few numbers each, for one model or two."""

    kind: Literal["template"] = Field(
        default="template", description="published ways of stacking, and their few numbers"
    )
    templates: list[str] | None = Field(
        default=None,
        min_length=1,
        description=f"which of {', '.join(TEMPLATES)}; default: all that there are models for",
    )
    depth: Depth | None = _depth()
    merged: Merged | None = _merged()


class HybridSection(Merging):
    """Layers in any order, each of them a merge of the sources' layers. The rules' parameters are
    keys, as of kind `parameter`."""

    kind: Literal["hybrid"] = Field(
        default="hybrid", description="the layers' order and how they are merged, jointly"
    )
    depth: Depth | None = _depth()
    first: int = _fixed("bottom", "the merged model")
    last: int = _fixed("top", "the merged model")
    input_scale: InputScale | None = _input_scale("each layer")
    weights: Literal["grouped", "per_slot"] = Field(
        default="grouped",
        description="`grouped`: the sources' layers are merged by `granularity`, and then stacked; "
        "`per_slot`: each place in the stack has weights of its own",
    )

    @property
    def merging(self) -> Merging | None:
        """The rules that are searched."""
        return self


KINDS: Mapping[str, type[Section]] = {
    "parameter": Space,
    "path": PathSection,
    "indicator": IndicatorSection,
    "template": TemplateSection,
    "hybrid": HybridSection,
}
"""What a space can be, by `kind`."""

STACKS = tuple(kind for kind in KINDS if kind != "parameter")
"""The kinds that search which layers follow which."""


def merged_of(section: Section) -> Merged | None:
    """What a space's section says of a first stage; None: it has none."""
    return getattr(section, "merged", None)


def scales_of(section: Section) -> tuple[float, ...]:
    """The ends of the range of input scales, or the one that is fixed; none where there are none."""
    given: float | tuple[float, float] | None = getattr(section, "input_scale", None)
    if given is None:
        return ()
    return given if isinstance(given, tuple) else (given,)


def _stranger(key: str, known: Iterable[str]) -> str:
    """What is wrong with a key that a kind of space does not have, and what to do."""
    others = [kind for kind, section in KINDS.items() if key in section.model_fields]
    if others:
        return f"a key of kind {', '.join(others)}; leave it out, or change `kind`"
    return f"unknown key; {nearest(key, known)}"


def _kind_of(value: object) -> str:
    """Which kind a section is, of a mapping or of what was made of one."""
    given = value.get("kind") if isinstance(value, dict) else getattr(value, "kind", None)
    return "parameter" if given is None else str(given)


def _known_kind(value: object) -> object:
    kind = _kind_of(value)
    if kind not in KINDS:
        raise ValueError(f"kind '{kind}' is unknown; {nearest(kind, KINDS)}")
    return value


AnySpace = Annotated[
    Annotated[Space, Tag("parameter")]
    | Annotated[PathSection, Tag("path")]
    | Annotated[IndicatorSection, Tag("indicator")]
    | Annotated[TemplateSection, Tag("template")]
    | Annotated[HybridSection, Tag("hybrid")],
    Discriminator(_kind_of),
    BeforeValidator(_known_kind),
]

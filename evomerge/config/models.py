"""The run file's `models`: what is merged."""

import re
from typing import Annotated, Self

from pydantic import BeforeValidator, Field, model_validator

from evomerge.config.section import Section
from search_spaces.errors import nearest

_RESERVED = {
    *("base", "union", "uniform", "greedy_soup", "random_search", "winner"),
    *("merge", "merged", "best_start"),
}
"""What reports and pools of models call others."""


class Source(Section):
    """A model that goes in. A bare string is its `model`."""

    model: str = Field(description="Hugging Face id or local folder")
    revision: str | None = Field(default=None, description="branch, tag or commit of a hub model")
    lora: str | None = Field(
        default=None,
        description="LoRA adapter on top of it: Hugging Face id (with `@revision`) or local folder",
    )


def _source(value: object) -> object:
    return {"model": value} if isinstance(value, str) else value


AnySource = Annotated[Source, BeforeValidator(_source, json_schema_input_type=Source | str)]


class Models(Section):
    """What is merged."""

    base: AnySource | None = Field(
        default=None, description="the model the experts were fine-tuned from"
    )
    experts: dict[str, AnySource] = Field(description="the experts, by a short name", min_length=1)
    tokenizer: str | None = Field(
        default=None,
        description="whose tokens the result has where vocabularies differ: `base`, `union`, an expert",
    )

    @model_validator(mode="after")
    def _names_are_free(self) -> Self:
        taken = _RESERVED & set(self.experts)
        if taken:
            raise ValueError(f"'{taken.pop()}' is a reserved name; call the expert something else")
        for name in self.experts:
            if not re.fullmatch(r"[\w.-]+", name):
                raise ValueError(f"'{name}': a name has letters, digits, '_', '-' and '.' only")
        return self

    @model_validator(mode="after")
    def _tokenizer_is_of_a_source(self) -> Self:
        known = ("base", "union", *self.experts)
        if self.tokenizer is not None and self.tokenizer not in known:
            raise ValueError(f"tokenizer '{self.tokenizer}': {nearest(self.tokenizer, known)}")
        return self

    @property
    def sources(self) -> dict[str, Source]:
        """Every source by name, the base (named `base`) first."""
        return ({"base": self.base} if self.base else {}) | self.experts

"""What every part of the run file is: closed and immutable."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A part of the run file: closed (unknown keys are errors) and immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

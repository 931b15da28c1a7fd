"""The run file's `search.warm_start`: another run to begin from."""

from typing import Annotated

from pydantic import BeforeValidator, Field

from evomerge.config.section import Section


class WarmStart(Section):
    """Another run whose best candidates are among the first asked. A bare string is its `run`."""

    run: str = Field(
        min_length=1,
        description="the other run's folder, relative to the run file: running, dead or finished; it "
        "is only read, and only once, when this run begins",
    )
    candidates: int = Field(
        default=16,
        ge=1,
        description="at most so many, the best of its front first; the population holds them beside "
        "the space's own starting points, and is raised to where none is given",
    )


def _run(value: object) -> object:
    return {"run": value} if isinstance(value, str) else value


AnyWarmStart = Annotated[WarmStart, BeforeValidator(_run, json_schema_input_type=WarmStart | str)]

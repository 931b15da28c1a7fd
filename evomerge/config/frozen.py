"""What a run's own copy of its run file adds."""

from evomerge.config.section import Section


class SourceFiles(Section):
    """What a source was when the run began."""

    folder: str
    lora: str | None = None
    revision: str | None = None
    files: dict[str, str]
    fingerprint: str


class Frozen(Section):
    """Added to a run's own copy of its run file: what it needs to be continued and explained."""

    version: int
    created: str
    origin: str
    sources: dict[str, SourceFiles]
    packages: dict[str, str]

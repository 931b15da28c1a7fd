"""Warm start: what a search takes over from another run, and what of that run's it cannot.

Only genomes are taken over, said anew in the new space (`search_spaces.transfer`), never scores: a
candidate that the new run asks is judged on the new run's items. Where those are the same, what the
other run answered is known by content (`runs/answers.py`), and costs nothing.

Sources are told apart by the hashes of their weights, whatever they are called in either run file.
The other run is read once, when a run begins; what was taken is written down in the new run's `meta`
(`warm_start`), so that a resumed run needs the other one no more.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from evomerge.config import RunFile
from evomerge.report.summary import load_candidates, stored_goals
from evomerge.runs.database import Database
from evomerge.runs.folder import RunFolder, file_hashes
from evomerge.search.candidate import Candidate
from evomerge.search.goals import Goals
from evomerge.search.standing import Standing
from evomerge.spaces import build_space, first_stage
from evomerge.two_stages import FIRST_PHASE, FirstStage
from search_spaces.errors import InputError
from search_spaces.space import SearchSpace
from search_spaces.transfer import Transfer, merging
from search_spaces.variables import Genome, Real

if TYPE_CHECKING:
    from evomerge.merge.locations import Location
    from evomerge.merge.sources import Sources

_KEY = "warm_start"
_WHERE = "search.warm_start"

SMALL = 0.1
"""Weight of a new expert in every second of the candidates: where it may help, something to climb."""

_NAMED = 3
"""Variables that are named where values were moved into narrower ranges; of more, these and how many."""


@dataclass(frozen=True)
class Stage:
    """What one stage of a search begins with.

    Attributes:
        genomes: of the new space, the best first.
        ids: what the other run calls them.
        dropped: why candidates could not be taken over -> how many.
        moved: variables of which a value was moved into the new range -> in how many candidates.
    """

    genomes: tuple[Genome, ...] = ()
    ids: tuple[int, ...] = ()
    dropped: Mapping[str, int] = field(default_factory=dict[str, int])
    moved: Mapping[str, int] = field(default_factory=dict[str, int])


@dataclass(frozen=True)
class WarmStart:
    """What a search begins with.

    Attributes:
        run: the other run's folder.
        search: of the search, or its second stage.
        first: of the stage before, if there is one.
        notes: sentences on the sources.
    """

    run: str = ""
    search: Stage = Stage()
    first: Stage = Stage()
    notes: tuple[str, ...] = ()

    @property
    def facts(self) -> list[tuple[str, str]]:
        """What `evomerge check` shows: (what, value)."""
        if not self.run:
            return []
        found: list[tuple[str, str]] = []
        for name, stage in (("warm start, first stage", self.first), ("warm start", self.search)):
            if stage.genomes or stage.dropped or stage is self.search:
                found += [(name, line) for line in _told(stage, self.run)]
        return found + [("warm start", note) for note in self.notes]

    def keep(self, database: Database) -> None:
        """Write down what was taken over."""
        if self.run:
            database.set_meta(_KEY, asdict(self))


NOTHING = WarmStart()
"""A cold start."""


def kept(database: Database) -> WarmStart:
    """What a run began with, as it wrote it down."""
    found: dict[str, Any] = database.meta(_KEY, {})
    if not found:
        return NOTHING
    stages = {
        name: Stage(
            tuple(tuple(genome) for genome in found[name]["genomes"]),
            tuple(found[name]["ids"]),
            found[name]["dropped"],
            found[name]["moved"],
        )
        for name in ("search", "first")
    }
    return WarmStart(found["run"], **stages, notes=tuple(found["notes"]))


@dataclass(frozen=True)
class Beginner:
    """The run that begins.

    Attributes:
        config: its run file.
        folder: what its relative paths are relative to.
        places: source name -> where it lies.
        sources: opened.
        space: what it searches; of two stages the second's.
        goals: what it optimises.
        first: its first stage, if any.
    """

    config: RunFile
    folder: Path
    places: Mapping[str, "Location"]
    sources: "Sources"
    space: SearchSpace
    goals: Goals
    first: FirstStage | None


def warm_start(new: Beginner) -> WarmStart:
    """What a run that begins takes over, as its run file says; nothing, where that says nothing.

    Raises:
        InputError: no run there, another kind of space or base, no source or parameter in common, a
            population without a place, or no candidate that can be said in the new space.
    """
    section = new.config.search.warm_start
    if section is None:
        return NOTHING
    path = (new.folder / Path(section.run).expanduser()).resolve()
    if not (path / "run.db").is_file():
        raise InputError(
            f"run = {section.run}",
            f"there is no run in {path}",
            _WHERE,
            "name the folder of a run, relative to the run file, or leave warm_start out",
        )
    with closing(RunFolder.open(path)) as run, run.database.snapshot():
        common = _common(run, new)
        shape = cast("Sources", _Shape(new.sources))
        spaces = [(build_space(run.config, shape), new.space)]
        first = first_stage(run.config, shape)
        taken = Stage()
        if first is not None and new.first is not None:
            spaces.append((first, new.first.space))
            taken = _stage(run, new, spaces[1], common, FIRST_PHASE)
        found = _stage(run, new, spaces[0], common, "search")
    if not found.genomes and not taken.genomes:
        raise _nothing(section.run, {**taken.dropped, **found.dropped})
    losses = (note for pair in spaces for note in Transfer(*pair, common).losses)
    notes = *_notes(run.config, new, common), *dict.fromkeys(losses)
    return WarmStart(str(path), found, taken, notes)


def _nothing(run: str, dropped: Mapping[str, int]) -> InputError:
    """Nothing was taken over."""
    why = "; ".join(f"{number}: {reason}" for reason, number in dropped.items())
    if not why:
        rule, remedy = "none of its candidates was scored", "name a run that came further"
    else:
        rule = f"none of its candidates can be said in this run's space ({why})"
        remedy = "make the space's rules, options and depth hold what that run found"
    return InputError(f"run = {run}", rule, _WHERE, f"{remedy}, or leave warm_start out")


@dataclass(frozen=True)
class _Shape:
    """Stands in for another run's sources, which may be gone: models of the same shape as these."""

    sources: "Sources"

    @property
    def layers(self) -> int:
        return self.sources.layers

    def names_of(self, _: str) -> Any:
        return self.sources.names_of(
            "base" if "base" in self.sources.names else self.sources.names[0]
        )


def _common(run: RunFolder, new: Beginner) -> dict[str, str]:
    """Old name -> new name of the sources that both runs have.

    Raises:
        InputError: none, or another base, where merges are seen from it.
    """
    assert run.config.frozen is not None
    before = {name: _weights(s.files) for name, s in run.config.frozen.sources.items()}
    now = {name: _weights(file_hashes(place)) for name, place in new.places.items()}
    found: dict[str, str] = {}
    for name, weights in now.items():
        same = [old for old, its in before.items() if its == weights and old not in found]
        if same:
            found[name if name in same else same[0]] = name
    merging = new.config.space.merging is not None
    if merging and found.get("base") != "base" and {"base"} & {*before, *now}:
        raise InputError(
            f"run = {run.path}",
            "its base is another model than this run's, so its weights are of other differences",
            _WHERE,
            "begin from a run on the same base, or leave warm_start out",
        )
    if not set(found) - ({"base"} if merging else set()):
        raise InputError(
            f"run = {run.path}",
            f"it has no {'expert' if merging else 'model'} in common with this run (by the hashes of "
            "their weights)",
            _WHERE,
            "begin from a run over some of the same models, or leave warm_start out",
        )
    return found


def _weights(files: Mapping[str, str]) -> frozenset[str]:
    """What makes a source the model it is: hashes of its weights and its adapter's files."""
    return frozenset(
        digest
        for name, digest in files.items()
        if name.endswith(".safetensors") or name.startswith("lora/")
    )


def _stage(
    run: RunFolder,
    new: Beginner,
    spaces: tuple[SearchSpace, SearchSpace],
    common: Mapping[str, str],
    phase: str,
) -> Stage:
    """What a stage of the new search begins with: the best of the same stage of the other run."""
    old, space = spaces
    names = run.database.meta("variables" if phase == "search" else f"{phase}_variables", [])
    if names != [v.name for v in old.variables]:
        raise InputError(
            f"run = {run.path}",
            "its search space cannot be rebuilt over this run's models (layers or components differ)",
            _WHERE,
            "begin from a run over models of the same shape, or leave warm_start out",
        )
    transfer = Transfer(old, space, common)
    ranked = _ranked(run, new.goals, load_candidates(run.database, phase)[0])
    return _carried(transfer, ranked, _room(new.config, space))


def _carried(transfer: Transfer, ranked: Sequence[Candidate], room: int) -> Stage:
    """The first `room` candidates that the new space can say, each recipe once."""
    genomes: list[Genome] = []
    ids: list[int] = []
    seen: set[str] = set()
    dropped: Counter[str] = Counter()
    moved: Counter[str] = Counter()
    for candidate in ranked:
        if len(genomes) == room:
            break
        carried = transfer.carried(candidate.genome, SMALL * (len(genomes) % 2))
        if carried.genome is None:
            dropped[carried.reason] += 1
            continue
        digest = transfer.new.decode(carried.genome).hash
        if digest in seen:
            dropped["the same here as a better one"] += 1
            continue
        seen.add(digest)
        genomes.append(carried.genome)
        ids.append(candidate.id)
        moved.update(carried.moved)
    return Stage(tuple(genomes), tuple(ids), dict(dropped), dict(moved))


def _room(config: RunFile, space: SearchSpace) -> int:
    """How many candidates the first generation takes.

    Raises:
        InputError: none, as the space's own starting points fill it.
    """
    section, population = config.search.warm_start, config.search.population
    assert section is not None
    if population is None:
        return section.candidates
    # A fragile space's population holds as many starting points as it has places for.
    places = population - (0 if space.fragile else len(space.seeds()))
    if places < 1:
        raise InputError(
            f"population {population}",
            "the space's own starting points fill the first generation, which leaves warm_start no place",
            "search.population",
            f"use {population - places + min(section.candidates, 8)} or more, or leave it out",
        )
    return min(section.candidates, places)


def _ranked(run: RunFolder, goals: Goals, candidates: Sequence[Candidate]) -> list[Candidate]:
    """The scored candidates of another run: its best, those best in one objective, the rest of its
    front, all others. By the objectives that this run has too, if there are any.
    """
    own = _shared(stored_goals(run), goals)
    standing = Standing(own, racing=bool(run.config.fitness.racing.rungs))
    standing.add(candidates)
    scored = standing.scored()
    if not scored:
        return []
    spread = own.spread([c.evaluation for c in scored])
    ranked = sorted(scored, key=lambda c: (-own.merit(c.evaluation, spread), c.id))
    keys = {member.key for member in standing.archive.front()}
    front = [c for c in ranked if c.recipe_hash in keys]
    best = [
        max(front, key=lambda c: own.gains(c.evaluation)[k]) for k in range(len(own.names)) if front
    ]
    chosen = [*front[:1], *best, *front, *ranked]
    return list({c.recipe_hash: c for c in chosen}.values())


def _shared(old: Goals, new: Goals) -> Goals:
    """The other run's goals, of which those that both have count as in the new run; all, if none."""
    wanted = dict(zip(new.names, zip(new.directions, new.weights, strict=True), strict=True))
    both = [
        name
        for name, direction in zip(old.names, old.directions, strict=True)
        if name in wanted and wanted[name][0] == direction
    ]
    if not both:
        return replace(old, constraints=())
    return Goals(
        names=tuple(both),
        directions=tuple(wanted[name][0] for name in both),
        weights=tuple(wanted[name][1] for name in both),
        constraints=tuple(bound for bound in new.constraints if bound.objective in both),
    )


def _notes(before: RunFile, new: Beginner, common: Mapping[str, str]) -> Iterator[str]:
    """What became of the sources, where that is more than the same under the same name."""
    old = {new_name: old_name for old_name, new_name in common.items()}
    for name in new.places:
        begins = _beginning(new.space, name)
        if name in old:
            if old[name] != name:
                yield f"'{name}' is that run's '{old[name]}': the same weights"
        elif name in before.models.sources:
            yield f"'{name}' has other weights than that run's '{name}': a new model, {begins}"
        else:
            yield f"'{name}' is new: {begins}"
    for name in before.models.sources:
        if name not in common:
            yield f"that run's '{name}' is not here: what it added is left out"


def _beginning(space: SearchSpace, source: str) -> str:
    """Where a source that is new begins."""
    merges = merging(space)
    if merges is None:
        return "no candidate has a layer of it"
    lows = [
        variable.low
        for variable, place in zip(merges.variables, merges.places, strict=True)
        if isinstance(variable, Real) and (place.parameter, place.source) == ("weight", source)
    ]
    if not lows:
        return "it takes part as the others do: its weight is not searched"
    if max(lows) >= SMALL:
        return f"it begins at weight {max(lows):g}, the least of its range"
    return f"it begins at weight {max(0.0, *lows):g}, or a small one"


def _told(stage: Stage, run: str) -> Iterator[str]:
    yield f"{len(stage.genomes)} candidates of {run}"
    for reason, number in stage.dropped.items():
        yield f"{number} dropped: {reason}"
    if len(stage.moved) > _NAMED:
        often = sorted(stage.moved, key=lambda name: -stage.moved[name])[:_NAMED]
        yield f"values of {len(stage.moved)} variables moved into their ranges, {', '.join(often)} among them"
        return
    for name, number in stage.moved.items():
        yield f"{number} with {name} moved into its range"

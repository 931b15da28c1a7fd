"""From the run file to a judge: compiled tasks, disjoint splits, objectives.

The driver builds one to check the run and to write down its items; each evaluator builds one to
score with. Both get the same items, because everything follows from the run file.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from evomerge.asking import EVERYTHING, Asking
from evomerge.config import RunFile
from evomerge.evaluation import AS_SEARCHED
from evomerge.item_banks import Banks, task_estimators
from evomerge.objectives import losses, neighbour_step, spec_of
from evomerge.runs.rows import ItemRow
from fitness.consistency import agreement
from fitness.estimate import Estimate
from fitness.items import Item, Reply, Request, Response
from fitness.objectives import MODEL_COSTS, ByCost, Objectives, ObjectiveSpec
from fitness.splits import SplitSizes, deal
from fitness.tasks import TaskSet, TaskSpec, compile_tasks

SPLITS = ("search", "selection", "test")

QUESTION_CHARACTERS = 240
"""How much of a prompt's end, where the question is, a report shows of an item."""


@dataclass(frozen=True)
class Judge:
    """Turns replies into responses and responses into objectives.

    Attributes:
        tasks: the compiled tasks.
        items: split -> its items, task after task.
        objectives: computed from the responses, directions resolved.
        searched: the same on search items, where a task's score may be read off its item bank.
        step: how far the neighbours are that a candidate is to agree with; None: nobody asks them.
    """

    tasks: TaskSet
    items: dict[str, tuple[Item, ...]]
    objectives: Objectives
    searched: Objectives
    step: float | None = None

    @property
    def specs(self) -> tuple[ObjectiveSpec, ...]:
        """The objectives' declarations."""
        return self.objectives.specs

    def size(self, split: str) -> int:
        """The number of a split's items."""
        return len(self._of(split))

    def requests(self, split: str, positions: Sequence[int]) -> list[Request]:
        """Everything an engine has to do for some items of a split, in order."""
        items = self._of(split)
        return [request for position in positions for request in items[position].requests]

    def responses(
        self, split: str, positions: Sequence[int], replies: Sequence[Reply]
    ) -> list[Response]:
        """One response per item asked, from one reply per request."""
        return self.tasks.score(*self._by_item(split, positions, replies))

    def agreement(
        self,
        split: str,
        positions: Sequence[int],
        replies: Sequence[Reply],
        neighbours: Sequence[Sequence[Reply]],
    ) -> Mapping[tuple[str, int], float]:
        """By task and index, the share of neighbours that answer an item as the candidate does."""
        items, mine = self._by_item(split, positions, replies)
        theirs = [self._by_item(split, positions, found)[1] for found in neighbours]
        return agreement(mine, theirs, items)

    def _by_item(
        self, split: str, positions: Sequence[int], replies: Sequence[Reply]
    ) -> tuple[list[Item], list[Sequence[Reply]]]:
        items = [self._of(split)[position] for position in positions]
        grouped: list[Sequence[Reply]] = []
        start = 0
        for item in items:
            grouped.append(replies[start : start + len(item.requests)])
            start += len(item.requests)
        return items, grouped

    def measure(
        self,
        split: str,
        answered: Mapping[int, Response],
        asking: Asking = EVERYTHING,
        agreement: Mapping[tuple[str, int], float] | None = None,
        model: ByCost | None = None,
    ) -> dict[str, Estimate]:
        """The objectives' estimates from the answers to some of a split's items.

        On search and selection items they speak for the whole task (by an item bank: for the items
        it holds), with the finite-population correction; on test items for any further item of the
        kind, without it.

        Args:
            split: `search`, `selection` or `test`.
            answered: response by position; at least one of every task.
            asking: tells what the incumbent scored.
            agreement: of the candidate's neighbours; None: all agree.
            model: costs of the model itself; None: nobody runs, and they are 0.
        """
        objectives = self.searched if split == "search" else self.objectives
        responses = [answered[position] for position in sorted(answered)]
        finite = split not in ("test", AS_SEARCHED)
        incumbent = asking.incumbent
        if incumbent is None:
            incumbent = {(r.task, r.index): r.score for r in responses}
        if agreement is None:
            agreement = {(r.task, r.index): 1.0 for r in responses}
        if model is None:
            model = dict.fromkeys(MODEL_COSTS, Estimate(0.0, 0.0))
        return objectives.measure(
            responses, finite=finite, incumbent=incumbent, agreement=agreement, model=model
        )

    def _of(self, split: str) -> tuple[Item, ...]:
        return self.items["test" if split == AS_SEARCHED else split]

    def rows(self) -> list[ItemRow]:
        """The splits as a run records them."""
        return [
            ItemRow(split, position, item.task, item.index, item.digest)
            for split in SPLITS
            for position, item in enumerate(self.items[split])
        ]

    def questions(self) -> dict[str, dict[str, str]]:
        """Task -> index of a test item -> the end of its prompt, for people who read a report."""
        found: dict[str, dict[str, str]] = {}
        for item in self.items["test"]:
            prompt = item.requests[0].context.strip()
            end = prompt[-QUESTION_CHARACTERS:]
            found.setdefault(item.task, {})[str(item.index)] = "…" * (end != prompt) + end
        return found


def build_judge(
    config: RunFile, folder: Path, model: Path, *, full: bool = False, banks: Banks | None = None
) -> Judge:
    """Compile the run file's tasks and split their items.

    Args:
        config: the run file.
        folder: what its relative paths are relative to.
        model: a source's folder, for its chat template.
        full: one split `test` with every item (to score a finished model), others empty.
        banks: item banks of the search items, by task.

    Raises:
        FitnessError: a task that does not exist, is malformed, or has too few items.
    """
    specs = task_specs(config, folder)
    tokenizer = None
    if any(spec.apply_chat_template for spec in specs):
        from fitness.engines.resident import build_tokenizer

        tokenizer = build_tokenizer(model, config.engine.trust_remote_code)
    tasks = compile_tasks(specs, tokenizer=tokenizer, seed=config.fitness.seed)
    items = (
        {"test": [i for name in tasks.names for i in tasks.items(name)]}
        if full
        else _split(config, tasks)
    )
    declared = [spec_of(o, tasks) for o in config.fitness.all_objectives]
    pools = {name: len(tasks.items(name)) for name in tasks.names}
    splits = {split: tuple(items.get(split, ())) for split in SPLITS}
    plain = Objectives(declared, pools, folder)
    estimators = task_estimators(config, banks) if banks else {}
    searched = Objectives(declared, pools, folder, estimators) if estimators else plain
    return Judge(tasks, splits, plain, searched, neighbour_step(config))


def _split(config: RunFile, tasks: TaskSet) -> dict[str, list[Item]]:
    """Split -> items, task after task; no question is in two splits, not even of two tasks."""
    wanted = config.fitness.tasks
    sizes = {n: SplitSizes(t.items, t.selection or t.items, t.test) for n, t in wanted.items()}
    questions = {
        name: [tasks.questions(name)[item.index] for item in tasks.distinct(name)]
        for name in tasks.names
    }
    dealt = deal(questions, sizes, config.fitness.seed)
    return {
        split: [tasks.distinct(n)[i] for n in tasks.names for i in getattr(dealt[n], split)]
        for split in SPLITS
    }


def task_specs(config: RunFile, folder: Path) -> list[TaskSpec]:
    """The run file's tasks as `fitness` wants them, include paths resolved."""
    specs: list[TaskSpec] = []
    lossy = losses(config)
    for name, task in config.fitness.tasks.items():
        include = task.include or config.fitness.include
        specs.append(
            TaskSpec(
                name=name,
                include=folder / include if include else None,
                num_fewshot=task.num_fewshot,
                apply_chat_template=task.apply_chat_template,
                fewshot_as_multiturn=task.fewshot_as_multiturn,
                system_instruction=task.system_instruction,
                metric=task.metric,
                filter=task.filter,
                generation=task.generation,
                loss=name in lossy,
            )
        )
    return specs

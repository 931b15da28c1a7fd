"""Write the reference pages from the declarations they describe: `python docs/generate.py`.

A test fails when the pages are not what this writes.
"""

import json
import sys
from pathlib import Path

from evomerge.search.algorithms import ALGORITHMS
from search_spaces.describe import (
    parameters_table,
    rules_table,
    stages_table,
    templates_table,
)

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
import run_file_reference  # noqa: E402 (it lies here)


def rules_page() -> str:
    """`merge_rules.md`: rules, stages, parameters."""
    return f"""# Merge rules

Generated from `search_spaces/rules.py` and `search_spaces/stages.py` by `docs/generate.py`. How to
add one: `docs/adding_a_rule.md`.

A merge rule is a pipeline

    reference -> sparsify -> rescale -> spectral -> consensus -> combine -> scale

With reference r, sources theta_i and weights w_i: tau_i = theta_i - r; sparsify drops elements of
tau_i and rescale multiplies what is left; spectral edits singular values; consensus picks the
elements on which sources agree; combine makes one tau of them; the result is r + lambda * (alpha +
beta * depth) * tau. A published method is a preset of these choices.

## Rules

"Searched" is what a search varies, and over which interval, unless the run file says otherwise.
Rules with "stages" among their parameters take other choices of `reference`, `sparsify`,
`spectral`, `consensus` and `combine`. "base +": the sources are seen from a base; "(base +)": if one
is named; otherwise a base is a source as any other. "mergekit": mergekit 0.1.5 has the method under
this name.

{rules_table().strip()}

## Stages

{stages_table().strip()}

In a recipe, a stage's name among the parameters puts another choice in place of the rule's, at every
level and with filters and gradients as for any number; `method` does the same for the rule:

```yaml
merge_method: ties
base_model: org/base
models: [{{model: org/maths, parameters: {{weight: 0.6}}}}, {{model: org/code, parameters: {{weight: 0.5}}}}]
parameters:
  density: 0.4
  consensus: count                            # by the number of signs, not by their sum
  method: [{{filter: norm, value: task_arithmetic}}, {{filter: lm_head, value: magmax}}]
```

In a run file's `space`, a list of them is searched, by layer group and component too:

```yaml
space:
  rule: [ties, dare_linear, lines]
  consensus: [none, sum, count]
  granularity: {{layers: 4, components: [attn, mlp], rules: true}}
```

## Parameters

Those named like stages, and `method`, are described above.

{parameters_table().strip()}
"""


def algorithms_page() -> str:
    """`algorithms.md`: the search algorithms."""
    header = (
        "| name | what it does | objectives | constraints | choices | lists "
        "| population (2, 50 variables) | library | paper |"
    )
    rows = [
        f"| `{a.name}` | {a.doc} | {a.objectives} | {'yes' if a.constraints else 'no'} | {a.choices} "
        f"| {'yes' if a.lists else 'no'} | {a.default_population(2)}, {a.default_population(50)} "
        f"| {a.library} | {a.paper} |"
        for a in ALGORITHMS.values()
    ]
    table = "\n".join(rows)
    return f"""# Search algorithms

Generated from `evomerge/search/algorithms.py` by `docs/generate.py`. How to add one:
`docs/adding_an_algorithm.md`.

`search: {{algorithm: NAME, population: N, schedule: asynchronous}}` in the run file. With
`asynchronous` a candidate is asked for whenever an evaluator is free, and each result is learned from
as it comes; with `generational`, results are learned from in the order of ask when all of a generation
are in, so that a run can be repeated to the letter. Either way the same asks and tells give the same
points: a run that died is continued by replaying it.

{header}
|---|---|---|---|---|---|---|---|---|
{table}

* Objectives: algorithms for `one` see the weighted mean of several.
* Choices: `unordered` algorithms know options for what they are; `rounded` ones search an interval that
  is cut into cells. Where rules or stages are searched, prefer the former.
* Lists: where layers are stacked, `yes` algorithms vary the stack as a list: they insert, delete, swap,
  move, repeat, copy and change items, singly or by segments, and exchange segments between parents. To
  the others a stack is a row of numbers, in which an insertion changes every place above it. (Five
  stacks of two models of 8 layers, sought by their distance, ten seeds: within 800 candidates `ga` found
  45 of 50 so, 19 as rows of numbers, random edits 4; only layers exchanged at their own places are
  found sooner as numbers. `benchmarks/lists.py`.)
* Where almost all random candidates are worthless (stacks), the first generation is the space's
  starting points, filled up with edits of them of one to three mutations each; whatever an algorithm
  would draw at random later is such an edit too (of `qmc` and Optuna's it is not). `random` draws edits
  of one to eight mutations there: a uniform stack would be a baseline of straw.
* Population: of `tpe` and `gp`, how many random points come first.
* Failed candidates are never parents and never best. `tpe` and `gp`, which model the losses, are told
  the worst that has been seen, so as not to fail in the same place for ever.
* The driver waits 0.2 to 2.5 ms for a point of the algorithms on pymoo and cma, at 20 as at 200
  variables (3 to 4 ms for stacks of 64 layers, varied as lists); of Optuna's, 2 to 9 ms at 20 and 10 to
  50 ms at 200 (`tpe` the slowest). `gp` takes 0.2 s with one objective, 2 s with two and points pending,
  and more as results gather. (Processor time, 200 candidates, 8 pending; the first point of `age_moea`
  waits seconds for Numba.)
* `cmaes` without a barrier is best with no more evaluators than its population (it copes with more).
"""


def templates_page() -> str:
    """`templates.md`: published ways to stack layers."""
    return f"""# Templates

Generated from `search_spaces/template_table.py` by `docs/generate.py`, where adding one is a function and
an entry. What stacks are: `docs/data_flow.md`.

Published ways to stack the layers of one model or two. `space: {{kind: template}}` searches which one,
of which models, with which numbers; searches of kind `path`, `indicator` and `hybrid` begin with them.

{templates_table().strip()}
"""


def schema_file() -> str:
    """`run_file.schema.json`: for editors."""
    return json.dumps(run_file_reference.run_file_schema(), indent=1, ensure_ascii=False) + "\n"


PAGES = {
    "run_file.md": run_file_reference.run_file_page,
    "run_file.schema.json": schema_file,
    "merge_rules.md": rules_page,
    "algorithms.md": algorithms_page,
    "templates.md": templates_page,
}

if __name__ == "__main__":
    for file, page in PAGES.items():
        (HERE / file).write_text(page())

"""evomerge: evolve merge recipes for existing LLMs, score them in a running engine, export a stock model.

The rooms: `merge` makes weights of recipes, `search` asks and tells, `cluster` evaluates in parallel,
`runs` records, `report` explains. `session` is one run from start to end, `evaluator` the way of one
candidate.
"""

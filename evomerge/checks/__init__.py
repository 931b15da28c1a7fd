"""Checks: what preflight finds out about a run file, a file per noun. `evomerge.preflight` says in which
order; `evomerge.checks.check` is `evomerge check`."""

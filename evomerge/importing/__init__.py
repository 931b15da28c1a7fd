"""Importing: another tool's configuration as a run file.

One file per tool (`mergekit_evolve`, `mergenetic`), each with a closed table of the keys it knows and what
becomes of them; `draft` collects a run file with what was said of every key; `files` reads, recognises
and writes. A key without a counterpart is named, in the run file and to the user, never dropped in
silence.
"""

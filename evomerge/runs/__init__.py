"""Runs: a folder that holds everything needed to continue, explain and export one search.

`run.yaml` is the frozen run file, `run.db` the record. Everything else in the folder is derived.
"""

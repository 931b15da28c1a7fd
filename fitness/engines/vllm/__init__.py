"""Engines on vLLM: merged in place, by every rank its shard, and answered in batches.

`internals` and `sampling` are the only modules that import vllm.
"""

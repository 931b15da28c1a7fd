"""The one pool of threads that merging uses; compiled loops let go of the interpreter."""

from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import torch


def pool() -> ThreadPoolExecutor:
    """As many threads as torch uses. What runs here must not wait for the pool itself."""
    return _pool(torch.get_num_threads())


@lru_cache(maxsize=2)
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="merge")

"""`Statistics` by tables that are built once per source tensor, so that no candidate sorts or reduces.

Against `Exact`: a threshold keeps at most 1/2048 of the elements more (over several tensors:
1/1024), and exactly as many where the elements tie or are few; norms and inner products are exact;
norms of a part are of the part between two steps of the table, or, of a random mask, linear within
1/1024 of the random numbers' range.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Sequence
from math import inf
from threading import Lock
from typing import Generic, TypeVar

import numpy as np

from evomerge.merge import passes
from evomerge.merge.cache import Arrays, Cache
from evomerge.merge.deltas import Delta, DeltaKey
from evomerge.merge.random_masks import MaskKey
from evomerge.merge.statistics import Exact
from evomerge.merge.tables import JointSteps, RandomSums, Steps, magnitude_steps, variance_steps

_STEPS_MEMORY = 2**31
_RANDOM_MEMORY = 2**28
_JOINT_MEMORY = 2**29

_Key = tuple[str, tuple[DeltaKey, ...]]
"""Kind of table and what it is of."""


class Prepared:
    """Implements `Statistics` for deltas with a key; the others are left to `Exact`.

    Methods may be called from several threads: to prepare all of a model's tensors on all cores,
    ask for them in a pool of threads.

    Args:
        cache: where tables outlive the process, for deltas whose keys name contents; None: nowhere.
    """

    def __init__(self, cache: Cache | None = None) -> None:
        self._exact, self._cache = Exact(), cache
        self._steps: _Recent[_Key, Steps] = _Recent(_STEPS_MEMORY)
        self._random: _Recent[tuple[DeltaKey, MaskKey], RandomSums] = _Recent(_RANDOM_MEMORY)
        self._joint: _Recent[tuple[DeltaKey, ...], JointSteps] = _Recent(_JOINT_MEMORY)
        self._products: dict[tuple[DeltaKey, DeltaKey], float] = {}
        self._unsaved: dict[str, dict[str, Arrays]] = {}
        self._opened: dict[str, dict[str, Arrays]] = {}
        self._lock = Lock()

    def save(self) -> None:
        """Write the tables built since the last call to the cache. Never fails; see `Cache`."""
        with self._lock:
            unsaved, self._unsaved = self._unsaved, {}
        for shelf, tables in unsaved.items():
            if self._cache is not None:
                self._cache.store(shelf, tables)

    def threshold(self, delta: Delta, kept: int) -> float:
        """See `Statistics`."""
        if _forgotten(delta):
            return self._exact.threshold(delta, kept)
        return self._magnitudes(delta).threshold(kept)

    def threshold_over(self, deltas: Sequence[Delta], kept: int) -> float:
        """See `Statistics`."""
        if _forgotten(*deltas):
            return self._exact.threshold_over(deltas, kept)
        key = _keys(deltas)
        joint = self._joint.get(key)
        if joint is None:
            joint = JointSteps([self._magnitudes(delta) for delta in deltas])
            self._joint.put(key, joint, joint.nbytes)
        return joint.threshold(deltas, kept)

    def l1(self, delta: Delta) -> float:
        """See `Statistics`."""
        if _forgotten(delta):
            return self._exact.l1(delta)
        return float(self._magnitudes(delta).sums[-1, 0])

    def l1_above(self, delta: Delta, low: float, high: float) -> float:
        """See `Statistics`."""
        if _forgotten(delta):
            return self._exact.l1_above(delta, low, high)
        steps = self._magnitudes(delta)
        dropped = steps.sums_above(high)[0] if high < inf else 0.0
        return max(0.0, float(steps.sums_above(low)[0] - dropped))

    def l1_random(self, delta: Delta, key: MaskKey, limit: int) -> float:
        """See `Statistics`."""
        if _forgotten(delta):
            return self._exact.l1_random(delta, key, limit)
        assert delta.key is not None
        name = (delta.key, key)
        sums = self._random.get(name)
        if sums is None:
            sums = RandomSums.of(delta, key)
            self._random.put(name, sums, sums.limits.nbytes + sums.cumulative.nbytes)
        return sums.below(limit)

    def gram(self, deltas: Sequence[Delta]) -> np.ndarray:
        """See `Statistics`."""
        if _forgotten(*deltas):
            return self._exact.gram(deltas)
        keys = _keys(deltas)
        pairs = [_pair(a, b) for a in keys for b in keys]
        if any(self._product(pair) is None for pair in pairs):
            gram = passes.gram(deltas)
            for pair, product in zip(pairs, gram.reshape(-1).tolist(), strict=True):
                if pair not in self._products:
                    self._products[pair] = product
                    self._keep(("gram", pair), {"product": np.array([product])})
        return np.array([self._products[pair] for pair in pairs]).reshape(len(keys), len(keys))

    def variance_threshold(self, deltas: Sequence[Delta], share: float) -> float:
        """See `Statistics`."""
        if share >= 1:
            return 0.0
        if _forgotten(*deltas):
            return self._exact.variance_threshold(deltas, share)
        steps = self._variances(deltas)
        kept = int(share * steps.above_zero)
        return steps.threshold(kept) if kept > 0 else inf

    def energies(self, deltas: Sequence[Delta], least_variance: float) -> list[float]:
        """See `Statistics`."""
        if _forgotten(*deltas):
            return self._exact.energies(deltas, least_variance)
        sums = self._variances(deltas).sums_from(least_variance)
        return (sums / deltas[0].count).tolist()

    def _magnitudes(self, delta: Delta) -> Steps:
        assert delta.key is not None
        return self._table(("magnitude", (delta.key,)), lambda: magnitude_steps(delta))

    def _variances(self, deltas: Sequence[Delta]) -> Steps:
        return self._table(("variance", _keys(deltas)), lambda: variance_steps(deltas))

    def _table(self, key: _Key, build: Callable[[], Steps]) -> Steps:
        steps = self._steps.get(key)
        if steps is not None:
            return steps
        stored = self._stored(key)
        if stored is not None:
            steps = Steps(stored["values"], stored["counts"], stored["sums"])
        else:
            steps = build()
            self._keep(key, {"values": steps.values, "counts": steps.counts, "sums": steps.sums})
        size = steps.values.nbytes + steps.counts.nbytes + steps.sums.nbytes
        self._steps.put(key, steps, size)
        return steps

    def _product(self, pair: tuple[DeltaKey, DeltaKey]) -> float | None:
        if pair not in self._products:
            stored = self._stored(("gram", pair))
            if stored is not None:
                self._products[pair] = float(stored["product"][0])
        return self._products.get(pair)

    def _stored(self, key: _Key) -> Arrays | None:
        """The table in the cache, whose file is read at the first question."""
        if self._cache is None or not _lasting(key):
            return None
        shelf, name = _place(key)
        with self._lock:
            if shelf not in self._opened:
                self._opened[shelf] = self._cache.load(shelf)
            return self._opened[shelf].pop(name, None)

    def _keep(self, key: _Key, arrays: Arrays) -> None:
        if self._cache is not None and _lasting(key):
            shelf, name = _place(key)
            with self._lock:
                self._unsaved.setdefault(shelf, {})[name] = arrays


_K = TypeVar("_K")
_V = TypeVar("_V")


class _Recent(Generic[_K, _V]):
    """What was asked for last, up to a number of bytes."""

    def __init__(self, limit: int) -> None:
        self._limit, self._bytes = limit, 0
        self._values: OrderedDict[_K, tuple[_V, int]] = OrderedDict()
        self._lock = Lock()

    def get(self, key: _K) -> _V | None:
        found = self._values.get(key)
        if found is None:
            return None
        with self._lock:
            if key in self._values:  # another thread may have made room
                self._values.move_to_end(key)
        return found[0]

    def put(self, key: _K, value: _V, size: int) -> None:
        with self._lock:
            if key not in self._values:
                self._values[key] = value, size
                self._bytes += size
            while self._bytes > self._limit:
                self._bytes -= self._values.popitem(last=False)[1][1]


def _forgotten(*deltas: Delta) -> bool:
    """Whether there is no name to remember the deltas by, or nothing to remember."""
    return any(delta.key is None or delta.count == 0 for delta in deltas)


def _keys(deltas: Sequence[Delta]) -> tuple[DeltaKey, ...]:
    return tuple(delta.key for delta in deltas if delta.key is not None)


def _pair(a: DeltaKey, b: DeltaKey) -> tuple[DeltaKey, DeltaKey]:
    return (a, b) if a <= b else (b, a)


def _lasting(key: _Key) -> bool:
    """Whether the key means the same in another process."""
    return all(origin.lasting for delta in key[1] for origin in delta)


def _place(key: _Key) -> tuple[str, str]:
    """Which file of the cache a table is in, by kind and contents; its name there, by tensors."""
    kind, deltas = key
    contents = [[origin.content for origin in delta] for delta in deltas]
    return json.dumps([kind, contents]), json.dumps([[o.tensor for o in d] for d in deltas])

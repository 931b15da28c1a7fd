"""Benchmarks: each prints one JSON line with ratios measured in the same run. None decides a test."""

"""Property tests here: the same draws in every run, no clock (the machine may be busy)."""

from hypothesis import settings

settings.register_profile("search_spaces", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("search_spaces")

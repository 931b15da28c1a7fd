"""These tests run a real vLLM, which installs on Linux x86-64 only; elsewhere they are skipped."""

import pytest

from fitness.engines.vllm.requirements import INSTALL, SUPPORTED, installed_version

NEEDS_NO_VLLM = ("test_lazy.py", "test_failures.py", "test_layer_slots.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    found = installed_version()
    if found is not None and found.startswith(SUPPORTED):
        return
    reason = f"vLLM {SUPPORTED}x is not installed (found: {found}); {INSTALL}"
    for item in items:
        if item.path.parent.name == "vllm" and item.path.name not in NEEDS_NO_VLLM:
            item.add_marker(pytest.mark.skip(reason=reason))

"""Importing the package costs little and pulls in nothing heavy."""

import json
import subprocess
import sys

HEAVY = ("torch", "yaml", "transformers", "ray", "lm_eval", "safetensors", "pydantic", "scipy")


def test_importing_loads_nothing_heavy() -> None:
    code = "import search_spaces, sys, json; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = json.loads(done.stdout)
    assert "search_spaces.parameter" in modules
    assert not set(HEAVY) & set(modules)
    assert not [name for name in modules if name.split(".")[0] in ("evomerge", "fitness")]


def test_what_is_exported_exists() -> None:
    import search_spaces

    assert all(hasattr(search_spaces, name) for name in search_spaces.__all__)

"""What tests of the hand-over share: families of tiny models, and a small finished run."""

import shutil
from types import SimpleNamespace

import pytest
import yaml

from evomerge.search.view import SilentView
from evomerge.session import start
from tests.cli.conftest import refused
from tests.conftest import QUICKSTART
from tests.merge.conftest import _one_thread, family

__all__ = ["_one_thread", "family", "refused"]

LICENSED = {"base": "apache-2.0", "lunari": "llama3.1", "tovek": "apache-2.0"}
"""Licences of the copied models; `abacus` is left out of the run."""


@pytest.fixture(scope="session")
def night(tmp_path_factory, quickstart):
    """A finished run over three licensed models: `root`, `folder`, `models`. Do not change it."""
    root = tmp_path_factory.mktemp("handed")
    models = root / "models"
    for name, licence in LICENSED.items():
        shutil.copytree(QUICKSTART / "models" / name, models / name)
        (models / name / "README.md").write_text(f"---\nlicense: {licence}\n---\n# {name}\n")
        (models / name / "NOTICE").write_text(f"notice of {name}\n")
    (models / "lunari" / "LICENSE").write_text("LLAMA 3.1 COMMUNITY LICENSE AGREEMENT\n")
    content = yaml.safe_load(yaml.safe_dump(quickstart))
    content["models"] = {
        "base": str(models / "base"),
        "experts": {name: str(models / name) for name in ("lunari", "tovek")},
    }
    task = {"items": 8, "selection": 8, "test": 16}
    content["fitness"] |= {
        "tasks": {"lunari_words": task, "sums": task}, "objectives": ["lunari_words", "sums"],
    }  # fmt: skip
    content["search"] |= {"population": 6, "budget": {"evaluations": 14}, "finalists": 4}
    content["cluster"] = {"executor": "serial"}
    (root / "run.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    start(root / "run.yaml", root / "run", None, SilentView())
    return SimpleNamespace(root=root, folder=root / "run", models=models)

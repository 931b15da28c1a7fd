"""Runs to begin from, and what begins from them."""

from evomerge.preflight import check_searcher, prepare
from evomerge.run_file import folder_of, load_run_file
from evomerge.runs.database import Database
from evomerge.runs.folder import RunFolder
from evomerge.search.view import SilentView
from evomerge.session import start
from search_spaces import named
from tests.conftest import QUICKSTART

MODELS = QUICKSTART / "models"
TASK = {"items": 8, "selection": 6, "test": 8}

WARM = {"search.warm_start": "other", "search.population": 24}


def run(file, folder):
    start(file, folder, None, SilentView())
    return folder


def prepared(file):
    config = load_run_file(file)
    found = prepare(config, folder_of(config, file), thorough=False)
    check_searcher(found)
    return found


def candidates(folder):
    with_closing = Database(folder / "run.db")
    rows, evaluations = with_closing.candidates("search"), with_closing.evaluations("search")
    with_closing.close()
    return list(rows.values()), evaluations


class RunFolderOf:
    def __init__(self, path):
        self.run = RunFolder.open(path)

    def __enter__(self):
        return self.run

    def __exit__(self, *_):
        self.run.close()


def names_of(warm, space):
    return [named(space, genome) for genome in warm.search.genomes]

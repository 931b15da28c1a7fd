"""Commands of the documentation: each is run, or its page says why not; all are real commands.

`RUN` says how a documented command is run here: the same one, with fewer evaluations, in a copy of the
examples whose run files are made small. `ELSEWHERE` names the test that runs it. A new command on a page
needs a line in one of them, or a mark above its block: `<!-- not run: why -->`, for one line of a block
`<!-- not run (its beginning): why -->`.
"""

import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from typer.main import get_command
from typer.testing import CliRunner

from evomerge.cli import app
from tests.conftest import QUICKSTART, ROOT
from tests.docs.pages import MARK, PAGES, Command, commands, prose
from tests.docs.small import smaller

FEW = "--evaluations 12"
RUN = {
    # of the README
    "evomerge check run.yaml": None,
    "evomerge search run.yaml": f"evomerge search run.yaml {FEW}",
    "evomerge show runs/NAME": None,
    "evomerge export runs/NAME my-model": "evomerge export runs/NAME readme-model",
    "evomerge report runs/NAME": None,
    # of docs/cookbook.md
    "evomerge merge examples/cookbook/chat_vector_published.yaml runs/chat_vector_published": None,
    "evomerge evaluate runs/chat_vector_published examples/cookbook/chat_vector_small.yaml": None,
    # of docs/getting_started.md
    "evomerge check examples/quickstart/run.yaml": None,
    "evomerge search examples/quickstart/run.yaml --dir runs/quickstart": (
        f"evomerge search examples/quickstart/run.yaml --dir runs/quickstart {FEW}"
    ),
    "evomerge show runs/quickstart": None,
    "evomerge report runs/quickstart": None,
    "evomerge export runs/quickstart my-model": None,
    "evomerge import evolve.yml --out run.yaml": "evomerge import evolve.yml --out imported.yaml",
    "evomerge search run.yaml --dir runs/night": f"evomerge search run.yaml --dir runs/night {FEW}",
    "evomerge resume runs/night": None,
    "evomerge resume runs/night --evaluations 3000": "evomerge resume runs/night --evaluations 14",
    "evomerge show runs/night": None,
    "evomerge report runs/night --out report.html": None,
    "evomerge export runs/night my-model": "evomerge export runs/night night-model",
    "evomerge export runs/night maths-model --pick best:gsm8k": None,
    "evomerge export runs/night mixed-model --prefer gsm8k=0.7,arc_easy=0.3": None,
    # of docs/item_banks.md and examples/data_flow
    "evomerge calibrate run.yaml": "evomerge calibrate run.yaml --models 6",
    "evomerge calibrate run.yaml --models 80": "evomerge calibrate run.yaml --models 8",
    "evomerge calibrate run.yaml --responses gsm8k=others.csv": (
        "evomerge calibrate run.yaml --models 8 --responses sums=others.csv"
    ),
    "evomerge search examples/data_flow/path.yaml --dir runs/path": (
        f"evomerge search examples/data_flow/path.yaml --dir runs/path {FEW}"
    ),
}  # fmt: skip
"""Documented command -> how it is run; None: to the letter."""

COOKBOOK = "tests/docs/test_cookbook.py::test_the_small_recipe_runs"
ELSEWHERE = {
    "python examples/cookbook/train.py": "tests/docs/test_cookbook.py::trained",
    **{
        f"evomerge search examples/cookbook/{name}_small.yaml --dir runs/{name}_small": COOKBOOK
        for name in ("mathematics", "chat_vector", "recycling", "lora_soup", "short_answers")
    },
}
"""Documented command -> the test, or fixture, that runs it."""

OBJECTIVES = [
    {"name": "gsm8k", "tasks": {"sums": 1}},
    {"name": "arc_easy", "tasks": {"lunari_words": 1}},
]
EVOLVE = {
    "genome": {
        "models": ["models/lunari", "models/abacus"],
        "merge_method": "task_arithmetic",
        "base_model": "models/base",
        "layer_granularity": 2,
    },
    "tasks": [{"name": "sums", "weight": 1.0}],
}

ALL = [command for page in PAGES for command in commands(page)]
by_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@by_page
def test_each_command_is_run_or_says_why_not(page: Path) -> None:
    unknown = [
        f"{command.block.name}: {command.text}"
        for command in commands(page)
        if not command.marked and command.text not in {**RUN, **ELSEWHERE}
    ]
    assert not unknown, "add them to RUN or ELSEWHERE, or mark their blocks as not run"


def test_what_is_said_to_be_run_elsewhere_is() -> None:
    for test in ELSEWHERE.values():
        file, _, name = test.partition("::")
        assert re.search(rf"^def {name}\(", (ROOT / file).read_text(), re.M), test


def test_the_tables_hold_nothing_that_no_page_says() -> None:
    said = {command.text for command in ALL}
    readme = {text for text in RUN if "NAME" in text or text.split()[-1] == "run.yaml"}
    assert set(RUN) - said <= readme, "the README is rewritten now and then; others are stale"
    assert set(ELSEWHERE) <= said


@by_page
def test_marks_give_a_reason(page: Path) -> None:
    text = page.read_text()
    assert len(MARK.findall(text)) == text.count("<!-- not run"), (
        "of the form <!-- not run: why -->"
    )
    assert all(len(why.split()) >= 3 for _, why in MARK.findall(text))


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a reader has it: the examples, a run file of their own, a rival's configuration."""
    folder = tmp_path_factory.mktemp("reader") / "NAME"  # which is what a run is called after
    quickstart = folder / "examples" / "quickstart"
    shutil.copytree(QUICKSTART, quickstart, ignore=shutil.ignore_patterns("__pycache__", "banks"))
    content = smaller(yaml.safe_load((quickstart / "run.yaml").read_text()))
    (quickstart / "run.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    data_flow = folder / "examples" / "data_flow"
    shutil.copytree(ROOT / "examples" / "data_flow", data_flow)
    path = smaller(yaml.safe_load((data_flow / "path.yaml").read_text()))
    (data_flow / "path.yaml").write_text(yaml.safe_dump(path, sort_keys=False))
    cookbook = ROOT / "examples" / "cookbook"
    ignored = shutil.ignore_patterns("models")  # what train.py made, if it ever ran here
    shutil.copytree(cookbook, folder / "examples" / "cookbook", ignore=ignored)
    for name in ("models", "tasks"):
        shutil.copytree(quickstart / name, folder / name)
    columns = [str(item) for item in range(300)]
    rows = (["model", *columns], ["org/other", *("01"[item % 2] for item in range(300))])
    (folder / "others.csv").write_text("".join(f"{','.join(row)}\n" for row in rows))
    content["fitness"]["tasks"].pop("tovek_words")
    content["fitness"]["tasks"].pop("lunari_sums")
    content["fitness"]["objectives"] = OBJECTIVES
    (folder / "run.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    (folder / "evolve.yml").write_text(yaml.safe_dump(EVOLVE))
    return folder


def todo(page: Path) -> list[str]:
    """What is run of a page, in its order."""
    found = [c.text for c in commands(page) if not c.marked and c.text in RUN]
    return [RUN[text] or text for text in found]


BEGIN = str(RUN["evomerge search run.yaml --dir runs/night"])
DONE: set[str] = set()


def carry_out(text: str) -> None:
    """Run a command in this process; a second time it would find its own results in its way."""
    done = CliRunner().invoke(app, shlex.split(text)[1:])
    assert done.exit_code == 0, f"{text}: {done.output}\n{done.exception!r}"
    DONE.add(text)


@pytest.mark.parametrize(
    "page", [p for p in PAGES if todo(p)], ids=lambda page: str(page.relative_to(ROOT))
)
def test_the_page_s_commands_run(
    page: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workspace)
    for text in todo(page):
        if "runs/night" in text and not (workspace / "runs/night").exists():
            carry_out(BEGIN)  # a page may speak of a run that another page begins
        if text not in DONE:
            carry_out(text)
    made = {path.name for path in workspace.iterdir()}
    for text in todo(page):
        if text.startswith("evomerge export"):
            assert (workspace / text.split()[3] / "config.json").is_file(), text
        if "--out" in text:
            assert text.split()[-1] in made, text


def mentioned() -> Iterator[tuple[str, str]]:
    """Where and what: every `evomerge ...` of the pages and of the run files' heads."""
    for command in ALL:
        if found := re.search(r"(?:^| )(evomerge [a-z]+(?: .+)?)$", command.text):
            yield command.block.name, found[1]
    for page in PAGES:
        name = str(page.relative_to(ROOT))
        yield from ((name, text) for text in re.findall(r"`(evomerge [^`]+)`", prose(page)))
        for line in re.findall(r"^ {4}(evomerge .+)$", prose(page), re.M):
            yield name, line
    for file in (ROOT / "examples").glob("**/*.yaml"):
        for line in re.findall(r"^#  +(evomerge .+)$", file.read_text(), re.M):
            yield str(file.relative_to(ROOT)), line


def parse(text: str) -> None:
    """Hold a command against the command line's own parser; raises its usage errors."""
    words = ["1" if word == "N" else word for word in shlex.split(re.sub(r"\s#.*$", "", text))]
    known = get_command(app).commands  # pyright: ignore[reportAttributeAccessIssue]
    assert words[1] in known, f"no command '{words[1]}'"
    if len(words) > 2:  # else the command is named, and not written out
        known[words[1]].make_context(words[1], words[2:])


def test_every_command_that_is_mentioned_is_one() -> None:
    found = list(mentioned())
    assert len(found) > 60
    for where, text in found:
        if "…" in text or "[" in text:
            continue
        try:
            parse(text)
        except Exception as error:  # the parser's own, which it does not export
            pytest.fail(f"{where}: {text}: {error!r}")


@pytest.mark.parametrize(
    "text",
    ["evomerge serach run.yaml", "evomerge search run.yaml --evals 3", "evomerge export runs/a"],
)
def test_a_wrong_command_is_found(text: str) -> None:
    with pytest.raises(Exception, match=r"serach|No such option|Missing"):
        parse(text)


def test_marks_and_comments_are_read(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "<!-- not run (pip): it installs -->\n```sh\npip install x  # now\nevomerge show \\\n  a\n```\n"
        "text\n<!-- not run: it takes a night -->\n\n```sh\nsleep 9\n```\n```sh\nsleep 8\n```\n"
    )
    found = [(command.text, command.marked) for command in commands(page)]
    assert found == [
        ("pip install x", True),
        ("evomerge show a", False),
        ("sleep 9", True),
        ("sleep 8", False),
    ]
    assert isinstance(commands(page)[0], Command)

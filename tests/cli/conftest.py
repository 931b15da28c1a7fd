"""What tests of the command line share."""

import pytest

from evomerge import cli


@pytest.fixture
def refused(capsys, monkeypatch):
    """Run a command in this process; it must be refused. Returns the one line of its error."""

    def run(*arguments: object) -> str:
        monkeypatch.setattr("sys.argv", ["evomerge", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        captured = capsys.readouterr()
        assert stop.value.code == 2, captured.err
        lines = [line for line in captured.err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, captured.err
        assert "Traceback" not in captured.err
        return lines[0]

    return run

"""From exceptions to exit codes: what a user's mistake, an interruption and a bug look like."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from evomerge.cluster.jobs import EvaluatorBuildError
from evomerge.hand_over.errors import HandOverError
from evomerge.runs.database import RecordingError
from evomerge.stopping import INTERRUPTED, leave_on_signals
from fitness.errors import FitnessError
from search_spaces.errors import InputError

WRONG_INPUT = 2


@contextmanager
def exit_codes(run: Path | None = None) -> Iterator[None]:
    """Turn what a command raises into the contract's exit codes; a bug keeps its traceback (1).

    Args:
        run: the folder of the run that the command drives.
    """
    try:
        yield
    except (InputError, FitnessError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(WRONG_INPUT) from None
    except RecordingError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None
    except (EvaluatorBuildError, HandOverError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        leave_on_signals()
        begun = run is not None and (run / "run.db").exists()
        what = f"continue with 'evomerge resume {run}'" if begun else "nothing was begun"
        print(f"interrupted; {what}", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None

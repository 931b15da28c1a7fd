"""From exceptions to exit codes: what a user's mistake, an interruption and a bug look like."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from evomerge.runs.database import RecordingError
from fitness.errors import FitnessError
from search_spaces.errors import InputError

WRONG_INPUT, INTERRUPTED = 2, 3


@contextmanager
def exit_codes(resumable: str = "") -> Iterator[None]:
    """Turn what a command raises into the contract's exit codes; a bug keeps its traceback (1).

    Args:
        resumable: what to say after Ctrl-C.
    """
    try:
        yield
    except (InputError, FitnessError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(WRONG_INPUT) from None
    except RecordingError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None
    except KeyboardInterrupt:
        print(f"interrupted; {resumable or 'nothing was recorded'}", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None

"""What can go wrong with a hand-over that is nobody's wrong input."""


class HandOverError(RuntimeError):
    """The model was made, and then something failed: one line for people, exit code 1."""

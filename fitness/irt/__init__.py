"""Item response theory: how hard items are, how able models are, from who answered what (NumPy)."""

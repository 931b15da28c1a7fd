"""Merge: recipe -> weights.

`sources` opens the models that go in, `stages` computes each choice of
`search_spaces.rules.STAGES`, `pipeline` chains them for one tensor, `weights` serves a candidate to
an engine, `writer` exports it.
"""

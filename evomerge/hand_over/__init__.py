"""Hand-over: a candidate leaves its run as a model folder that can be believed.

`files` reads back what was written, `verify` loads it and compares it with the search's own candidate,
`distances` holds it against its base layer by layer, `push` uploads it. `evomerge.export` calls them.
"""

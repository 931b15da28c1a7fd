"""Reports: what a run shows while it works, and what it found: progress, tables, the model card."""

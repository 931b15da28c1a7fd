"""Reports: what a run found: its summary, tables, the model card."""

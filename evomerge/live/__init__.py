"""Looking on while a run works: the view on the terminal, its state for `show`, the dashboard."""

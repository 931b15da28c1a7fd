"""The search: searchers propose points of the unit cube, the archive keeps what is worth keeping.

A *searcher* asks for candidates and is told their losses, one generation at a time (`searcher`); it
never knows what a recipe or a GPU is. Which ones there are stands in one table (`algorithms`). The
*archive* holds every non-dominated candidate found so far, with its uncertainty (`archive`).
"""

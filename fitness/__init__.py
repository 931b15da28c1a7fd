"""Fitness: items go to an engine, replies become responses, responses become estimates.

An item is one question of a task; an engine holds one model and answers items; a response is what
a candidate did on an item; an estimate is a full score with its standard error; an objective is a
named number to maximise or minimise. Nothing here knows how a candidate is made.
"""

"""Engines: something that holds one model resident, swaps its weights and answers requests."""

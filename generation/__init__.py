"""Decoding: presets, penalties, ensembles, constrained output, and translation."""

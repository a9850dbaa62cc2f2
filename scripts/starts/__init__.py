"""Mechanisms that run, which `trine new` copies; `start` and `Start` become the names of a file and its class."""

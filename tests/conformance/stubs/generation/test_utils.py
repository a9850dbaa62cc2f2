"""Stands in for a module that the source distribution leaves out."""


class GenerationTesterMixin:
    """Holds no test here: the generation tests are not distributed, and the project has its own."""

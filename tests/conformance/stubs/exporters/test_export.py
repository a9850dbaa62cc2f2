"""Stands in for a module that the source distribution leaves out."""


class ExportTesterMixin:
    """Holds no test here: the export tests are not distributed."""

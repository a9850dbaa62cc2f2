"""The lines of a packed file that are no module's: its licence, imports, list of classes, and what ends it."""

import sys
from collections.abc import Iterable

from .bundle_plugins import quote
from .bundle_sources import LINE_LENGTH


HEADER = """\
# Copyright 2026 The Trine authors.
# SPDX-License-Identifier: Apache-2.0
"""
# At the end of the config's file: transformers copies the files that are imported, by their text, so that whoever
# loads the config alone has the whole code.
KEEP_TOGETHER = """

if False:  # never imported here: it tells transformers which files belong together
    from .{modeling} import __name__ as __name__
"""

UNFIT = """

UNFIT = ({names})


def __getattr__(name: str):
    \"\"\"Tells where the heads are that this checkpoint's config has no use for.\"\"\"
    advice = "It does not fit is_causal of this checkpoint. The package has it: `pip install trine`."
    raise AttributeError(f"{{__name__}} has no {{name}}. {{advice if name in UNFIT else ''}}")
"""
PLUGIN_IMPORT = "from .{name} import __name__ as {name}  # noqa: E402, F401  it registers its mechanisms\n"


def is_standard(module: str) -> bool:
    """Whether a module belongs to Python's standard library."""
    return module.split(".")[0] in sys.stdlib_module_names


def import_line(module: str, names: Iterable[str]) -> str:
    """An import of names: constants, classes, then functions, on lines of their own where one does not hold them."""
    names = sorted(names, key=lambda name: (0 if name.isupper() else 1 if name[0].isupper() else 2, name))
    line = f"from {module} import {', '.join(names)}"
    return line if len(line) <= LINE_LENGTH else f"from {module} import (\n    " + ",\n    ".join(names) + ",\n)"


def render_exported(classes: Iterable[str]) -> str:
    """The list of the classes that somebody loads."""
    names = [quote(name) for name in sorted(classes)]
    line = f"__all__ = [{', '.join(names)}]"
    if len(line) > LINE_LENGTH:
        line = "__all__ = [\n" + "".join(f"    {name},\n" for name in names) + "]"
    return f"\n\n{line}\n"


def tell_unfit(classes: Iterable[str]) -> str:
    """Source of the `__getattr__` that explains why a file leaves some classes out; "" if it leaves out none."""
    names = [quote(name) for name in classes]
    return UNFIT.format(names=", ".join(names) + ("," if len(names) == 1 else "")) if names else ""

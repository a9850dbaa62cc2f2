"""Finds what does nothing in a checkpoint's code: loops over empty tables, and bases and entries taken from them.

A table is empty there if the config names none of its rows, and if it is `in_package`.
"""

import ast
from functools import cache

from .bundle_sources import Edit, Source


def table_name(node: ast.AST) -> str:
    """The table that `TABLE`, `TABLE.values()`, `TABLE.items()` or a `dict` of one goes through; "" for all else."""
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "dict" and node.args:
        return table_name(node.args[0])
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("items", "values"):
        node = node.func.value
    return node.id if isinstance(node, ast.Name) else ""


@cache
def parts_through_tables(statement: ast.stmt) -> list[tuple[ast.AST, str]]:
    """The loops, bases and entries in a statement that go through something with a name, and that name."""
    found: list[tuple[ast.AST, str]] = []
    for node in ast.walk(statement):
        parts: list[tuple[ast.AST, ast.AST]] = []
        if isinstance(node, ast.For):
            parts = [(node, node.iter)]
        elif isinstance(node, ast.ClassDef):
            parts = [(base, base.value) for base in node.bases if isinstance(base, ast.Starred)]
        elif isinstance(node, ast.Dict):
            parts = [(value, value) for key, value in zip(node.keys, node.values, strict=True) if key is None]
        found += [(part, name) for part, through in parts if (name := table_name(through))]
    return found


def rows_of(source: Source, part: ast.AST) -> set[int]:
    """The lines of a part, from 0, with the comments above it; none if other parts stand there, too."""
    first, last = part.lineno - 1, part.end_lineno  # pyright: ignore[reportAttributeAccessIssue] none is a module
    if not source.lines[first].lstrip().startswith((b"for ", b"*")):
        return set()
    while source.lines[first - 1].lstrip().startswith(b"#"):
        first -= 1
    return set(range(first, last))


def base_edits(source: Source, base: ast.AST) -> set[Edit]:
    """Takes a base out of a class on one line, with what the comment says about it."""
    row, start, stop = base.lineno - 1, base.col_offset, base.end_col_offset  # pyright: ignore[reportAttributeAccessIssue] an expression
    line = source.lines[row]
    if line[stop:].startswith(b", "):
        stop += 2
    elif line[:start].endswith(b", "):
        start -= 2
    else:
        start, stop = start - 1, stop + 1  # with its brackets
    return {(row, start, row, stop, ""), (row, len(line.partition(b"  #")[0]), row, len(line), "")}

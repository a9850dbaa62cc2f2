"""Reads the package's modules for the files of a checkpoint: their top-level statements, and what each mentions.

Relative imports at the top of a module are followed; those within functions name what stays in the package.
"""

import ast
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib.util import find_spec, resolve_name
from pathlib import Path

from .choices import Choices, from_package, in_package
from .lazy_choices import LazyChoices, later


TABLE, LEFT_OUT = Choices.__name__, in_package.__name__
TABLES = (TABLE, LazyChoices.__name__)
ABOUT = "about"  # the last keyword of a row, which a packed file has not
LINE_LENGTH = 119
INDENT = 8  # of the rows of a table

Edit = tuple[int, int, int, int, str]  # first line and column, last line and column, from 0, and the new text


@dataclass(frozen=True)
class Row:
    """A row of a table: its key, the lines of source, and the names that it mentions."""

    key: object
    text: str
    uses: frozenset[str]


@dataclass(frozen=True, eq=False)
class Statement:
    """A statement at the top level of a module.

    Attributes:
        names: What it defines; nothing if it only has an effect.
        uses: Every name that it mentions; of a table, without those of its rows.
        first: Number of its first line, from 0, comments above it included.
        blanks: Empty lines before it.
        rows: Those of a table, whose config field is `table`.
    """

    module: str
    node: ast.stmt
    names: tuple[str, ...]
    uses: frozenset[str]
    first: int
    blanks: int
    table: str | None = None
    rows: tuple[Row, ...] = ()

    @property
    def is_block(self) -> bool:
        """Whether it is a function or a class."""
        return isinstance(self.node, ast.FunctionDef | ast.ClassDef)

    @property
    def stays_behind(self) -> bool:
        """Whether it is a tuple that a packed file has empty."""
        return self.uses == {LEFT_OUT}


@dataclass
class Source:
    """A module: its lines as bytes, which is how Python counts columns, its statements and imports."""

    name: str
    lines: list[bytes]
    legend: list[str] = field(default_factory=list)  # comments before its imports
    statements: list[Statement] = field(default_factory=list)
    own: dict[str, tuple[str, str]] = field(default_factory=dict)  # local name to a module of the package and a name
    external: dict[str, tuple[str, str]] = field(default_factory=dict)  # likewise; "" for the module itself
    edits: list[Edit] = field(default_factory=list)

    @cached_property
    def defined(self) -> dict[str, Statement]:
        """Maps each name that the module defines to its statement."""
        return {name: statement for statement in self.statements for name in statement.names}


def absolute(node: ast.ImportFrom, module: str) -> str:
    """The module that a relative import names.

    Raises:
        ValueError: For `from . import module`.
    """
    if node.module is None:
        raise ValueError(f"{module}, line {node.lineno}: write `from .module import name`.")
    return ".".join([*module.split(".")[: -node.level], node.module])


@cache
def read(module: str) -> Source:
    """Reads a module.

    Raises:
        ValueError: It has no file of its own, or imports what cannot be packed.
    """
    spec = find_spec(module)
    if spec is None or spec.origin is None or spec.origin.endswith("__init__.py"):
        raise ValueError(f"{module} is not a module with a file of its own.")
    text = Path(spec.origin).read_text(encoding="utf-8")
    tree = ast.parse(text)
    source = Source(module, text.encode().split(b"\n"))
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            read_import(source, node)
    for taken in (from_package, Choices):  # which a packed file may need where the module does not
        source.own.setdefault(taken.__name__, (taken.__module__, taken.__name__))
    imports = [node.lineno for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    before = source.lines[: min(imports, default=1) - 1]
    source.legend = [line.decode() for line in before if line.startswith(b"#")]
    last = max(imports, default=0)
    for node in tree.body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            for inner in node.orelse:  # one level further out, line by line
                source.statements.append(read_statement(source, inner, last))
                source.edits += [(row - 1, 0, row - 1, 4, "") for row in range(inner.lineno, last_line(inner) + 1)]
                last = last_line(inner)
        elif is_packed(node):
            source.statements.append(read_statement(source, node, last))
        last = last_line(node)
    nodes = list(ast.walk(tree))
    source.edits += [*docstring_edits(nodes, source), *inner_imports(nodes, source)]
    return source


def last_line(node: ast.stmt) -> int:
    """The number of a statement's last line, from 1."""
    return node.end_lineno or node.lineno


def is_packed(node: ast.stmt) -> bool:
    """Whether a statement is packed as it is: not an import, the docstring or `__all__`, which are written anew."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        return False
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return False
    return "__all__" not in defined_names(node)


def read_import(source: Source, node: ast.Import | ast.ImportFrom) -> None:
    """Adds the names of an import to those of the package or of the outside.

    Raises:
        ValueError: For `import package.module`, which binds another name than it imports.
    """
    for alias in node.names:
        if isinstance(node, ast.ImportFrom) and node.level:
            source.own[alias.asname or alias.name] = absolute(node, source.name), alias.name
        elif isinstance(node, ast.ImportFrom):
            source.external[alias.asname or alias.name] = str(node.module), alias.name
        elif "." in alias.name and alias.asname is None:
            raise ValueError(f"{source.name}, line {node.lineno}: write `from package import module`.")
        else:
            source.external[alias.asname or alias.name] = alias.name, ""


def defined_names(node: ast.stmt) -> tuple[str, ...]:
    """The names that a statement defines. A function `_` has none: it is there for the effect of its decorators."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return () if node.name == "_" else (node.name,)
    if isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return tuple(name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name))
    if isinstance(node, ast.If | ast.Try):
        stored = [n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
        aliases = [a.asname or a.name for n in ast.walk(node) if isinstance(n, ast.ImportFrom) for a in n.names]
        aliases += [a.asname or a.name for n in ast.walk(node) if isinstance(n, ast.Import) for a in n.names]
        return tuple(dict.fromkeys([*aliases, *stored]))
    return ()


def walk(node: ast.AST, without: Collection[ast.AST]) -> Iterator[ast.AST]:
    """A node and all within it, without some and what is within these."""
    yield node
    for child in ast.iter_child_nodes(node):
        if child not in without:
            yield from walk(child, without)


def mentioned(node: ast.AST, without: Collection[ast.AST] = ()) -> frozenset[str]:
    """All names in a node, also those in annotations that are strings."""
    found = set()
    for inner in walk(node, without):
        if isinstance(inner, ast.Name):
            found.add(inner.id)
        elif isinstance(inner, ast.Constant) and isinstance(inner.value, str):
            if inner.value[:1].isupper() and inner.value.isidentifier():
                found.add(inner.value)
        elif isinstance(inner, ast.ImportFrom) and inner.level:
            found.add(from_package.__name__)
    return frozenset(found)


def read_statement(source: Source, node: ast.stmt, previous: int) -> Statement:
    """The statement of a node; `previous` is the last line of the one before it, from 1."""
    first = min([node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", []))]) - 1
    while first > previous and source.lines[first - 1].startswith(b"#"):
        first -= 1
    blanks = first - previous
    common = (source.name, node, defined_names(node))
    call = getattr(node, "value", None)
    called = call.func.id if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) else ""
    if called == LEFT_OUT:
        return Statement(*common, frozenset({LEFT_OUT}), first, blanks)
    if called in TABLES and isinstance(call, ast.Call):
        name, table = call.args
        assert isinstance(name, ast.Constant) and isinstance(table, ast.Dict)
        rows = tuple(read_row(source, key, value) for key, value in zip(table.keys, table.values, strict=True))
        return Statement(*common, frozenset({TABLE}), first, blanks, str(name.value), rows)
    return Statement(*common, mentioned(node), first, blanks)


def read_row(source: Source, key: ast.expr | None, value: ast.expr) -> Row:
    """A row of a table, moved to where a table has its rows."""
    if key is None:
        raise ValueError(f"{source.name}, line {value.lineno}: a table of choices is written out, row by row.")
    if isinstance(value, ast.Call) and ast.unparse(value.func) == later.__name__:
        module, name = (ast.literal_eval(argument) for argument in value.args)
        source.own[name] = resolve_name(module, source.name.rpartition(".")[0]), name
        return Row(
            ast.literal_eval(key),
            f"{source.lines[key.lineno - 1][key.col_offset : key.end_col_offset].decode()}: {name}",
            frozenset({name}),
        )
    lines = source.lines[key.lineno - 1 : value.end_lineno]
    shift = INDENT - (len(lines[0]) - len(lines[0].lstrip())) if len(lines) > 1 else 0
    lines[-1] = lines[-1][: value.end_col_offset]
    lines[0] = lines[0][key.col_offset :]
    if isinstance(value, ast.Call) and value.keywords and value.keywords[-1].arg == ABOUT:
        left_out = value.keywords.pop()
        del lines[left_out.lineno - key.lineno : (left_out.end_lineno or 0) - key.lineno + 1]
        lines = lines if value.keywords else [lines[0] + b")"]
    text = "\n".join([lines[0].decode(), *((" " * shift + line.decode()) for line in lines[1:])])
    return Row(ast.literal_eval(key), on_one_line(text), mentioned(value))


def on_one_line(text: str) -> str:
    """A call with an argument on each line, on one line where a row has the place; any other text as it is."""
    first, *arguments, last = text.splitlines() if "\n" in text else (text, "")
    if not first.endswith("(") or last.strip() != ")" or not all(line.endswith(",") for line in arguments):
        return text
    joined = first + " ".join(line.strip() for line in arguments).removesuffix(",") + ")"
    return joined if INDENT + len(joined) < LINE_LENGTH else text


def docstring_edits(nodes: Iterable[ast.AST], source: Source) -> Iterator[Edit]:
    """Cuts docstrings after their first paragraph, where the closing quotes fit on its last line."""
    for node in nodes:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef) or ast.get_docstring(node) is None:
            continue
        text = node.body[0]
        first, last = text.lineno - 1, (text.end_lineno or 0) - 1
        empty = next((line for line in range(first, last) if not source.lines[line].strip()), None)
        if empty is None:
            continue
        end = source.lines[empty - 1].rstrip()
        if len(end.decode()) + 3 <= LINE_LENGTH:
            yield empty - 1, len(end), last, text.end_col_offset or 0, '"""'


def inner_imports(nodes: Iterable[ast.AST], source: Source) -> Iterator[Edit]:
    """Asks the installed package for what functions import from it."""
    inner = [node for node in nodes if isinstance(node, ast.ImportFrom) and node.level and node.col_offset]
    for node in inner:
        target = absolute(node, source.name)
        lines = [f'{a.asname or a.name} = from_package("{target}").{a.name}' for a in node.names]
        text = ("\n" + " " * node.col_offset).join(lines)
        last, end = (node.end_lineno or 0) - 1, node.end_col_offset or 0
        if not source.lines[last + 1]:  # an empty line, which such imports end with
            last, end = last + 1, 0
        yield node.lineno - 1, node.col_offset, last, end, text

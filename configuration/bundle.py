"""Packs the modules that a model needs into two files, `configuration_*.py` and `modeling_*.py`.

They hold, in the order of their imports, the definitions that the classes of a family reach, each under the path of
its module. Tables of choices keep the rows that the config names, so that only the mechanisms in use are reached.
Docstrings end after their first paragraph. The text is that of the modules, whose format it keeps.
"""

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from .bundle_plugins import NO_PLUGINS, PluginParts, named_choices, plugin_parts, quote, stacks_of, stays_behind
from .bundle_pruning import base_edits, parts_through_tables, rows_of
from .bundle_sources import INDENT, LINE_LENGTH, TABLE, Row, Source, Statement, mentioned, read
from .bundle_texts import HEADER, KEEP_TOGETHER, PLUGIN_IMPORT, import_line, is_standard, render_exported, tell_unfit
from .plugin_copies import check_not_own


KIND_TABLES_MODULE = f"{__package__}.kinds"


SCOPES = (ast.FunctionDef, ast.Lambda, ast.GeneratorExp, ast.ListComp, ast.SetComp, ast.DictComp)
Chosen = tuple[tuple[str, frozenset], ...]  # the values of each field that a table reads


@dataclass
class Bundle:
    """The contents of the two files: modules in order, the statements that are kept, and their names."""

    sources: list[Source]
    chosen: dict[str, frozenset]
    kept: set[Statement] = field(default_factory=set)
    names: dict[tuple[str, str], str] = field(default_factory=dict)  # module and name to the name in the file
    plugins: PluginParts = NO_PLUGINS

    def keeps(self, key: object, statement: Statement) -> bool:
        """Whether the config names this row of a table."""
        return key in self.chosen[statement.table or ""]

    def uses(self, statement: Statement) -> set[str]:
        """The names that a statement mentions, of a table only those in rows that are kept."""
        if statement.stays_behind:
            return set()
        rows = (row.uses for row in statement.rows if self.keeps(row.key, statement))
        idle = self.idle(statement)
        return set(mentioned(statement.node, idle) if idle else statement.uses).union(*rows)

    def is_empty(self, module: str, name: str) -> bool:
        """Whether a module's name is that of a table, or a tuple, without a row in the file."""
        place = find(module, name)
        if not place or not place[2]:
            return False
        statement = place[2]
        if statement.table is None:
            return statement.stays_behind
        registered = any(field == statement.table for field, _, _ in self.plugins.rows)
        return not registered and not any(self.keeps(row.key, statement) for row in statement.rows)

    def idle(self, statement: Statement) -> frozenset[ast.AST]:
        """The parts of a statement that do nothing in the file."""
        parts = () if statement.table else parts_through_tables(statement.node)
        return frozenset(part for part, name in parts if self.is_empty(statement.module, name))


def module_order(entries: Iterable[str]) -> list[Source]:
    """Lists every module that the entries reach, each after those that it imports."""
    order: dict[str, Source] = {}

    def visit(module: str) -> None:
        if module not in order:
            source = read(module)
            for target, _ in source.own.values():
                if target != module:
                    visit(target)
            order[module] = source

    for entry in entries:
        visit(entry)
    return list(order.values())


def find(module: str, name: str) -> tuple[Source, str, Statement | None] | None:
    """Finds the definition of a module's name: source, name there, and statement, or None if it comes from outside."""
    source = read(module)
    if name in source.defined:
        return source, name, source.defined[name]
    if name in source.own:
        return find(*source.own[name])
    return (source, name, None) if name in source.external else None


def keep(bundle: Bundle, roots: Iterable[str]) -> None:
    """Marks the statements that define the roots, all that these mention, and the effects on them."""
    work = [source.defined[root] for root in roots for source in bundle.sources if root in source.defined]
    while work:
        statement = work.pop()
        if statement in bundle.kept:
            continue
        bundle.kept.add(statement)
        found = [find(statement.module, name) for name in bundle.uses(statement)]
        work += [place[2] for place in found if place and place[2]]
        effects = [other for other in read(statement.module).statements if not other.names]
        work += [other for other in effects if other.uses.intersection(statement.names)]


def name_all(bundle: Bundle) -> None:
    """Gives each definition and each import a name of its own.

    The second of two that are called alike gets the name of its module, too. Equal imports are one, and so are equal
    statements of one line.
    """
    taken: dict[str, object] = {}

    def name(module: str, old: str, what: object) -> None:
        parts = module.split(".")[1:]
        longer = ("_".join([old, *parts[len(parts) - count :]]) for count in range(len(parts) + 1))
        bundle.names[module, old] = next(new for new in longer if taken.setdefault(new, what) == what)

    for source in bundle.sources:
        for statement in source.statements:
            if statement in bundle.kept:
                is_line = statement.first + 1 == statement.node.end_lineno
                for old in statement.names:
                    name(source.name, old, source.lines[statement.first] if is_line else statement)
        for old in sorted(imported(bundle, source)):
            name(source.name, old, source.external[old])


def imported(bundle: Bundle, source: Source) -> set[str]:
    """The names that a module's kept statements need from outside of the package."""
    kept = [bundle.uses(statement) for statement in source.statements if statement in bundle.kept]
    return set().union(*kept) & source.external.keys()


def shadows(node: ast.AST, name: str) -> bool:
    """Whether a function has a local variable or an argument of that name."""
    if not isinstance(node, SCOPES):
        return False
    inner = list(ast.walk(node))
    return any(n.arg == name for n in inner if isinstance(n, ast.arg)) or any(
        n.id == name for n in inner if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
    )


def occurrences(node: ast.AST, name: str) -> Iterator[tuple[int, int]]:
    """Line, from 0, and column of each place where a node means the global of that name."""
    if isinstance(node, ast.Name) and node.id == name:
        yield node.lineno - 1, node.col_offset
    if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
        yield node.lineno - 1, node.col_offset + len("def " if isinstance(node, ast.FunctionDef) else "class ")
    if not shadows(node, name):
        for child in ast.iter_child_nodes(node):
            yield from occurrences(child, name)


def render(bundle: Bundle, source: Source, statement: Statement) -> str:
    """The text of a statement, renamed and reduced, as it stands in a packed file."""
    if statement.table is not None:
        return render_table(bundle, statement)
    if statement.stays_behind:
        above = [line.decode() for line in source.lines[statement.first : statement.node.lineno - 1]]
        return "\n".join([*above, f"{bundle.names[statement.module, statement.names[0]]} = ()"])
    last = (statement.node.end_lineno or 0) - 1
    lines = dict(enumerate(source.lines[statement.first : last + 1], statement.first))
    edits = {edit for edit in source.edits if statement.first <= edit[0] <= last}
    dropped: set[int] = set()
    for part in bundle.idle(statement):
        rows = rows_of(source, part)
        dropped |= rows
        edits |= set() if rows else base_edits(source, part)
    for name in bundle.uses(statement).union(statement.names):
        found = find(statement.module, name)
        new = found and bundle.names.get((found[0].name, found[1]), name)
        if new and new != name:
            edits |= {(row, column, row, column + len(name), new) for row, column in occurrences(statement.node, name)}
    for first, start, end, stop, text in sorted(edits, reverse=True):
        lines[first] = lines[first][:start] + text.encode() + lines[end][stop:]
        for row in range(first + 1, end + 1):
            del lines[row]
    return b"\n".join(line for row, line in lines.items() if row not in dropped).decode()


def render_table(bundle: Bundle, statement: Statement) -> str:
    """A table with the rows that stay, and the names of the others, on one line where that holds it."""
    rows = [rename(bundle, statement, row) for row in statement.rows if bundle.keeps(row.key, statement)]
    if statement.module == KIND_TABLES_MODULE:
        rows += [text for field, _, text in bundle.plugins.rows if field == statement.table]
    others = [quote(row.key) for row in statement.rows if not bundle.keeps(row.key, statement)]
    left_out = ", ".join(others) + ("," if len(others) == 1 else "")
    start = f"{bundle.names[statement.module, statement.names[0]]} = {TABLE}("
    ends = [f"left_out=({left_out})"] if others else []
    line = start + ", ".join([quote(statement.table), "{" + ", ".join(rows) + "}", *ends]) + ")"
    if len(line) <= LINE_LENGTH and "\n" not in line:
        return line
    inner = "    " + line[len(start) : -1]
    if len(inner) <= LINE_LENGTH and "\n" not in line:
        return "\n".join([start, inner, ")"])
    together = "    {" + ", ".join(rows) + "},"
    apart = ["    {", *(f"{' ' * INDENT}{row}," for row in rows), "    },"]
    fits = len(together) <= LINE_LENGTH and "\n" not in together
    lines = [start, f"    {quote(statement.table)},", *([together] if fits else apart)]
    if others and len(ends[0]) + 5 > LINE_LENGTH:
        ends = ["left_out=(", *(f"    {other}," for other in others), ")"]
    lines += [f"    {end}{',' if end in (ends[-1:]) else ''}" for end in ends]
    return "\n".join([*lines, ")"])


def rename(bundle: Bundle, statement: Statement, row: Row) -> str:
    """The text of a row, with the names that its definitions have in the file."""
    text = row.text
    for name in row.uses:
        found = find(statement.module, name)
        new = found and bundle.names.get((found[0].name, found[1]), name)
        if new and new != name:
            text = re.sub(rf"(?<![\w.\"']){name}\b(?![\"'])", new, text)
    return text


def render_body(bundle: Bundle, sources: Iterable[Source]) -> str:
    """The statements of some modules, each module under its path."""
    parts: list[str] = []
    seen: set[str] = set()
    for source in sources:
        path = "/".join(source.name.split("."))
        pending = "\n".join([f"\n\n# --- {path}.py ---", *source.legend, ""])
        for statement in source.statements:
            if statement not in bundle.kept:
                continue
            text = render(bundle, source, statement)
            if "\n" not in text and text in seen:
                continue
            seen.add(text)
            blanks = 2 if statement.is_block or parts[-1:] == ["block"] else min(statement.blanks, 1)
            parts += [pending or "\n" * blanks, text + "\n", "block" if statement.is_block else ""]
            pending = ""
    return "".join(part for part in parts if part != "block")


def render_imports(bundle: Bundle, sources: Iterable[Source]) -> str:
    """The imports that some modules need, sorted as ruff sorts them."""
    places = [
        (bundle.names[source.name, old], *source.external[old])
        for source in sources
        for old in imported(bundle, source)
    ]
    groups: dict[bool, list[str]] = {True: [], False: []}
    members: dict[tuple[str, str], list[str]] = {}
    for local, module, name in sorted(set(places)):
        if not name:
            groups[is_standard(module)].append(f"import {module}" + (f" as {local}" if local != module else ""))
        else:
            alias = "" if name == local else f"{name} as {local}"
            members.setdefault((module, alias), []).append(alias or name)
    for module, alias in sorted(members, key=lambda key: (key[0].lower(), key[1])):
        groups[is_standard(module)].append(import_line(module, members[module, alias]))
    return "\n\n".join("\n".join(group) for group in groups.values() if group) + "\n"


@cache
def pack(
    entries: tuple[str, ...],
    roots: tuple[str, ...],
    unfit: tuple[str, ...],
    stem: str,
    chosen: Chosen,
    plugins: PluginParts = NO_PLUGINS,
) -> dict[str, str]:
    """The two files, and those of plugins, name to text.

    Args:
        entries: Absolute module names, that of the config first. What it reaches goes into the config's file.
        roots: The classes that somebody loads.
        unfit: Others that the config's `is_causal` forbids.
        stem: What the files' names end with, `trine` of `modeling_trine.py`.
        chosen: What the config names of each field that a table reads.
        plugins: What the mechanisms among them need that are not the package's.
    """
    names = dict(plugins.names)
    early = [module for module in names.values() if module.startswith(f"{__package__}.")]
    sources = module_order((*early, *entries, *names.values()))
    first = module_order((*early, *entries[:1]))
    bundle = Bundle(sources, dict(chosen), plugins=plugins)
    keep(bundle, (*roots, *names))
    name_all(bundle)
    configuration, modeling = f"configuration_{stem}", f"modeling_{stem}"
    files = {}
    for name, part in {configuration: first, modeling: [source for source in sources if source not in first]}.items():
        body = render_body(bundle, part)
        lent = {name for name, module in names.items() if module in {source.name for source in first}}
        local = import_line(f".{configuration}", borrowed(bundle, part, first) | lent)
        files[f"{name}.py"] = "".join(
            [
                f"{HEADER}\n{render_imports(bundle, part)}",
                f"\n{local}\n" if name == modeling else "",
                body,
                render_exported(root for root in roots if any(root in source.defined for source in part)),
                KEEP_TOGETHER.format(modeling=modeling) if name == configuration else tell_unfit(unfit),
            ]
        )
    imports = [PLUGIN_IMPORT.format(name=name.removesuffix(".py")) for name, _ in plugins.files]
    files[f"{modeling}.py"] += "\n\n" * bool(imports) + "".join(imports)
    return files | dict(plugins.files)


def borrowed(bundle: Bundle, sources: Iterable[Source], lenders: list[Source]) -> set[str]:
    """The names that some modules need from the lenders."""
    modules = {source.name for source in lenders}
    statements = [s for source in sources for s in source.statements if s in bundle.kept]
    places = [find(s.module, name) for s in statements for name in bundle.uses(s)]
    return {
        bundle.names[place[0].name, place[1]] for place in places if place and place[2] and place[0].name in modules
    }


def write_bundle(config: Any, folder: Path) -> str | None:
    """Writes the files for a config; returns what the names of the two end with, its model type.

    None, with a warning, if it names a mechanism that cannot go along.
    """
    config.check()  # it may have changed since it was made
    if stays_behind(config, folder):
        return None
    files = files_of(config)
    check_not_own(config, folder, files)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return config.model_type


def files_of(config: Any) -> dict[str, str]:
    """The two files for a config, name to text."""
    entries = config.hub_entry_modules
    configs = list(dict.fromkeys(type(stack) for stack in stacks_of(config)))
    optional = [names for field, names in config.hub_optional.items() if getattr(config, field, None)]
    left_out = {key for names in optional for key, name in names.items() if name is None}
    classes = {each.__name__ for each in configs}
    classes |= {name for each in configs for key, name in each.hub_auto_map.items() if key not in left_out}
    classes |= {name for names in optional for name in names.values() if name is not None}
    roles = [item for each in configs for item in each.hub_roles.items()]
    unfit = {name for role, names in roles if role not in named_choices(config, "is_causal") for name in names}
    chosen = tuple((field, named_choices(config, field)) for field in table_fields(entries))
    roots, others = tuple(sorted(classes - unfit)), tuple(sorted(unfit))
    return pack(entries, roots, others, config.model_type, chosen, plugin_parts(config))


@cache
def table_fields(entries: tuple[str, ...]) -> tuple[str, ...]:
    """The config fields that the tables of the reached modules are chosen by, sorted."""
    found = {s.table for source in module_order(entries) for s in source.statements if s.table is not None}
    return tuple(sorted(found))

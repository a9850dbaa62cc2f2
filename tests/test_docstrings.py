"""Public names say what they are: in a docstring of their own, or in that of the method that they override."""

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from torch import nn


ROOT = Path(__file__).resolve().parents[1]
ROOMS = (
    *("configuration", "conversion", "generation", "inspection", "modeling"),
    *("retrieval", "scripts", "tokenization", "training"),
)
LEAST = 0.98  # the share of public names that are documented
FILES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py") if path.stat().st_size)
# Beginnings of docstrings that cannot be understood without something that stands elsewhere.
RIDDLE = re.compile(r"(What|The same|Those|That of|See the)\b")
Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def definitions(tree: ast.AST, within: str = "") -> Iterator[tuple[str, Definition]]:
    """Yield the public classes, functions and methods by their dotted names; `try` and `if` are looked into."""
    for node in getattr(tree, "body", ()):
        if isinstance(node, ast.If | ast.Try | ast.With):
            yield from definitions(node, within)
        elif isinstance(node, Definition) and not node.name.startswith("_"):
            yield within + node.name, node
            if isinstance(node, ast.ClassDef):
                yield from definitions(node, f"{within}{node.name}.")


def needs_none(node: Definition) -> bool:
    """Whether it is a further signature or the setter of a property, which the first one documents."""
    decorators = [ast.unparse(decorator) for decorator in node.decorator_list]
    return any(name == "overload" or name.endswith(".setter") for name in decorators)


def overrides_documented(path: Path, name: str) -> bool:
    """Whether a method overrides one with a docstring; that of PyTorch's `forward`, without shapes, does not count."""
    owner, _, method = name.rpartition(".")
    if not owner:
        return False
    place: Any = importlib.import_module(".".join(("trine", *path.relative_to(ROOT).with_suffix("").parts)))
    for part in owner.split("."):
        place = getattr(place, part)
    bases = [vars(base)[method] for base in inspect.getmro(place)[1:] if method in vars(base)]
    return any(inspect.getdoc(base) for base in bases if base is not vars(nn.Module).get(method))


def test_public_names_are_documented():
    count, missing = 0, []
    for path in FILES:
        module = ast.parse(path.read_text(encoding="utf-8"))
        for name, node in [("", module), *definitions(module)]:
            if isinstance(node, ast.Module) or not needs_none(node):
                count += 1
                if not ast.get_docstring(node) and not overrides_documented(path, name):
                    missing.append(f"{path.relative_to(ROOT)} {name}")
    assert len(missing) <= (1 - LEAST) * count, missing


def test_no_docstring_is_a_riddle():
    riddles = []
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, Definition | ast.Module) and RIDDLE.match(ast.get_docstring(node) or ""):
                riddles.append(f"{path.relative_to(ROOT)}, {getattr(node, 'name', 'the module')}")
    assert not riddles


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("def name(): pass", ["name"]),
        ("class Name:\n    def method(self): pass", ["Name", "Name.method"]),
        ("class _Name:\n    def method(self): pass", []),
        ("try:\n    def name(): pass\nexcept ImportError:\n    def other(): pass", ["name"]),
        ("def name():\n    def inner(): pass", ["name"]),
    ],
)
def test_public_names_are_found(source, found):
    assert [name for name, _ in definitions(ast.parse(source))] == found


def test_inherited_docstrings_count_but_not_that_of_every_forward():
    learned, mlp = ROOT / "modeling/positions/learned.py", ROOT / "modeling/feed_forward/mlp.py"
    assert overrides_documented(learned, "LearnedEncoding.add_to")
    assert overrides_documented(mlp, "GatedMLP.forward")  # of `PlainMLP`, which says the shapes
    assert not overrides_documented(mlp, "PlainMLP.forward")
    assert not overrides_documented(mlp, "make_mlp")

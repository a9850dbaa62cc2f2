"""Which error messages of the package no test has seen."""

import ast
import re
from collections.abc import Iterable
from pathlib import Path


ROOT = Path(__file__).resolve().parents[2]


def pattern_of(message: ast.expr) -> str:
    """Turn the expression of a message into a regular expression: what is computed becomes a wildcard."""
    if isinstance(message, ast.Constant):
        return re.escape(str(message.value))
    if isinstance(message, ast.JoinedStr):
        return "".join(pattern_of(part) if isinstance(part, ast.Constant) else ".*" for part in message.values)
    return ".*"


def raised_patterns(folder: str) -> dict[str, str]:
    """Every `raise Error("message")` in a folder of the package, as place to pattern."""
    patterns = {}
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                patterns[f"{path.relative_to(ROOT)}:{node.lineno}"] = pattern_of(node.exc.args[0])
    return patterns


def unseen(folder: str, messages: Iterable[str]) -> list[str]:
    """Return the places in `folder` that raise a message which matches none of `messages`."""
    messages = list(messages)
    patterns = raised_patterns(folder)
    assert patterns, f"nothing is raised in {folder}"
    return [place for place, p in patterns.items() if not any(re.fullmatch(p, text, re.DOTALL) for text in messages)]

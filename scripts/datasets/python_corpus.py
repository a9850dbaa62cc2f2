"""The text of Python's own documentation, taken from the running interpreter: a corpus that needs no download."""

import ast
import sysconfig
from collections.abc import Iterator
from pathlib import Path


# Not documentation: tests, generated tables, bundled wheels and the editor.
_SKIPPED_FOLDERS = {"__pycache__", "_bundled", "dist-packages", "encodings", "idlelib", "lib2to3", "pydoc_data"}
_SKIPPED_FOLDERS |= {"site-packages", "test", "tests", "turtledemo"}
_Function = ast.FunctionDef | ast.AsyncFunctionDef
_SHORTEST = 40  # characters; below it a docstring says little more than the name


def collect_python_documents() -> list[str]:
    """The topics of the language reference and the docstrings of the standard library, without repetition.

    A docstring stands under the dotted name and the arguments of what it describes. A document most of whose
    paragraphs stand in a longer one is left out (many topics are sections of another), so that a part of the
    documents that is held out is not simply known from the rest.

    Raises:
        FileNotFoundError: this Python comes without its documentation or without the sources of its library.
    """
    return _without_repetition([*_reference_topics(), *_docstring_documents()])


def _without_repetition(documents: list[str]) -> list[str]:
    seen: set[str] = set()
    kept = set()
    for number in sorted(range(len(documents)), key=lambda number: -len(documents[number])):
        paragraphs = [" ".join(paragraph.split()) for paragraph in documents[number].split("\n\n")]
        repeated = sum(len(paragraph) for paragraph in paragraphs if paragraph in seen)
        if 2 * repeated <= sum(map(len, paragraphs)):
            kept.add(number)
            seen.update(paragraphs)
    return [document for number, document in enumerate(documents) if number in kept]


def _reference_topics() -> Iterator[str]:
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise FileNotFoundError("This Python has no pydoc_data.topics, the text of its language reference.") from error
    yield from (topics[name].strip() for name in sorted(topics))


def _docstring_documents() -> Iterator[str]:
    library = Path(sysconfig.get_path("stdlib"))
    files = sorted(
        file for file in library.rglob("*.py") if not _SKIPPED_FOLDERS.intersection(file.relative_to(library).parts)
    )
    if not files:
        raise FileNotFoundError(f"This Python has no sources of its standard library in '{library}'.")
    for file in files:
        parts = file.relative_to(library).with_suffix("").parts
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        for title, docstring in _docstrings(ast.parse(file.read_bytes()), module):
            if len(docstring) >= _SHORTEST:
                yield f"{title}\n\n{docstring}"


def _docstrings(node: ast.Module | ast.ClassDef | _Function, name: str) -> Iterator[tuple[str, str]]:
    """(title, docstring) of a module, class or function and of all that is defined directly in it."""
    docstring = ast.get_docstring(node)
    if docstring:
        arguments = f"({ast.unparse(node.args)})" if isinstance(node, _Function) else ""
        yield name + arguments, docstring
    for child in node.body:
        if isinstance(child, ast.ClassDef | _Function):
            yield from _docstrings(child, f"{name}.{child.name}")

"""Runs the tutorials, and makes their pages and notebooks.

A tutorial is a Python file in `docs/tutorials/`, in jupytext's percent format: cells of Markdown and of code, which
any editor that knows `# %%` runs. Its Chinese text, `zh/NAME.md`, has the Markdown of its cells in their order, with
`<!-- cell -->` between them; code, output and pictures are those of the one run.

A line of code that ends in `# small: VALUE` has that value when the site is built. `make tutorials` runs all tutorials
with their own values; the site then shows these runs.
"""

import argparse
import base64
import hashlib
import os
import re
import shutil
import sys
import tomllib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic
from typing import Any

import jupytext
import nbformat
from nbclient import NotebookClient


ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "docs" / "tutorials"
RUNS = ROOT / "build" / "tutorials"
SMALL = re.compile(r"^(?P<name>\s*\w+ = )(?P<value>.+?)(?P<note>  # small: (?P<small>.+))$", flags=re.MULTILINE)
CELL = "<!-- cell -->"
NOTES = {
    "": "!!! note\n    The run that built this page was small: `make tutorials` runs all of it.\n",
    "zh": "!!! note\n    本页的输出来自构建时的小规模运行；`make tutorials` 运行完整规模。\n",
}
NOTEBOOK = {"": "This page as a [notebook]({name}.ipynb).", "zh": "本页的 [notebook]({name}.ipynb)。"}
OPEN = {"": "[Open in Colab]({url}).", "zh": "[在 Colab 中打开]({url})。"}
# Where Trine is not installed, as in Colab: the first cell of a notebook.
INSTALL = """import importlib.util

if importlib.util.find_spec("trine") is None:
    %pip install --quiet "trine[scripts] @ git+{repository}"
"""


def names() -> list[str]:
    """The tutorials, in the order of their names."""
    return sorted(path.stem for path in SOURCES.glob("*.py"))


def read(name: str) -> Any:
    """A tutorial as a notebook, without outputs."""
    return jupytext.read(SOURCES / f"{name}.py", fmt="py:percent")


def shrink(code: str) -> str:
    """Code with its small values."""
    return SMALL.sub(lambda match: match["name"] + match["small"], code)


def without_notes(code: str) -> str:
    """Code as readers see it."""
    return SMALL.sub(lambda match: match["name"] + match["value"], code)


def translated(name: str, language: str) -> list[str] | None:
    """The Markdown of a tutorial's cells in another language, or None where it has none."""
    path = SOURCES / language / f"{name}.md"
    return [part.strip() for part in path.read_text(encoding="utf-8").split(CELL)] if path.exists() else None


def digest(name: str, small: bool) -> str:
    """What tells whether a run is of the tutorial as it is now."""
    return hashlib.sha256(f"{small}{(SOURCES / f'{name}.py').read_text(encoding='utf-8')}".encode()).hexdigest()


def find_run(name: str, small: bool) -> Any | None:
    """The run of a tutorial as it is now; where small sizes do, that of its own sizes, too."""
    for size in (False, True) if small else (False,):
        path = RUNS / f"{name}.{'small' if size else 'full'}.ipynb"
        if path.exists():
            notebook = nbformat.read(path, as_version=4)
            if notebook.metadata.get("source") == digest(name, size):
                return notebook
    return None


def run(name: str, small: bool) -> Any:
    """Runs a tutorial in a folder of its own and keeps the run; an error names the cell."""
    begin = monotonic()
    notebook, folder = read(name), RUNS / name
    shutil.rmtree(folder, ignore_errors=True)  # what a run that was interrupted left
    folder.mkdir(parents=True)
    shown = [cell.source for cell in notebook.cells]
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.source = (shrink if small else without_notes)(cell.source)
    # The commands of this environment, which cells call, also where it is not activated.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    NotebookClient(notebook, timeout=3600, kernel_name="python3", resources={"metadata": {"path": folder}}).execute()
    for cell, source in zip(notebook.cells, shown, strict=True):
        cell.source = without_notes(source)
    notebook.metadata.update(source=digest(name, small), small=small)
    nbformat.write(notebook, RUNS / f"{name}.{'small' if small else 'full'}.ipynb")
    print(f"{name}: {monotonic() - begin:.0f} s", file=sys.stderr, flush=True)
    return notebook


def run_all(small: bool, chosen: Iterable[str] = (), workers: int = 2) -> dict[str, Any]:
    """Runs of the tutorials, by name; what has not changed since it ran is not run again."""
    wanted = list(chosen) or names()
    with ThreadPoolExecutor(workers) as pool:
        made = pool.map(lambda name: find_run(name, small) or run(name, small), wanted)
        return dict(zip(wanted, made, strict=True))


def repository() -> str | None:
    """The public address of the repository, `Repository` of the project's addresses, or None where it has none."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project.get("urls", {}).get("Repository")


def colab(name: str) -> str | None:
    """The address at which Colab opens a tutorial, or None where the repository is not on GitHub.

    The notebooks stand on the branch `notebooks`, which the workflow `docs` writes.
    """
    found = re.fullmatch(r"https://github\.com/([\w.-]+/[\w.-]+?)(?:\.git)?/?", repository() or "")
    return f"https://colab.research.google.com/github/{found[1]}/blob/notebooks/{name}.ipynb" if found else None


def first_line(name: str, language: str = "") -> str:
    """What stands below the title of a page: its notebook, and where it opens in Colab."""
    url = colab(name)
    parts = [NOTEBOOK[language].format(name=name), *([OPEN[language].format(url=url)] if url else [])]
    return ("" if language == "zh" else " ").join(parts)


def download(name: str, notebook: Any) -> Any:
    """A run as the notebook that readers get: where Colab opens it, with a link and a cell that installs Trine."""
    url = colab(name)
    if url is None:
        return notebook
    copy = nbformat.from_dict(notebook)
    install = nbformat.v4.new_code_cell(INSTALL.format(repository=repository()))
    copy.cells = [nbformat.v4.new_markdown_cell(OPEN[""].format(url=url)), install, *copy.cells]
    return copy


def page(name: str, notebook: Any, language: str = "") -> tuple[str, dict[str, bytes]]:
    """The page of a run in a language, and its pictures by their names."""
    texts = translated(name, language) if language else None
    words = iter(texts) if texts else None
    parts: list[str] = []
    pictures: dict[str, bytes] = {}
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            parts.append(next(words) if words else cell.source)
            if len(parts) == 1:
                parts.append(first_line(name, language))
                parts += [NOTES[language]] if notebook.metadata.get("small") else []
            continue
        parts.append(f"```python\n{cell.source}\n```")
        for output in cell.get("outputs", ()):
            parts.append(_show(output, name, pictures, cell.metadata.get("alt", "")))
    return "\n\n".join(filter(None, parts)) + "\n", pictures


def _show(output: Any, name: str, pictures: dict[str, bytes], alt: str) -> str:
    """An output as Markdown; a picture is added to `pictures`."""
    data = output.get("data", {})
    if "image/png" in data:
        file = f"{name}-{len(pictures) + 1}.png"
        pictures[file] = base64.b64decode(data["image/png"])
        return f"![{alt}]({file})"
    if output.output_type == "stream" and output.name == "stderr":
        return ""  # progress bars and warnings
    text = output.get("text") or data.get("text/plain", "")
    return f"```text\n{text.rstrip()}\n```" if text.strip() else ""


def main() -> None:
    """Runs tutorials from the command line."""
    parser = argparse.ArgumentParser(description="Run the tutorials, for `make docs` to show.")
    parser.add_argument("names", nargs="*", help=f"Tutorials to run, by default all: {', '.join(names())}.")
    parser.add_argument("--small", action="store_true", help="Run them with small sizes, as `make docs` does.")
    parser.add_argument("--workers", type=int, default=2, help="How many run at a time.")
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    run_all(arguments.small, arguments.names, arguments.workers)


if __name__ == "__main__":
    main()

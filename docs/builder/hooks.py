"""Hooks of mkdocs: fill in tables, and add the pages that are made from the code."""

import re
import shutil
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import commands
import mechanisms
import nbformat
import public_names
import tables
import tutorials
from pymdownx.slugs import slugify


ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "build" / "package" / "trine"
PAGES = ROOT / "build" / "pages"
WORDS = ROOT / "build" / "words.txt"
# Files of the repository that are pages of the site as well.
ROOT_PAGES = {
    "CONTRIBUTING.md": "project/contributing.md",
    "CHANGELOG.md": "project/changelog.md",
    "SECURITY.md": "project/security.md",
}
API = {f"reference/api/{name}": text for name, text in public_names.api_pages().items()}
RUNS: dict[str, Any] = {}
PICTURES: dict[str, bytes] = {}
FILE = re.compile(r"<!-- file: ([\w./-]+) -->\n")
LINK = re.compile(r"\]\(((?:\.\./)*)([\w./-]+\.md)(#[\w-]+)?\)")
BLOCK_OR_HEADING = re.compile(r"^ *```.*?^ *```$|^(?P<marks>#+) (?P<title>[^\n]*)$", flags=re.DOTALL | re.MULTILINE)
SLUG = slugify(case="lower")  # keeps Chinese signs


def on_startup(**kwargs: Any) -> None:
    """Copy the package's code, and nothing else of the repository, to where mkdocstrings reads it; write WORDS."""
    WORDS.parent.mkdir(exist_ok=True)
    glossary = (ROOT / "docs" / "concepts" / "glossary.zh.md").read_text(encoding="utf-8")
    WORDS.write_text("\n".join(chinese_terms(glossary)) + "\n", encoding="utf-8")
    shutil.rmtree(PACKAGE, ignore_errors=True)
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    for package in packages:
        folder = Path(*package.split(".")[1:])
        (PACKAGE / folder).mkdir(parents=True, exist_ok=True)
        for file in (ROOT / folder).glob("*.py"):
            shutil.copy(file, PACKAGE / folder)


def chinese_terms(glossary: str) -> list[str]:
    """The Chinese terms of the glossary, which the search keeps whole."""
    cells = re.findall(r"^\|[^|]+\|([^|]+)\|", glossary, flags=re.MULTILINE)
    terms = {term for cell in cells for term in re.findall("[\u4e00-\u9fff]{2,}", cell)}
    return sorted(terms - {"中文"})


def on_config(config: Any) -> Any:
    """Lay out all pages in one folder, and add those that are made to the navigation."""
    shutil.rmtree(PAGES, ignore_errors=True)
    shutil.copytree(ROOT / "docs", PAGES, ignore=shutil.ignore_patterns("*.py", "builder", "tutorials"))
    RUNS.update(RUNS or tutorials.run_all(small=True))
    PICTURES.update(PICTURES or mechanisms.files())
    for place, content in made_files().items():
        path = PAGES / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    config.docs_dir = str(PAGES)
    config.mdx_configs["toc"]["slugify"] = SLUG
    complete(config.nav, API)
    return config


def made_files() -> dict[str, str | bytes]:
    """Pages of public names, files of the repository that are pages as well, and tutorials, by their places."""
    files: dict[str, str | bytes] = {**API, **PICTURES}
    for name, place in ROOT_PAGES.items():
        files[place] = (ROOT / name).read_text(encoding="utf-8").replace("](docs/", "](../")
    for name, notebook in RUNS.items():
        files[f"tutorials/{name}.md"], pictures = tutorials.page(name, notebook)
        files[f"tutorials/{name}.ipynb"] = nbformat.writes(tutorials.download(name, notebook))
        files.update({f"tutorials/{picture}": content for picture, content in pictures.items()})
        if tutorials.translated(name, "zh"):
            files[f"tutorials/{name}.zh.md"] = tutorials.page(name, notebook, "zh")[0]
    return files


def complete(nav: list[dict[str, Any]], made: Iterable[str]) -> None:
    """Add the pages that are made, and those that measurements write, to the sections of their folders."""
    sections = {title: pages for part in nav for title, pages in part.items() if isinstance(pages, list)}
    sections["Reference"] += [page for page in made if page not in sections["Reference"]]
    written = {f"measurements/{path.name}" for path in (ROOT / "docs" / "measurements").glob("*.md")}
    sections["Measurements"] += sorted(written - {*sections["Measurements"]})


def shown(match: re.Match) -> str:
    """The text of a file of the documentation, as a block of code."""
    text = (ROOT / "docs" / match[1]).read_text(encoding="utf-8")
    return f'```python title="{Path(match[1]).name}"\n{text}```\n'


def with_anchors(translated: str, english: str) -> str:
    """A translated page whose headings have the anchors of the English ones, so that one link leads to both."""
    titles = iter([match["title"] for match in BLOCK_OR_HEADING.finditer(english) if match["title"]])

    def name(match: re.Match) -> str:
        if match["title"] is None:
            return match[0]
        if match["marks"] == "#":  # titles of pages need none
            next(titles, None)
            return match[0]
        plain = re.sub(r"`|\]\([^)]*\)|\[", "", next(titles, match["title"]))
        return f"{match[0]} {{#{SLUG(plain, '-')}}}"

    return BLOCK_OR_HEADING.sub(name, translated)


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Fill in what a page asks for, and lead links to files of the repository to their pages."""
    depth = page.file.src_uri.count("/")
    if page.file.src_uri.endswith(".zh.md"):
        english = (PAGES / page.file.src_uri.replace(".zh.md", ".md")).read_text(encoding="utf-8")
        markdown = with_anchors(markdown, english)

    def lead(match: re.Match) -> str:
        ups, name, anchor = match[1], match[2], match[3] or ""
        if ups.count("../") == depth + 1 and name in ROOT_PAGES:
            return f"]({'../' * depth}{ROOT_PAGES[name]}{anchor})"
        return match[0]

    text = FILE.sub(shown, tables.expand(markdown + "\n", config.theme["language"]))
    text = mechanisms.expand(text, page.file.src_uri, config.theme["language"])
    if "<!-- commands -->" in text:
        text = text.replace("<!-- commands -->", commands.command_sections())
    return LINK.sub(lead, text)

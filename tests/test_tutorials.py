"""The tutorials, their Chinese texts, and what makes pages of them. `make docs` runs them."""

import re

import nbformat
import pytest
from tables import ROOT


pytest.importorskip("jupytext")
pytest.importorskip("nbclient")

import tutorials


LINK = re.compile(r"\]\(([^)\s]+)\)")
FIGURE = re.compile(r"\d+(?:[.,]\d+)*")


def texts_of(name: str) -> list[str]:
    return [cell.source for cell in tutorials.read(name).cells if cell.cell_type == "markdown"]


def headings(text: str) -> list[int]:
    return [len(marks) for marks in re.findall(r"^(#+) ", text, flags=re.MULTILINE)]


def lines_of_code(text: str) -> list[str]:
    return re.findall(r"`([^`\n]+)`", text)


@pytest.mark.parametrize("name", tutorials.names())
def test_a_tutorial_has_a_title_small_sizes_and_descriptions_of_its_pictures(name):
    cells = tutorials.read(name).cells
    assert re.match(r"# \S", cells[0].source) and cells[-1].cell_type == "markdown"
    code = [cell for cell in cells if cell.cell_type == "code"]
    for cell in code:
        compile(
            tutorials.shrink(cell.source).replace("%", "#") if cell.source.startswith("%") else cell.source,
            name,
            "exec",
        )
        assert bool(cell.metadata.get("alt")) == ("plt.show()" in cell.source), cell.source
    assert all("# small" not in tutorials.without_notes(cell.source) for cell in code)


@pytest.mark.parametrize("name", tutorials.names())
def test_links_lead_somewhere(name):
    for text in texts_of(name):
        for link in LINK.findall(text):
            place = link.partition("#")[0]
            if place and not re.match(r"https?://", link):
                target = (tutorials.SOURCES / place).resolve()
                target = target.with_suffix(".py") if target.parent == tutorials.SOURCES else target
                assert target.is_file(), link


@pytest.mark.parametrize("name", tutorials.names())
def test_the_chinese_text_keeps_to_the_english(name):
    english, chinese = texts_of(name), tutorials.translated(name, "zh")
    assert chinese is not None and len(chinese) == len(english)
    for ours, theirs in zip(english, chinese, strict=True):
        assert headings(ours) == headings(theirs), theirs
        assert sorted(LINK.findall(ours)) == sorted(LINK.findall(theirs)), theirs
        assert {*lines_of_code(ours)} == {*lines_of_code(theirs)}, theirs
        missing = {*FIGURE.findall(LINK.sub("", ours))} - {*FIGURE.findall(LINK.sub("", theirs))}
        assert not missing, (missing, theirs)
        assert re.search(r"[\u4e00-\u9fff]", theirs)


SOURCE = """# %% [markdown]
# # Adding
#
# Numbers add up.

# %%
count = 5  # small: 2
print(sum(range(count + 1)))

# %% alt="A line"
import matplotlib.pyplot as plt
plt.plot([1, 2])
plt.show()

# %% [markdown]
# ## The end
"""


@pytest.fixture
def adding(tmp_path, monkeypatch):
    """A tutorial in a folder of its own."""
    monkeypatch.setattr(tutorials, "SOURCES", tmp_path / "sources")
    monkeypatch.setattr(tutorials, "RUNS", tmp_path / "runs")
    (tmp_path / "sources" / "zh").mkdir(parents=True)
    (tmp_path / "sources" / "adding.py").write_text(SOURCE)
    (tmp_path / "sources" / "zh" / "adding.md").write_text("# 加法\n\n<!-- cell -->\n\n## 结束\n", encoding="utf-8")
    return tmp_path / "sources" / "adding.py"


def test_a_page_shows_what_ran(adding):
    (notebook,) = tutorials.run_all(small=True).values()
    text, pictures = tutorials.page("adding", notebook)
    assert "count = 5\nprint" in text and "```text\n3\n```" in text and tutorials.NOTES[""] in text
    assert "![A line](adding-1.png)" in text and pictures["adding-1.png"].startswith(b"\x89PNG")
    chinese, _ = tutorials.page("adding", notebook, "zh")
    assert chinese.startswith("# 加法") and "## 结束" in chinese and "```text\n3\n```" in chinese
    # A whole run takes the place of the small one, until the tutorial changes.
    tutorials.run("adding", small=False)
    (notebook,) = tutorials.run_all(small=True).values()
    text, _ = tutorials.page("adding", notebook)
    assert "```text\n15\n```" in text and tutorials.NOTES[""] not in text
    adding.write_text(SOURCE.replace("range(count", "range(1 + count"))
    assert tutorials.find_run("adding", small=True) is None


@pytest.mark.parametrize("address", ["https://github.com/somebody/trine", "https://github.com/somebody/trine.git"])
def test_where_the_repository_has_an_address_colab_opens_the_notebook(adding, monkeypatch, address):
    (notebook,) = tutorials.run_all(small=True).values()
    monkeypatch.setattr(tutorials, "repository", lambda: address)
    url = "https://colab.research.google.com/github/somebody/trine/blob/notebooks/adding.ipynb"
    text, _ = tutorials.page("adding", notebook)
    chinese, _ = tutorials.page("adding", notebook, "zh")
    assert f"[Open in Colab]({url})" in text.split("```")[0]  # before the first code
    assert f"[在 Colab 中打开]({url})" in chinese.split("```")[0]
    download = tutorials.download("adding", notebook)
    nbformat.validate(download)
    assert url in download.cells[0].source and f'"trine[scripts] @ git+{address}"' in download.cells[1].source
    assert [cell.source for cell in download.cells[2:]] == [cell.source for cell in notebook.cells]


@pytest.mark.parametrize("address", [None, "https://example.org/trine"])
def test_without_an_address_on_github_nothing_leads_to_colab(adding, monkeypatch, address):
    (notebook,) = tutorials.run_all(small=True).values()
    monkeypatch.setattr(tutorials, "repository", lambda: address)
    text, _ = tutorials.page("adding", notebook)
    assert "colab" not in text.lower() and tutorials.download("adding", notebook) is notebook


def test_the_address_is_that_of_the_project(monkeypatch, tmp_path):
    monkeypatch.setattr(tutorials, "ROOT", tmp_path)
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "trine"\n')
    assert tutorials.repository() is None
    (tmp_path / "pyproject.toml").write_text('[project.urls]\nRepository = "https://github.com/somebody/trine"\n')
    assert tutorials.repository() == "https://github.com/somebody/trine"


def test_a_run_begins_in_an_empty_folder(adding):
    left = tutorials.RUNS / "adding" / "left.txt"
    left.parent.mkdir(parents=True)
    left.write_text("of a run that was interrupted")
    tutorials.run("adding", small=True)
    assert left.parent.is_dir() and not left.exists()


def test_a_tutorial_that_fails_stops_the_build(adding):
    adding.write_text(SOURCE.replace("sum(", "total("))
    with pytest.raises(Exception, match="NameError.*total"):
        tutorials.run_all(small=True)
    assert not list(tutorials.RUNS.glob("*.ipynb"))


def test_the_notebooks_are_valid():
    for name in tutorials.names():
        nbformat.validate(tutorials.read(name))
    assert (ROOT / "docs" / "tutorials" / "zh").is_dir()

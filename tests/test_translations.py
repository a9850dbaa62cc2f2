"""Chinese pages keep to the English ones beside them, and every mechanism has a page in both languages."""

import re

import mechanisms
import pytest
from chinese import CELLS, cell_in_chinese, in_chinese
from support.translations import drift
from tables import ROOT, TABLES

from trine.configuration.kinds import ATTENTION_KINDS


DOCS = ROOT / "docs"
TRANSLATED = {
    path.relative_to(ROOT).as_posix(): path.with_suffix("").with_suffix(".md") for path in DOCS.rglob("*.zh.md")
}
TRANSLATED["README.zh-CN.md"] = ROOT / "README.md"


@pytest.mark.parametrize("page", sorted(TRANSLATED))
def test_a_chinese_page_says_what_the_english_one_says(page):
    translated = (ROOT / page).read_text(encoding="utf-8")
    assert drift(TRANSLATED[page].read_text(encoding="utf-8"), translated) == []
    prose = re.sub(
        r"```.*?```|`[^`\n]*`|\]\([^)]*\)|<!--.*?-->|^> [^\n]*$", "", translated, flags=re.DOTALL | re.MULTILINE
    )
    paragraphs = [part for part in prose.split("\n\n") if re.search(r"[A-Za-z]{2,}(?: [A-Za-z]+){9}", part)]
    assert all(re.search(r"[\u4e00-\u9fff]", part) for part in paragraphs), "a paragraph is not translated"


def test_the_chinese_readme_leads_to_chinese_pages_where_there_are_some():
    links = re.findall(r"\]\(([\w/.-]+\.md)", (ROOT / "README.zh-CN.md").read_text(encoding="utf-8"))
    assert "README.md" in links and "](README.zh-CN.md)" in (ROOT / "README.md").read_text(encoding="utf-8")
    for link in links:
        assert (ROOT / link).is_file(), link
        if not link.endswith(".zh.md"):
            assert not (ROOT / link).with_suffix(".zh.md").exists(), f"{link} has a Chinese text"


PAGE = """# Widths

A width of 64 is enough ([why](why.md)); 1.5 million weights.

```python
print(64)  # 64 of them
```

## Depth

`layers` says it.

| width | loss |
|---|---|
| 32 | 1.5 |
| 64 | 1.25 |
"""
CHINESE = """# 宽度

宽度 64 就够了（[原因](why.md)）；150 万个权重。

```python
print(64)  # 共 64 个
```

## 深度

由 `layers` 决定。

| 宽度 | 损失 |
|---|---|
| 32 | 1.5 |
| 64 | 1.25 |
"""
# What is changed in the Chinese page, and what is said of it.
BREACHES = {
    "a heading less": ("## 深度\n", "", "## Depth: the translation has no heading there"),
    "another level": ("## 深度", "### 深度", "## Depth: the translation has ### 深度 there"),
    "another figure": ("宽度 64", "宽度 65", "Widths (宽度): figures: lacks ['64'], has besides ['65']"),
    "another large number": ("150 万", "15 万", "lacks ['1500000'], has besides ['150000']"),
    "another link": ("why.md", "how.md", "Widths (宽度): links: lacks ['why.md'], has besides ['how.md']"),
    "other code": ("print(64) ", "print(32) ", "Widths (宽度): blocks"),
    "another figure in a comment": ("共 64 个", "共 32 个", "Widths (宽度): comments of blocks: lacks ['64']"),
    "another name": ("`layers`", "`depth`", "Depth (深度): code: lacks ['layers'], has besides ['depth']"),
    "a row less": ("| 64 | 1.25 |\n", "", "Depth (深度): rows of tables: lacks ['row 3: 1.25 64']"),
    "figures in another row": (
        "| 32 | 1.5 |\n| 64 | 1.25 |",
        "| 32 | 1.25 |\n| 64 | 1.5 |",
        "Depth (深度): rows of tables",
    ),
}


def test_pages_that_agree_have_no_drift():
    assert drift(PAGE, CHINESE) == []


@pytest.mark.parametrize("breach", BREACHES)
def test_a_page_that_drifts_is_told_with_its_heading(breach):
    before, after, said = BREACHES[breach]
    assert CHINESE.count(before) == 1
    assert said in "\n".join(drift(PAGE, CHINESE.replace(before, after)))


def cells_of_tables() -> set[str]:
    """The cells of the tables that Chinese pages ask for, and of the README's, as they are in English."""
    texts = [(ROOT / page).read_text(encoding="utf-8") for page in TRANSLATED]
    asked = {name for text in texts for name in re.findall(r"<!-- table: ([\w-]+) -->", text)} | {"choices"}
    lines = (line for name in asked for line in TABLES[name]().splitlines())
    return {cell.strip() for line in lines for cell in re.split(r"(?<!\\)\|", line)[1:-1]}


def test_the_tables_of_chinese_pages_are_chinese():
    cells = cells_of_tables()
    # Sources, names and code stay; so does what is no sentence.
    sentences = {cell for cell in cells if re.search(r"[a-z]{2,}", re.sub(r"`[^`]*`", "", cell))}
    sources = {cell for cell in sentences if re.search(r"\[.*\]\(https|\b(19|20)\d\d\b", cell)}
    names = {"eager, sdpa, flex", "eager, sdpa, flex, flash", "Trine"}
    untranslated = {cell for cell in sentences - sources - names if cell_in_chinese(cell) == cell}
    assert untranslated == set(), "docs/builder/chinese.py has no text for them"
    facts = {
        str(fact) for row in ATTENTION_KINDS.values() for fact in (row.about.sees, row.about.cost, row.about.cache)
    }
    assert CELLS.keys() - cells - facts == set(), "no table has these any more"


def test_a_table_keeps_its_shape_code_and_figures_in_chinese():
    english = TABLES["attention"]()
    chinese = in_chinese(english)
    assert "| 一个词元看得见 |" in chinese and "| `full` | 自己和之前的全部词元 | O(n²) |" in chinese
    shapes = [[line.count("|") for line in text.splitlines()] for text in (english, chinese)]
    assert shapes[0] == shapes[1]
    assert re.findall("`[^`]+`", english) == re.findall("`[^`]+`", chinese)
    assert cell_in_chinese("sees nothing known; O(n)") == "sees nothing known; O(n)"
    assert cell_in_chinese("sees all tokens; O(n)") == "看得见全部词元；O(n)"


@pytest.mark.parametrize(("field", "name"), [*mechanisms.kinds()])
def test_every_mechanism_has_a_page_with_what_is_fact(field, name):
    page = DOCS / mechanisms.place(field, name)
    for path, language in ((page, "en"), (page.with_suffix(".zh.md"), "zh")):
        text = path.read_text(encoding="utf-8")
        assert text.count(mechanisms.MARK) == 1
        shown = mechanisms.expand(text, mechanisms.place(field, name), language)
        assert mechanisms.MARK not in shown and f"class {mechanisms.class_of(field, name).__name__}" in shown
        assert mechanisms.LABELS[language]["source"] in shown
        labels = mechanisms.LABELS[language]
        assert (f"| {labels['weights']} |" in shown) == (field == "router_type")


def test_the_pictures_show_what_a_token_sees():
    sliding = mechanisms.seen("sliding", is_causal=True)
    window = mechanisms.SIZES["sliding"]["sliding_window"]
    places = range(mechanisms.LENGTH)
    assert sliding.tolist() == [[query - window < key <= query for key in places] for query in places]
    assert mechanisms.seen("full", is_causal=False).all()

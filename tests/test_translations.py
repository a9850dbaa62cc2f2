"""Chinese pages keep to the English ones beside them, and every mechanism has a page in both languages."""

import re

import mechanisms
import pytest
from tables import ROOT


DOCS = ROOT / "docs"
TRANSLATED = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.zh.md"))
LINK = re.compile(r"\]\(([^)\s]+)\)")
FIGURE = re.compile(r"\d+(?:[.,]\d+)*")
BLOCK = re.compile(r"^```.*?^```$", flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", TRANSLATED)
def test_a_chinese_page_has_headings_code_links_and_figures_of_the_english_one(page):
    theirs = (DOCS / page).read_text(encoding="utf-8")
    ours = (DOCS / page.replace(".zh.md", ".md")).read_text(encoding="utf-8")
    for pattern in (BLOCK, LINK, re.compile(r"^(#+) ", flags=re.MULTILINE), re.compile(r"<!-- .* -->")):
        assert pattern.findall(ours) == pattern.findall(theirs)
    plain_ours, plain_theirs = (LINK.sub("", BLOCK.sub("", text)) for text in (ours, theirs))
    codes = [{*re.findall(r"`([^`\n]+)`", text)} for text in (plain_ours, plain_theirs)]
    assert codes[0] == codes[1]
    assert {*FIGURE.findall(plain_ours)} == {*FIGURE.findall(plain_theirs)}
    assert re.search(r"[\u4e00-\u9fff]", theirs.splitlines()[-1]) or "](" in theirs.splitlines()[-1]


@pytest.mark.parametrize(("field", "name"), [*mechanisms.kinds()])
def test_every_mechanism_has_a_page_with_what_is_fact(field, name):
    page = DOCS / mechanisms.place(field, name)
    for path, language in ((page, "en"), (page.with_suffix(".zh.md"), "zh")):
        text = path.read_text(encoding="utf-8")
        assert text.count(mechanisms.MARK) == 1
        shown = mechanisms.expand(text, mechanisms.place(field, name), language)
        assert mechanisms.MARK not in shown and f"class {mechanisms.class_of(field, name).__name__}" in shown
        assert mechanisms.LABELS[language]["source"] in shown


def test_the_pictures_show_what_a_token_sees():
    sliding = mechanisms.seen("sliding", is_causal=True)
    window = mechanisms.SIZES["sliding"]["sliding_window"]
    places = range(mechanisms.LENGTH)
    assert sliding.tolist() == [[query - window < key <= query for key in places] for query in places]
    assert mechanisms.seen("full", is_causal=False).all()

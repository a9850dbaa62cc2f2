"""What is read from the files of packages, on small made-up ones."""

import gettext
import io

import pytest
from support.packages import ENGLISH_PAGE, NEWS, PACKAGES, TRANSLATIONS, mo_file

from trine.scripts.datasets.parsers import (
    parse_descriptions,
    parse_gettext,
    parse_help_page,
    parse_reviews,
    parse_stanzas,
    parse_tagged_news,
    select_pairs,
    select_topics,
)


def test_stanzas():
    text = "Package: a\nTag: x,\n y\nEmpty:\n\n\nPackage: b: c\n"
    assert list(parse_stanzas(text)) == [{"Package": "a", "Tag": "x,\ny", "Empty": ""}, {"Package": "b: c"}]


def test_descriptions():
    rows = list(parse_descriptions([PACKAGES], [TRANSLATIONS]))
    assert [group for group, _ in rows] == ["alpha", "alpha", "beta"]
    assert rows[0][1] == {
        "package": "alpha-11",
        "source": "alpha-11",
        "section": "games",
        "short": "A game: the first",
        "long": "It is played by two.\nOr by three.",
    }
    assert [record["long"] for _, record in rows[1:]] == ["Another text.", "A text of columns."]
    assert rows[2][1]["source"] == "beta"


def test_topics():
    rows = [("g", {"section": section, "short": section.upper(), "long": "x"}) for section in ("games", "perl", "web")]
    assert list(select_topics(rows)) == [
        ("g", {"text": "GAMES", "label": "games"}),
        ("g", {"text": "WEB", "label": "web"}),
    ]


@pytest.mark.parametrize("order", ["<", ">"])
def test_gettext_equals_the_standard_library(order):
    entries = {"": "Content-Type: text/plain; charset=UTF-8\n", "one": "一", "two": "二", "menu\x04open it": "打开"}
    data = mo_file(entries.items(), order)
    library = gettext.GNUTranslations(io.BytesIO(data))
    pairs = dict(parse_gettext(data))
    assert pairs.pop("") == entries[""]
    assert pairs == {
        "one": library.gettext("one"),
        "two": library.gettext("two"),
        "open it": library.pgettext("menu", "open it"),
    }


def test_gettext_plurals_and_errors():
    assert list(parse_gettext(mo_file([("a key\0keys", "钥匙\0许多钥匙")]))) == [("a key", "钥匙")]
    with pytest.raises(ValueError, match=r"begins with b'PK\\x03\\x04' is not a \.mo file"):
        list(parse_gettext(b"PK\3\4" + bytes(30)))


def test_help_page():
    assert parse_help_page(ENGLISH_PAGE) == {
        "hd_1": "Insert the Table",
        "par_2": "Inserts a new table & a row. Really.",
        "par_3": "Open, without an end",
    }


def test_pairs_are_cleaned_grouped_and_unique():
    pairs = [
        ("Open the <color_red>3 doors</color>!", "打开三个<color_red>红色的门</color>！", "a"),
        ("open the 3 doors!", "把三扇门都打开！", "b"),
        ("Open the 4 doors.", "打开四扇红色的门。", "b"),
        ("Some other words", "打开四扇红色的门。", "b"),
    ]
    rows = list(select_pairs(pairs))
    assert rows[0] == ("open the doors", {"en": "Open the 3 doors!", "zh": "打开三个红色的门！", "source": "a"})
    assert [(group, record["en"]) for group, record in rows[1:]] == [("open the doors", "Open the 4 doors.")]


@pytest.mark.parametrize(
    ("english", "chinese"),
    [
        ("two words", "两个词语啊"),
        ("word " * 31, "词" * 40),
        ("Delete %s of it", "删除它的几个"),
        ("Delete {0} of it", "删除它的几个"),
        ("Look in /usr please", "请看这个文件夹"),
        ("Call the f() now", "现在调用函数吧"),
        ("Talk to <npcname> now", "现在和他说话"),
        ("Talk to him now", "现在和<npcname>说话"),
        ("a b c d e f g h i j k l", "三个字"),
        ("three short words", "很长" * 10),
        ("Mostly Latin text here", "Microsoft Office 的文本"),
        ("Nothing is translated here", "Nothing is translated here"),
    ],
)
def test_unfit_pairs(english, chinese):
    assert list(select_pairs([(english, chinese, "a")])) == []


def test_tagged_news():
    rows = list(parse_tagged_news(NEWS + "好/a\n" * 100 + "上海/ns  。/w"))
    assert rows[0] == (
        "0",
        {"tokens": list("江泽民在北京说。"), "tags": ["B-PER", "I-PER", "I-PER", "O", "B-LOC", "I-LOC", "O", "O"]},
    )
    assert rows[1][1]["tags"] == ["B-ORG", "I-ORG", "I-ORG", "O", "O"]
    assert [(group, "".join(record["tokens"])) for group, record in rows[2:]] == [("0", "北京。"), ("1", "上海。")]


def test_people_of_two_sentences_are_two():
    (_, first), (_, second) = parse_tagged_news("王/nr  。/w  李/nr  明/nr")
    assert first["tags"] == ["B-PER", "O"] and second["tags"] == ["B-PER", "I-PER"]


def test_reviews():
    positive = "非常好的书，喜欢\n非常好的书喜欢！\n好\n两类都有的话\n\n"
    negative = "  很不好的酒店。\n两类都有的话。\n？？？？？？\n"
    assert [record for _, record in parse_reviews(positive, negative)] == [
        {"text": "很不好的酒店。", "label": 0},
        {"text": "非常好的书喜欢！", "label": 1},
    ]

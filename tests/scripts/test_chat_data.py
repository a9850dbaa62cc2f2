"""Conversations made from descriptions, glosses and a dictionary."""

import pytest

from trine.scripts.datasets import chats
from trine.scripts.datasets.chats import UNKNOWN, chat_about_packages, chat_about_terms, chat_about_words


LONG = "It shows what a program does while it runs, in a window of its own that can be moved."


def row(number):
    record = {"package": f"tool-{number:04}", "source": "tools", "section": f"of{number}", "short": f"a tool {number}"}
    return f"group {number}", {**record, "long": f"{LONG} {number}"}


@pytest.fixture(scope="module")
def talks():
    """Conversations about 1,200 packages by the number of each, with the group."""
    rows = [row(number) for number in range(1200)]
    made = [*chat_about_packages(rows)]
    assert made == [*chat_about_packages([*reversed(rows)])][::-1]
    return {int(group.split()[1]): record for group, record in made}


def spoken(record, role):
    return [message["content"] for message in record["messages"] if message["role"] == role]


def test_every_kind_occurs_by_its_share(talks):
    kinds = [record["kind"] for record in talks.values()]
    for kind, share in chats._SHARES.items():
        spread = (12 * share * (1 - share / 100)) ** 0.5  # of a binomial distribution
        assert abs(kinds.count(kind) - 12 * share) < 4 * spread
    assert {*kinds} == {*chats._SHARES}


def test_user_and_assistant_speak_in_turn(talks):
    roles = [[message["role"] for message in record["messages"]] for record in talks.values()]
    assert any(each[0] == "system" for each in roles) and any(len(each) > 4 for each in roles)
    for each in roles:
        turns = each[1:] if each[0] == "system" else each
        assert turns == ["user", "assistant"] * (len(turns) // 2)


def test_what_is_said_is_of_the_package(talks):
    for number, record in talks.items():
        asked, said = " ".join(spoken(record, "user")), spoken(record, "assistant")
        name = f"tool-{number:04}"
        if record["kind"] == "unknown":
            assert UNKNOWN in said and name not in asked
            invented = next(word.strip("?.") for word in asked.split() if "-" in word)
            assert sorted(invented) == sorted(name) and invented.index("-") == name.index("-")
        else:
            right = f"It belongs to the section of{number}." if record["kind"] == "section" else f"a tool {number}"
            assert right in said and (f"{LONG} {number}" if record["kind"] == "summary" else name) in asked
        followed = any(text in ("Which section does it belong to?", "In which section is it?") for text in asked)
        assert not followed or f"It belongs to the section of{number}." in said


def test_a_long_text_is_begun_with_or_left_out(monkeypatch):
    monkeypatch.setattr(chats, "_SHARES", {"summary": 100})
    texts = {"whole": f"{LONG}\nIt is free.", "first": f"{LONG}\n{LONG * 9}", "long": LONG * 9, "short": "It is free."}
    rows = [(name, {**row(0)[1], "package": name, "long": text}) for name, text in texts.items()]
    found = {group: " ".join(spoken(record, "user")) for group, record in chat_about_packages(rows)}
    assert sorted(found) == ["first", "whole"]
    assert f"{LONG} It is free." in found["whole"] and LONG in found["first"] and LONG * 2 not in found["first"]


def test_words_and_terms(monkeypatch):
    monkeypatch.setattr(chats, "_WORDS", 1)
    monkeypatch.setattr(chats, "_TERMS", 1)
    glosses = [f'fertilize, impregnate: cause {number} to grow; "it grew"; "so did I"' for number in range(20)]
    found = [*chat_about_words([*glosses, "so: thus"])]
    assert {group for group, _ in found} == {"fertilize, impregnate"} and len(found) == 20
    said = [spoken(record, "assistant") for _, record in found]
    assert all(any(f"cause {number} to grow" in text for text in texts) for number, texts in enumerate(said))
    assert 0 < sum("it grew" in texts for texts in said) < 20
    assert all("fertilize" in " ".join(spoken(record, "user")) for _, record in found)
    entries = {
        "spam dexing": '<web> (From "spam", "index") (Or "x") To spam, e.g. by St. Mary. It is bad.\nMore.',
        "open": "<web> One without an end",
        "two": "A word.",
    }
    found = dict(chat_about_terms(f"{term}: {text}" for term, text in entries.items()))
    assert [*found] == ["spam dexing"]
    assert "To spam, e.g. by St. Mary." in spoken(found["spam dexing"], "assistant")

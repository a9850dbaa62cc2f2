"""What users lean on stays as it is: names, signatures, fields, options and the names of weights."""

import json

import pytest
from support.surface import FILE, SECTIONS


HOW = (
    "If that is meant, run `make surface`, look at `git diff tests/surface.json`, and tell users in CHANGELOG.md. "
    "What is new breaks nobody; what is gone or changed breaks programs, or checkpoints that are saved."
)


def changes(expected: dict[str, str], found: dict[str, str]) -> list[str]:
    gone = [f"gone: {name}" for name in expected if name not in found]
    changed = [
        f"changed: {n}: {expected[n]} -> {found[n]}" for n in expected.keys() & found if expected[n] != found[n]
    ]
    return [*gone, *sorted(changed), *(f"new: {name}" for name in found if name not in expected)]


@pytest.mark.parametrize("section", SECTIONS)
def test_what_users_lean_on_is_frozen(section):
    found = changes(json.loads(FILE.read_text(encoding="utf-8"))[section], SECTIONS[section]())
    assert not found, "\n".join([f"The {section} are others:", *found, HOW])


def test_every_change_is_told():
    before, after = {"a": "1", "b": "2", "c": "3"}, {"b": "2", "c": "4", "d": "5"}
    assert changes(before, after) == ["gone: a", "changed: c: 3 -> 4", "new: d"]

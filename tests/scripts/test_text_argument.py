"""Every command that reads a text takes it by `--text`, and without it from standard input."""

import io
import sys

import pytest

from trine.scripts import generate, inspect_model, next_tokens, translate
from trine.scripts.arguments.parsing import parse_arguments
from trine.scripts.arguments.text import read_standard_input
from trine.scripts.demo import DemoArguments


COMMANDS = [
    generate.GenerateArguments,
    next_tokens.NextTokensArguments,
    translate.TranslateArguments,
    inspect_model.InspectArguments,
    DemoArguments,
]


@pytest.mark.parametrize("arguments", COMMANDS)
def test_the_option_has_one_name_and_one_other_spelling(arguments):
    for spelling in ("--text", "--prompt"):
        words = [spelling, "a text", *(["--model", "m"] if arguments is not DemoArguments else [])]
        (filled,) = parse_arguments([arguments], words, command="test", description=None)
        assert filled.text in ("a text", ["a text"])


class Keyboard(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_standard_input_loses_its_last_line_end_only(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO("a\n\nb \n\n"))
    assert read_standard_input("a text") == "a\n\nb \n" and capsys.readouterr().err == ""
    monkeypatch.setattr(sys, "stdin", Keyboard("a"))
    assert read_standard_input("a text") == "a" and "Type a text" in capsys.readouterr().err


def test_each_command_reads_it(monkeypatch, capsys):
    read = []

    class Stop(Exception):
        pass

    def stop(*parts, **options):
        read.append(parts)
        raise Stop

    monkeypatch.setattr(sys, "stdin", io.StringIO("one\ntwo\n"))
    filled = parse_arguments([translate.TranslateArguments], ["--model", "m"], command="test", description=None)[0]
    assert translate.read_sources(filled) == (["one", "two"], [])
    with pytest.raises(ValueError, match="There is no text to translate"):
        translate.read_sources(filled)  # it has been read
    monkeypatch.setattr(sys, "stdin", io.StringIO("one\ntwo\n"))
    monkeypatch.setattr(inspect_model, "load", lambda arguments: (None, None))
    monkeypatch.setattr(inspect_model, "load_second", lambda model, source: None)
    monkeypatch.setattr(inspect_model, "look", lambda model, tokenizer, arguments, second: stop(arguments.text))
    with pytest.raises(Stop):
        inspect_model.main(["--model", "m", "--output_dir", "."])
    assert read == [("one\ntwo",)]

"""`trine completion`: the shells' own answers to the Tab key, with the script that it prints."""

import contextlib
import io
import shutil
import subprocess

import pytest

from trine.scripts import cli, completion
from trine.scripts.arguments.parsing import parser_of


pytest.importorskip("shtab")

# What is typed before Tab, and what has to be among the answers, or must not be.
TYPED = [
    (("trine", ""), {"demo", "convert", "benchmark", "completion"}, "models"),
    (("trine", "conv"), {"convert"}, "demo"),
    (("trine", "benchmark", "s"), {"search", "servers", "sizes"}, "models"),
    (("trine", "pretrain", "--max_st"), {"--max_steps"}, "--files"),
    (("trine", "pretrain", "--recipe", "pre"), {"pretrain-english"}, "demo"),
    (("trine", "pretrain", "--preset", "t"), {"tiny"}, "gpt2"),
    (("trine", "pretrain", "--files", "note"), {"notes.txt"}, "other.md"),
]
ASK = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}
function_of=$(complete -p trine | sed 's/.*-F \\([^ ]*\\).*/\\1/')
"$function_of" trine "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    """The scripts of the shells, as files."""
    folder = tmp_path_factory.mktemp("completion")
    for shell in completion.SHELLS:
        text = io.StringIO()
        with contextlib.redirect_stdout(text):
            completion.main([shell])
        (folder / shell).write_text(text.getvalue(), encoding="utf-8")
    return folder


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
@pytest.mark.parametrize(("words", "offered", "absent"), TYPED)
def test_bash_completes(printed, tmp_path, words, offered, absent):
    for name in ("notes.txt", "other.md"):
        (tmp_path / name).touch()
    command = ["bash", "-c", ASK, "ask", str(printed / "bash"), *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    answers = {*done.stdout.split()}
    assert offered <= answers and absent not in answers, done.stderr


def test_every_shell_knows_every_command_and_its_options(printed):
    for shell in completion.SHELLS:
        text = (printed / shell).read_text(encoding="utf-8")
        for name in cli.find_scripts():
            assert name.split()[-1] in text, (shell, name)
        assert all(option in text for option in ("max_new_tokens", "classify-clothes", "transformer-base")), shell


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_can_read_their_script(printed, shell):
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell}")
    subprocess.run([shell, "-n", str(printed / shell)], check=True)


def test_the_parser_of_a_command_runs_nothing(capsys):
    parser = parser_of("benchmark", "models")
    assert parser.prog == "trine benchmark models" and "--recipe" in parser._option_string_actions
    assert parser_of("lift", "--to", "sparse").prog == "trine lift"
    assert capsys.readouterr().out == ""


def test_an_unknown_shell(capsys):
    with pytest.raises(SystemExit, match="trine completion: Unknown shell 'fsh'. Did you mean 'fish'?"):
        completion.main(["fsh"])
    with pytest.raises(SystemExit):
        completion.main([])
    assert "--shell" in capsys.readouterr().err

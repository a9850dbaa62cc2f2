"""`trine new`, `trine check`, and the suite as tests of pytest."""

import pytest
from support import forks
from support.plugins import tables_restored, write_sigmoid

from trine.configuration.plugin_files import load_plugin
from trine.scripts import check as check_command
from trine.scripts import new
from trine.testing import check_mechanism, mechanism_tests


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with tables_restored():
        yield


@pytest.mark.parametrize("kind", new.FIELDS)
def test_a_start_runs_and_passes(kind, tmp_path, capsys):
    name = f"begun_{kind.replace('-', '_')}"
    new.main([kind, f"{name}.py"])
    assert f"{name}.py registers {name!r} for {new.FIELDS[kind]}" in capsys.readouterr().out
    module = load_plugin(tmp_path / f"{name}.py")
    assert hasattr(module, "".join(part.capitalize() for part in name.split("_")))
    rows = check_mechanism(
        str(tmp_path / f"{name}.py"), skip=["compilation", "sharing", "saving", "overfitting", "cost"]
    )
    assert len(rows) > 8 and [row for row in rows if not row.passed] == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", new.FIELDS)
def test_a_start_passes_what_takes_long(kind, tmp_path):
    new.main([kind, "begun.py"])
    rows = check_mechanism("begun.py", only=["compilation", "sharing", "saving", "overfitting", "cost"])
    assert len(rows) >= 4 and [row for row in rows if not row.passed] == []


@pytest.mark.parametrize(
    ("kind", "file", "message"),
    [
        ("atention", "mine.py", "Unknown kind 'atention'. Did you mean 'attention'?"),
        ("attention", "there.py", "there.py is there already"),
        ("attention", "my-own.py", "must be the name of a Python file"),
        ("attention", "mine.txt", "must be the name of a Python file"),
        ("attention", "full.py", "'full' is the name of something else already"),
        ("router", "random.py", "'random' is the name of something else already"),
        ("attention", "absent/mine.py", "No such file or directory"),
    ],
)
def test_no_start_is_written_where_it_would_not_serve(kind, file, message, tmp_path):
    (tmp_path / "there.py").write_text("kept")
    with pytest.raises(SystemExit, match="trine new: .*") as stopped:
        new.main([kind, file])
    assert message in str(stopped.value)
    assert (tmp_path / "there.py").read_text() == "kept"
    assert [path.name for path in tmp_path.iterdir()] == ["there.py"]


def test_the_table_tells_what_failed_and_how_to_mend_it(tmp_path, capsys):
    file = write_sigmoid(tmp_path, "tabled", "tabled")
    assert check_command.main([f"{file}:SigmoidAttention", "--only", "causality", "padding"]) == 0
    printed = capsys.readouterr().out
    assert "tabled (attention_types)\n  passed  causality       bit by bit\n" in printed
    assert "0 failed, 2 passed, in " in printed
    broken = file.with_name("blind.py")
    broken.write_text(
        file.read_text()
        .replace("tabled", "blind")
        .replace("weights * visible", "weights")
        .replace("blind_helper", "tabled_helper")
    )
    assert check_command.main([str(broken), "--only", "causality", "checkpointing"]) == 1
    printed = capsys.readouterr().out
    assert (
        "  FAILED  causality       decoder alone: outputs before place 1, where a token changes: differs by "
        in printed
    )
    assert "A query sees later tokens: apply `visible`" in printed and "1 failed, 1 passed" in printed


def test_the_config_may_have_other_fields(capsys):
    assert check_command.main(["full", "--only", "construction", "--config_overrides", "hidden_size=30"]) == 1
    assert "hidden_size" in capsys.readouterr().out


def test_what_cannot_be_checked_is_one_line(tmp_path):
    for what, message in {"fulll": "'fulll' is not one of", "absent.py": "absent.py is not a file"}.items():
        with pytest.raises(SystemExit, match=f"trine check: {message}"):
            check_command.main([what])
    for text, message in {
        "value = absent\n": "NameError: .* \\(line 1\\)",
        "def\n": ".*faulty.py:1: invalid syntax",
    }.items():
        (tmp_path / "faulty.py").write_text(text)
        with pytest.raises(SystemExit, match=f"trine check: {message}"):
            check_command.main(["faulty.py"])
    with pytest.raises(SystemExit, match="'caching' is not one of the checks"):
        check_command.main(["full", "--only", "caching"])


test_full_attention = mechanism_tests("full", only=["causality", "padding"])


@pytest.mark.slow
def test_two_lines_make_a_file_of_tests(tmp_path):
    """One test for each check, from whatever folder; a failure is told without a traceback."""
    write_sigmoid(tmp_path, "two_lines", "two_lines")
    (tmp_path / "test_it.py").write_text(
        "from trine.testing import mechanism_tests\n"
        "test_it = mechanism_tests('two_lines.py:SigmoidAttention', only=['causality', 'attributes'], skip=[])\n"
        "test_broken = mechanism_tests('full', only=['construction'], hidden_size=30)\n"
    )
    (tmp_path / "elsewhere").mkdir()
    arguments = ["-m", "pytest", "-v", "-p", "no:cacheprovider", "-n", "0", str(tmp_path / "test_it.py")]
    result = forks.run(arguments, tmp_path / "elsewhere")
    assert "test_it[two_lines-causality] PASSED" in result.stdout, result.stdout + result.stderr
    assert "1 failed, 2 passed" in result.stdout and "full, construction: " in result.stdout
    assert "Traceback" not in result.stdout

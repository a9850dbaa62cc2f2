"""The benchmark of prompts that begin alike counts what was not read again, and compares outputs."""

import re

import pytest

from trine.scripts.benchmarks.prefixes import main


SMALL = ["--prompt", "20", "--shared", "16", "--block_size", "4", "--turns", "3", "--rounds", "1"]
SMALL += ["--hidden_size", "16", "--num_hidden_layers", "2"]


def test_it_prints_and_writes_a_table(tmp_path, capsys):
    page = tmp_path / "report.md"
    main([*SMALL, "--attention_types", "full", "linear", "--report", str(page)])
    text = page.read_text(encoding="utf-8")
    assert text.strip() in capsys.readouterr().out
    rows = re.findall(r"^\| (\w+) \| [\d.]+ \| [\d.]+ \| .*? \| (.*?) \| [\d.]+ \| ([\d.]+) \|$", text, re.MULTILINE)
    assert [row[:2] for row in rows] == [("Llama", "1 of 1"), ("full", "1 of 1"), ("linear", "1 of 1")]
    # prompts of 17, 53 and 89 tokens; in the second and third all before the last token written was read: 40 and 76
    assert {hits for _, _, hits in rows} == {f"{(40 + 76) / (17 + 53 + 89):.2f}"}


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--prompt", "16"], "prompt=16 must be above shared=16"), (["--rounds", "0"], "rounds=0 must be at least 1")],
)
def test_bad_options(options, message, capsys):
    with pytest.raises(SystemExit):
        main([*SMALL, *options])
    assert message in capsys.readouterr().err

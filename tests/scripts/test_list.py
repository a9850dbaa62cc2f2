"""`trine list`: every row of every table."""

import pytest

from trine.configuration.presets import PRESETS, SEQ2SEQ_PRESETS
from trine.conversion.families.table import FAMILIES
from trine.scripts import cli


# `list` would hide the function here.
trine_list = pytest.importorskip("trine.scripts.list")
ROWS = {
    "kinds": [f"  {kind} " for kinds in trine_list.TABLES.values() for kind in kinds],
    "presets": [f"{name} " for name in (*PRESETS, *SEQ2SEQ_PRESETS)],
    "families": [f"{name} " for name in FAMILIES],
    "commands": [f"{name} " for name in cli.find_scripts()],
}


@pytest.mark.parametrize("what", ROWS)
def test_each_row_is_a_line(what, capsys):
    cli.main(["list", what])
    lines = capsys.readouterr().out.splitlines()
    fields = len(trine_list.TABLES) if what == "kinds" else 0
    assert len(lines) == len(ROWS[what]) + fields
    for row in ROWS[what]:
        assert any(line.startswith(row) for line in lines), row


def test_the_sizes_of_a_preset(capsys):
    cli.main(["list", "--what", "presets"])
    lines = capsys.readouterr().out.splitlines()
    assert "bert-base         encoder, 12 layers, 768 wide" in lines
    assert "transformer-base  encoder-decoder, 6 layers, 512 wide; 6 layers, 512 wide" in lines


def test_a_misspelt_list():
    with pytest.raises(SystemExit, match="trine list: Unknown list 'kind'. Did you mean 'kinds'?"):
        cli.main(["list", "kind"])

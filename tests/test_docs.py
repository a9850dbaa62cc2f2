"""What the README says holds: its code runs, and its tables name every command, kind and field."""

import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from trine import TrineConfig
from trine.configuration.kinds import ATTENTION_KINDS, FEED_FORWARD_KINDS, POSITION_KINDS, ROUTER_KINDS
from trine.configuration.presets import PRESETS, SEQ2SEQ_PRESETS
from trine.scripts.cli import find_scripts


README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def described_fields() -> dict[str, str]:
    """What the docstring of `TrineConfig` says of each field, on one line."""
    arguments = TrineConfig.__doc__.split("Args:\n")[1].split("\n\n")[0]
    entries = re.findall(r"^ {8}(\w+): (.*(?:\n {12}.*)*)", arguments, flags=re.MULTILINE)
    return {name: re.sub(r"\s+", " ", text) for name, text in entries}


def own_fields() -> dict[str, object]:
    """The default of each field that `TrineConfig` itself declares."""
    return {field.name: field.default for field in fields(TrineConfig) if field.name in TrineConfig.__annotations__}


def field_table() -> str:
    """The README's table of fields."""
    descriptions = described_fields()
    rows = [f"| `{name}` | `{default}` | {descriptions[name]} |" for name, default in own_fields().items()]
    return "\n".join(["| field | default | meaning |", "|---|---|---|", *rows])


def test_every_field_is_described():
    assert list(described_fields()) == list(own_fields())


def test_the_field_table_is_that_of_the_config():
    assert field_table() in README, f"The README should hold this table:\n{field_table()}"


@pytest.mark.parametrize(
    "name",
    [
        *ATTENTION_KINDS,
        *POSITION_KINDS,
        *FEED_FORWARD_KINDS,
        *ROUTER_KINDS,
        *map(json.dumps, [*PRESETS, *SEQ2SEQ_PRESETS]),
    ],
)
def test_every_kind_is_named(name):
    assert f"`{name}`" in README


def test_the_commands_are_the_scripts():
    assert set(re.findall(r"^\| `trine ([\w-]+)` \|", README, flags=re.MULTILINE)) == set(find_scripts())


# The data that the README's commands read, made small.
RECORDS = {
    "reviews.jsonl": lambda n: {
        "text": f"The book of {n} pages is {'good' if n % 2 else 'bad'}.",
        "label": f"is{n % 2}",
    },
    "answers.jsonl": lambda n: {"prompt": f"What comes after {n}?", "completion": f"{n + 1} does."},
    "pairs.jsonl": lambda n: {"anchor": f"number {n}", "positive": f"The number {n} is {'odd' if n % 2 else 'even'}."},
    "sentences.jsonl": lambda n: {"tokens": ["Anna", "saw", str(n)], "tags": ["B-PER", "O", "O"]},
    "translations.jsonl": lambda n: {"zh": f"第{n}页。", "en": f"Page {n}."},
}
COMMANDS = 12


def test_the_trine_commands_run(tmp_path):
    (tmp_path / "my-text").mkdir()
    for number in range(6):
        (tmp_path / "my-text" / f"{number}.md").write_text(README[number * 100 :], encoding="utf-8")
    for name, row in RECORDS.items():
        (tmp_path / name).write_text("".join(json.dumps(row(number)) + "\n" for number in range(60)), encoding="utf-8")
    commands = re.findall(r"^trine (.*)", README, flags=re.MULTILINE)
    assert len(commands) == COMMANDS
    outputs, environment = [], os.environ | {"HF_HOME": str(tmp_path / "home")}
    for command in commands:
        arguments = shlex.split(command.replace("--max_steps 200", "--max_steps 2"))
        if command.startswith(("finetune", "train")):
            arguments += ["--max_steps", "2", "--use_cpu"]
        program = [sys.executable, "-m", "trine.scripts.cli", *arguments]
        result = subprocess.run(program, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        outputs.append(result.stdout)
    assert "--- temperature 1.2 ---\nOnce upon a time" in outputs[1]
    assert (tmp_path / "my-model" / "loss.png").exists() and (tmp_path / "my-encoder" / "loss.png").exists()


def test_the_python_blocks_run(tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(blocks) >= 5
    script = tmp_path / "readme.py"
    script.write_text("\n".join(blocks), encoding="utf-8")
    result = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "['sliding', 'sliding', 'sliding', 'full']" in result.stdout
    assert "torch.Size([1, 24])" in result.stdout

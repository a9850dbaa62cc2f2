"""What README and documentation say holds: their code runs, their links lead somewhere, their tables are current."""

import json
import re
import shlex
from pathlib import Path

import pytest
import yaml
from support import forks
from tables import README, READMES, REQUEST, ROOT, TABLES, described_fields, own_fields, renew

from trine import TrineConfig
from trine.configuration.presets import PRESET_SUMMARIES, PRESETS, SEQ2SEQ_PRESETS


LONGEST_README = 12 * 1024
DOCS = ROOT / "docs"
BLOCKS = 53  # Python blocks of all pages
COMMANDS = 36
TUTORIALS = {f"tutorials/{path.stem}.md" for path in (DOCS / "tutorials").glob("*.py")}
# Pages of the site that are made when it is built, or are files of the root.
MADE = {"project/contributing.md", "project/changelog.md", "project/security.md", *TUTORIALS}


def listed_pages() -> list[str]:
    """The pages in the order of the site."""
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    return [page for part in nav for page in pages_of(part)]


def pages_of(part: object) -> list[str]:
    """The pages of a part of the navigation, and of its parts."""
    if isinstance(part, str):
        return [part]
    return [page for each in (part.values() if isinstance(part, dict) else part) for page in pages_of(each)]


PAGES = [README, *(DOCS / page for page in listed_pages() if page not in MADE)]
WRITTEN = [*PAGES, *ROOT.glob("*.md"), *(ROOT / ".github").rglob("*.md"), *DOCS.rglob("*.md")]
# tests/test_translations.py and test_tutorials.py look at Chinese texts.
CHINESE = re.compile(r"\.zh(-CN)?\.md$|^docs/tutorials/zh/")
WRITTEN = [path for path in WRITTEN if not CHINESE.search(path.relative_to(ROOT).as_posix())]
TEXTS = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in WRITTEN}
SHOWN = [path.relative_to(ROOT).as_posix() for path in PAGES]


def test_the_readme_is_short_and_its_tables_are_current():
    text = README.read_text(encoding="utf-8")
    assert len(text.encode()) <= LONGEST_README
    assert renew(text) == text, "python docs/builder/tables.py renews them"
    chinese = ROOT / "README.zh-CN.md"
    assert renew(chinese.read_text(encoding="utf-8"), READMES[chinese]) == chinese.read_text(encoding="utf-8")


def test_every_page_is_listed():
    pages = {path.relative_to(DOCS).as_posix() for path in WRITTEN if path.is_relative_to(DOCS)}
    assert {page for page in pages | TUTORIALS if not page.startswith("measurements/")} <= {*listed_pages()}


def test_every_table_that_a_page_asks_for_is_there():
    asked = {name for page in SHOWN for name in REQUEST.findall(TEXTS[page])}
    assert asked == TABLES.keys()


def test_every_field_is_described():
    assert list(described_fields(TrineConfig)) == list(own_fields(TrineConfig))


def test_every_preset_is_described():
    assert PRESET_SUMMARIES.keys() == PRESETS.keys() | SEQ2SEQ_PRESETS.keys()


def anchors(text: str) -> set[str]:
    """What a link to a heading of the page may name."""
    headings = re.findall(r"^#+ (.*)", re.sub(r"```.*?```", "", text, flags=re.DOTALL), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", TEXTS)
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```|`[^`\n]*`", "", TEXTS[page], flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?://", link):
            continue
        name, _, anchor = link.partition("#")
        target = ((ROOT / page).parent / name).resolve() if name else ROOT / page
        if target.parent == DOCS / "tutorials":
            target = target.with_suffix(".py")
        assert target.is_file(), f"{page} links to {link}"
        if anchor:
            assert anchor in anchors(target.read_text(encoding="utf-8")), f"{page} links to {link}"


@pytest.mark.parametrize("path", sorted((ROOT / ".github").rglob("*.yml")), ids=lambda path: path.name)
def test_workflows_call_targets_that_exist(path):
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    steps = [step for job in content.get("jobs", {}).values() for step in job["steps"]]
    called = [step["run"].split()[1] for step in steps if step.get("run", "").startswith("make ")]
    assert {*called} <= {*targets}
    assert called or path.parent.name != "workflows"


# Lines to type, which all run; what needs a network, a server or a package that is not there stands in blocks of text.
CONSOLE = re.compile(r"^```console\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)
# The data that the commands of the pages read, made small.
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


def write_files(page: str, folder: Path) -> None:
    """Writes the blocks of a page that have the name of a file."""
    block = re.compile(r'^```python title="([^"]*)"\n(.*?)^```$', flags=re.DOTALL | re.MULTILINE)
    for name, text in block.findall(TEXTS[page]):
        (folder / name).write_text(text, encoding="utf-8")


def test_the_trine_commands_run(tmp_path):
    """All of them in one folder, in the order of the pages: what one writes, a later one reads."""
    (tmp_path / "my-text").mkdir()
    text = "".join(TEXTS[page] for page in SHOWN)[:60_000]
    for number in range(6):
        (tmp_path / "my-text" / f"{number}.md").write_text(text[number * 100 :], encoding="utf-8")
    for name, row in RECORDS.items():
        (tmp_path / name).write_text("".join(json.dumps(row(number)) + "\n" for number in range(60)), encoding="utf-8")
    for page in SHOWN:
        write_files(page, tmp_path)
    shown = (block for page in SHOWN for block in CONSOLE.findall(TEXTS[page]))
    commands = [command for block in shown for command in re.findall(r"^trine (.*)", block, flags=re.MULTILINE)]
    assert len(commands) == COMMANDS
    outputs = {}
    for command in commands:
        arguments = shlex.split(command.replace("--max_steps 200", "--max_steps 2"))
        if command.startswith(("finetune", "train")):
            arguments += ["--max_steps", "2", "--use_cpu"]
        if command.startswith("check"):  # tests/testing/test_commands.py runs all
            arguments += ["--only", "construction", "causality", "sharing"]
        result = forks.run(["-m", "trine.scripts.cli", *arguments], tmp_path)
        assert result.returncode == 0, result.stderr
        outputs[arguments[0]] = outputs.get(arguments[0], "") + result.stdout
    assert "--- temperature 1.2 ---\nOnce upon a time" in outputs["generate"]
    assert (tmp_path / "my-model" / "loss.png").exists() and (tmp_path / "my-encoder" / "loss.png").exists()


# Runs the blocks of each page in a folder and with names of its own; a traceback tells page and line.
RUNNER = """
import os, sys
from pathlib import Path
for name in sys.argv[1:]:
    folder = Path(name.replace("/", "-") + ".run")
    source = Path(name).read_text(encoding="utf-8")
    print("#", name)
    os.chdir(folder)
    exec(compile(source, name, "exec"), {"__name__": "__main__"})
    os.chdir("..")
"""


def only_python(text: str) -> tuple[str, int]:
    """The Python blocks of a page, each on its own lines, and their number."""
    lines, inside, blocks = [], False, 0
    for line in text.splitlines():
        starts, ends = line == "```python", line == "```"
        blocks += starts
        inside = (inside or starts) and not ends
        lines.append(line if inside and not starts else "")
    return "\n".join(lines), blocks


def test_the_python_blocks_run(tmp_path):
    found = {page: only_python(TEXTS[page]) for page in SHOWN}
    assert sum(blocks for _, blocks in found.values()) == BLOCKS
    names = [page for page, (_, blocks) in found.items() if blocks]
    for page in names:
        path = tmp_path / page
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(found[page][0], encoding="utf-8")
        folder = tmp_path / f"{page.replace('/', '-')}.run"
        folder.mkdir()
        write_files(page, folder)
    result = forks.run(["-c", RUNNER, *names], tmp_path)
    assert result.returncode == 0, result.stderr
    assert "['sliding', 'sliding', 'sliding', 'full']" in result.stdout
    assert "torch.Size([1, 24])" in result.stdout
    assert "['sparse', 'sparse', 'dense', 'sparse']" in result.stdout
    assert "['sigmoid', 'full'] -5.0" in result.stdout

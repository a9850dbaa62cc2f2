"""What a command imports beyond the requirements is declared, and checked before its first step."""

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest

from trine.scripts import cli
from trine.scripts.arguments.optional_packages import EXTRAS, IF_ASKED, NEEDS, require_for


ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# Requirements of the package under the names of their modules, and what they bring in any case.
REQUIRED = {re.split(r"[>=\[]", name)[0].replace("-", "_") for name in PROJECT["dependencies"]}
REQUIRED |= {"httpx", "jinja2", "numpy", "packaging", "scipy", "sklearn", "tqdm", "trine", "yaml"}
# What a function of a module can import that these commands never call, or import where it is there.
NEVER = {
    "evaluate-retrieval": {"matplotlib"},
    "evaluate-translation": {"matplotlib"},
    "study parts": {"datasets", "jieba", "pyarrow", "reasoning_gym"},
    "study shapes": {"datasets", "jieba", "matplotlib", "pyarrow"},
    "study simplicial": {"datasets", "jieba", "matplotlib", "pyarrow"},
    "translate": {"matplotlib"},
}
WHERE_THERE = {"triton", "local_attention", "performer_pytorch", "reformer_pytorch", "simplicial_attention"}
# What is checked where it is known to be needed, with the name of the extra.
CHECKED_ELSEWHERE = {"faiss", "nltk", "rouge_score", "sacrebleu", "seqeval"}
CHECKED_ELSEWHERE |= {"milvus_lite", "pgvector", "psycopg", "pymilvus"}  # by the stores


def imported(path: Path) -> set[str]:
    """The modules that a file names in its imports, those of functions too, but for those that only types need."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typed = [node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)]
    skipped = {node for branch in typed for node in ast.walk(branch)}
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import) and node not in skipped:
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node not in skipped:
            base = ("trine", *path.parents[node.level - 1].relative_to(ROOT).parts) if node.level else ()
            names.add(".".join((*base, node.module or "")))
    return names


@cache
def reachable(path: Path) -> frozenset[str]:
    """The top-level packages that a file, and those of ours that it imports, name beyond what is there anyway."""
    seen, waiting, names = set(), [path], set()
    while waiting:
        file = waiting.pop()
        seen.add(file)
        for module in imported(file):
            steps = module.split(".")
            names.add(steps[0])
            own = ROOT.joinpath(*steps[1:]).with_suffix(".py") if steps[0] == "trine" else None
            if own is not None and own.is_file() and own not in seen:
                waiting.append(own)
    return frozenset(names - sys.stdlib_module_names - REQUIRED)


def test_the_extras_bring_what_the_table_says():
    packages = {"faiss": "faiss-cpu", "ir_measures": "ir-measures", "reasoning_gym": "reasoning-gym"}
    packages |= {"PIL": "pillow", "prometheus_client": "prometheus-client"}
    brought = {"fastapi": "transformers", "openai": "transformers", "uvicorn": "transformers", "pyarrow": "datasets"}
    for module, extra in EXTRAS.items():
        named = {re.split(r"[>=\[]", name)[0] for name in PROJECT["optional-dependencies"][extra]}
        assert (packages | brought).get(module, module) in named, module


@pytest.mark.parametrize("command", cli.find_scripts())
def test_what_a_command_imports_is_declared(command):
    found = reachable(ROOT.joinpath("scripts", *cli.find_scripts()[command].split(".")).with_suffix(".py"))
    declared = {*NEEDS.get(command, ()), *IF_ASKED, *NEVER.get(command, ())} | WHERE_THERE | CHECKED_ELSEWHERE
    brought = {"serve": {"starlette"}, "words": {"scipy"}}.get(command, set())  # by fastapi, by gensim
    assert found - declared - brought == set()
    assert {*NEEDS.get(command, ())} - {"openai"} <= found, "something is declared that is not imported"


@pytest.mark.parametrize("command", NEEDS)
def test_a_missing_package_is_named_before_anything_else(command, monkeypatch, capsys):
    importlib.import_module(f"trine.scripts.{cli.find_scripts()[command]}")
    for module in NEEDS[command]:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(SystemExit) as stop:
        cli.main(command.split())
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    extras = ",".join(dict.fromkeys(EXTRAS[module] for module in NEEDS[command]))
    assert line == f"trine {command} needs {', '.join(NEEDS[command])}: pip install 'trine[{extras}]'"


def test_help_needs_no_package(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SystemExit) as stop:
        cli.main(["demo", "--help"])
    assert stop.value.code == 0 and "--text" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("module", "values"),
    [
        ("PIL", {"sets": ["zh-en", "digits"]}),
        ("bm25s", {"bm25": True}),
        ("codecarbon", {"energy_country": "DEU"}),
        ("datasets", {"files": ["a.jsonl", "hf:NAME"]}),
        ("datasets", {"validation_files": ["saved"]}),
        ("jieba", {"whole_words": "jieba"}),
        ("jieba", {"chinese": "jieba"}),
        ("matplotlib", {"map_dir": "folder"}),
        ("onnx", {"scheme": "onnx-int8"}),
        ("onnxruntime", {"scheme": "onnx-int8"}),
        ("pyarrow", {"files": ["a.parquet"]}),
        ("pyarrow", {"files": ["folder"]}),
        ("pyarrow", {"sample_file": "a.parquet"}),
        ("reasoning_gym", {"experiments": ["match3", "word-problems"]}),
        ("sacrebleu", {"experiments": ["translation"]}),
        ("seqeval", {"experiments": ["tagging"]}),
        ("torchao", {"scheme": "int8"}),
        ("gguf", {"format": "gguf"}),
        ("xgrammar", {"regex": "a+"}),
    ],
)
def test_what_arguments_ask_for_is_checked(module, values, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder" / "deep").mkdir(parents=True)
    (tmp_path / "folder" / "deep" / "a.parquet").touch()
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "state.json").touch()
    monkeypatch.setitem(sys.modules, module, None)
    require_for("test", {"files": ["a.jsonl"], "validation_files": [], "bm25": False, "experiments": ["match3"]})
    with pytest.raises(SystemExit) as stop:
        require_for("test", values)
    assert stop.value.code == 2
    assert capsys.readouterr().err == f"trine test needs {module}: pip install 'trine[{EXTRAS[module]}]'\n"


def test_every_condition_is_tried_above():
    tried = {case[0] for mark in test_what_arguments_ask_for_is_checked.pytestmark for case in mark.args[1]}
    assert tried == set(IF_ASKED)


@pytest.mark.parametrize("path", sorted((ROOT / "scripts").glob("*.py")), ids=lambda path: path.stem)
def test_modules_of_commands_import_optional_packages_in_functions_only(path):
    """So that `--help` and the check itself work without them."""
    top = ast.parse(path.read_text(encoding="utf-8")).body
    names = {alias.name for node in top if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in top if isinstance(node, ast.ImportFrom)}
    assert not {name.split(".")[0] for name in names} & EXTRAS.keys()


def test_the_demo_without_matplotlib_leaves_nothing_behind(tmp_path):
    program = (
        "import sys; sys.modules['matplotlib'] = None; from trine.scripts.cli import main; sys.exit(main(['demo']))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "trine demo needs matplotlib: pip install 'trine[scripts]'"
    assert list(tmp_path.iterdir()) == []

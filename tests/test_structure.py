"""The shape of the house: who may import whom, what the wheel holds, and how long a file may be."""

import ast
import sys
import tomllib
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
from support import bundles

from trine.configuration.bundle import files_of


ROOT = Path(__file__).resolve().parents[1]
# Each room of the package, and the other rooms that it may import.
ROOMS = {
    "configuration": set(),
    "tokenization": {"configuration"},
    "modeling": {"configuration"},
    "conversion": {"configuration", "modeling", "tokenization"},
    "retrieval": {"configuration", "modeling"},
    "generation": {"configuration", "modeling", "tokenization"},
    "inspection": {"configuration", "modeling", "tokenization"},
    "testing": {"configuration", "modeling"},
    "training": {"configuration", "modeling", "tokenization"},
}
EXPORTED_CODE_MAY_TRY = {"fcntl", "transformers", "triton"}  # of transformers what its older versions lack
EXPORTED_CODE_MAY_IMPORT = {"torch", "transformers", "huggingface_hub", "safetensors"} | sys.stdlib_module_names
OPTIONAL = {
    "PIL",
    "codecarbon",
    "datasets",
    "gensim",
    "langchain_core",
    "llama_index",
    "matplotlib",
    "pyarrow",
    "yaml",
}
# Modules with subclasses of another library's classes, which no other module imports.
SUBCLASSES = {"retrieval/langchain.py": {"langchain_core"}, "retrieval/llama_index.py": {"llama_index"}}
LONGEST_FILE = 400
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
PACKAGES, APART = SETUPTOOLS["packages"], {"scripts/command": "trine_command"}  # a package outside of `trine`

ROOM_FILES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
LIBRARY_FILES = [*sorted(ROOT.glob("*.py")), *ROOM_FILES]
SCRIPT_FILES = sorted((ROOT / "scripts").rglob("*.py"))
TEST_FILES = sorted((ROOT / "tests").rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports(source: str) -> list[tuple[int, str]]:
    """List every import as its number of leading dots and the name of the module, functions and all."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [(0, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((node.level, node.module or ""))
    return found


@cache
def imports_of(path: Path) -> list[tuple[int, str]]:
    return imports(path.read_text(encoding="utf-8"))


def tried(source: str) -> set[str]:
    """The packages that are imported inside of a `try`, and nowhere else."""
    attempts = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Try)]
    inside = [name for node in attempts for name in imports(ast.unparse(ast.Module(node.body, [])))]
    names = {name.split(".")[0] for dots, name in inside if not dots}
    total, within = (
        Counter(name.split(".")[0] for dots, name in found if not dots) for found in (imports(source), inside)
    )
    return {name for name in names if total[name] == within[name]}


def target_of(path: Path, dots: int, module: str) -> Path:
    """Return the path, without a suffix, that a relative import in `path` points at."""
    return path.parents[dots - 1].joinpath(*module.split(".")) if module else path.parents[dots - 1]


def test_imports_follow_the_direction_between_rooms():
    for path in ROOM_FILES:
        room = path.relative_to(ROOT).parts[0]
        for dots, module in imports_of(path):
            if dots:
                other = target_of(path, dots, module).relative_to(ROOT).parts[0]
                assert other in {room, "_lazy"} | ROOMS[room], f"{name_of(path)} imports from {other}/"


def test_the_package_imports_its_own_leaf_modules_relatively():
    for path in LIBRARY_FILES:
        for dots, module in imports_of(path):
            if dots:
                leaf = target_of(path, dots, module).with_suffix(".py")
                assert module and leaf.is_file(), (
                    f"{name_of(path)}: `{'.' * dots}{module}` is not a module with a file"
                )
            else:
                assert module.split(".")[0] != "trine", f"{name_of(path)} imports {module} by its absolute name"


def test_scripts_and_tests_import_the_package_absolutely():
    for path in SCRIPT_FILES + TEST_FILES:
        relative = [module for dots, module in imports_of(path) if dots]
        assert not relative, f"{name_of(path)} imports {relative} relatively"


def test_the_configuration_needs_no_torch():
    for path in (ROOT / "configuration").rglob("*.py"):
        assert "torch" not in {module.split(".")[0] for _, module in imports_of(path)}, name_of(path)


def test_optional_packages_are_imported_where_they_are_used():
    """In scripts, or in functions; code that goes to the Hub imports none at all (see above)."""
    for path in LIBRARY_FILES:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [name.name for name in node.names]
                optional = OPTIONAL - SUBCLASSES.get(name_of(path), set())
                assert not optional & {name.split(".")[0] for name in names}, name_of(path)


def test_nothing_imports_the_subclasses_of_other_libraries_classes():
    targets = {ROOT / name for name in SUBCLASSES}
    for path in LIBRARY_FILES + SCRIPT_FILES:
        found = {target_of(path, dots, name).with_suffix(".py") for dots, name in imports_of(path) if dots}
        found |= {
            ROOT.joinpath(*name.split(".")[1:]).with_suffix(".py") for _, name in imports_of(path) if "trine." in name
        }
        assert not found & targets, name_of(path)


def test_every_folder_with_code_is_a_listed_package():
    """An unlisted package is missing from the wheel, without an error."""
    folders = {path.parent.relative_to(ROOT) for path in ROOM_FILES + SCRIPT_FILES}
    assert all((ROOT / folder / "__init__.py").is_file() for folder in folders), "a folder has no __init__.py"
    names = {APART.get(folder.as_posix(), ".".join(("trine", *folder.parts))) for folder in folders}
    assert sorted(PACKAGES) == sorted(names | {"trine"})
    assert SETUPTOOLS["package-dir"] == {"trine": "."} | {name: folder for folder, name in APART.items()}


def test_the_rooms_are_the_listed_folders():
    """The list tells, not what lies in the checkout, where commands leave folders with code."""
    assert {name.split(".")[1] for name in PACKAGES if "." in name} - {"scripts"} <= ROOMS.keys()


def test_what_commands_write_by_default_is_ignored():
    """By git, and so by ruff: models are saved with code."""
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").split()
    assert {"demo-output/", "outputs/", "runs/", "trainer_output/"} <= {*ignored}


def test_what_is_imported_is_in_a_listed_package():
    for path in LIBRARY_FILES + SCRIPT_FILES:
        for dots, module in imports_of(path):
            if dots or module.startswith("trine."):
                leaf = target_of(path, dots, module) if dots else ROOT.joinpath(*module.split(".")[1:])
                folder = leaf.parent if leaf.with_suffix(".py").is_file() else leaf
                assert ".".join(("trine", *folder.relative_to(ROOT).parts)) in PACKAGES, f"{name_of(path)}: {module}"


def test_files_stay_short():
    for path in LIBRARY_FILES + SCRIPT_FILES + TEST_FILES:
        assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST_FILE, name_of(path)


@pytest.mark.parametrize("config", bundles.CONFIGS.values(), ids=bundles.CONFIGS)
def test_exported_code_needs_no_other_packages(config):
    files = files_of(config())
    for name, source in files.items():
        imported, optional = imports(source), tried(source)
        found = {module.split(".")[0] for dots, module in imported if not dots}
        assert found - optional <= EXPORTED_CODE_MAY_IMPORT, name
        assert optional <= EXPORTED_CODE_MAY_TRY, name
        assert {f"{module}.py" for dots, module in imported if dots} <= {*files}, name

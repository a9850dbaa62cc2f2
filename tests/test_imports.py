"""What an import loads: few modules; and the public names that load later are the right objects."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from trine._lazy import guarded_imports


ROOMS = ["conversion", "generation", "inspection", "retrieval", "tokenization", "training"]
PACKAGES = ["trine", *(f"trine.{room}" for room in ROOMS)]
COMMAND = Path(__file__).resolve().parents[1] / "scripts" / "command"
MOST_MODULES = 112
MOST_FOR_HELP = 250  # with those that Python and the installed packages load at its start
LATER = ("trine.conversion", "trine.generation", "trine.tokenization", "trine.training")


def loaded_by(code: str) -> list[str]:
    """The modules that a fresh process has loaded after some code."""
    code += "\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def places_of(package: str) -> dict[str, tuple[str, str]]:
    return guarded_imports(Path(str(importlib.import_module(package).__file__)))


def test_importing_trine_loads_few_modules():
    own = [name for name in loaded_by("import trine") if name.partition(".")[0] == "trine"]
    assert len(own) <= MOST_MODULES, own
    assert not [name for name in own if name.startswith(LATER)]


def test_a_kind_of_attention_loads_with_its_first_model():
    """What a table gives in all ways is one class; and a cache for a kind can be made before its first model."""
    loaded_by("""
import sys, trine, transformers
from trine.modeling.attention.table import ATTENTIONS
for later in ("attention.lsh", "attention.cross", "kernels.simplicial", "positions.learned", "feed_forward.experts"):
    assert f"trine.modeling.{later}" not in sys.modules
for kind in ATTENTIONS:
    config = trine.TrineConfig.from_preset("tiny", attention_types=kind)
    transformers.DynamicCache(config=config), transformers.StaticCache(config=config, max_cache_len=8)
    model = trine.TrineForCausalLM(config)
    assert type(model.model.layers[0].self_attn) is ATTENTIONS[kind] is dict(ATTENTIONS.items())[kind]
    assert ATTENTIONS[kind] is ATTENTIONS.get(kind) and ATTENTIONS[kind] in ATTENTIONS.values()
assert ATTENTIONS.get("none") is None
""")


@pytest.mark.parametrize("package", PACKAGES)
def test_names_that_load_later_are_the_objects_of_their_modules(package):
    module = importlib.import_module(package)
    places = places_of(package)
    assert places and {*places} <= {*module.__all__} <= {*dir(module)}
    for name, (source, original) in places.items():
        scope = {}
        exec(f"from {package} import {name}", scope)
        assert scope[name] is getattr(importlib.import_module(source, package), original)


@pytest.mark.parametrize("package", PACKAGES)
def test_a_name_that_loads_later_is_not_that_of_a_module(package):
    """Python sets a module as an attribute of its package, in the place of whatever has its name there."""
    folder = Path(str(importlib.import_module(package).__file__)).parent
    assert not {*places_of(package)} & {path.stem for path in folder.iterdir()}


@pytest.mark.parametrize("package", PACKAGES)
def test_an_unknown_name_is_an_import_error_of_the_package(package):
    with pytest.raises(ImportError, match=f"cannot import name 'convertt' from '{package}'"):
        exec(f"from {package} import convertt")


@pytest.mark.parametrize("room", ROOMS)
def test_a_star_import_of_a_room_brings_its_public_names(room):
    scope = {}
    exec(f"from trine.{room} import *", scope)
    assert {*importlib.import_module(f"trine.{room}").__all__} <= {*scope}


@pytest.mark.parametrize("argument", ["--help", "--version", "benchmark"])
def test_the_command_answers_without_torch(argument):
    """The entry point's package, as an installed command finds it: beside `trine`, not within."""
    code = f"import sys; sys.path.insert(0, {str(COMMAND.parent)!r}); sys.argv = ['trine', {argument!r}]\n"
    loaded = loaded_by(f"{code}import {COMMAND.name}; assert {COMMAND.name}.main() == 0")
    assert not {"torch", "transformers", "trine"} & {*loaded}
    assert len(loaded) < MOST_FOR_HELP

"""The linters, that of transformers for modeling code and ours, run on the code that a checkpoint carries."""

import subprocess
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import mlinter
import pytest
from support import bundles


# Rules whose findings are accepted, each with the reason.
ACCEPTED = {
    "TRF013": "the base class of the encoder-decoders settles their vocabularies; each model calls post_init itself",
    "TRF022": "a checkpoint carries the layer of its own norm_position, of the two that are never split",
    "TRF028": "the licence is named in its machine-readable form, SPDX, in two lines in place of thirteen",
    "TRF029": "a feed-forward serves dense layers, experts and shared experts, which differ in width",
    "TRF032": "a kernel of Triton fills running maxima of float32, whatever the dtype of its inputs",
    "TRF041": "wants each branch on the config to name the published checkpoints that take it; there are none yet",
    "TRF051": "a row that packs sequences is cut into them for sdpa only, which would pay for the whole row squared",
    "TRF057": "@auto_docstring finds no documentation for classes outside the library, and prints errors at import",
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    """What the checkpoints of all shapes carry, a folder each."""
    folder = tmp_path_factory.mktemp("exported")
    for name, make in bundles.CONFIGS.items():
        make().save_pretrained(folder / name)
    return folder


@cache
def findings(folder: Path) -> list[mlinter.Violation]:
    files = sorted(mlinter.iter_modeling_files(search_paths=[folder]))
    assert files, "the linter looks at file names, and says OK when it finds none that it knows"
    return [found for path in files for found in mlinter.analyze_file(path, path.read_text(encoding="utf-8"))]


def test_the_linter_sees_the_configurations_and_the_models(exported):
    seen = {path.relative_to(exported) for path in mlinter.iter_modeling_files(search_paths=[exported])}
    assert seen == {path.relative_to(exported) for path in exported.rglob("*.py")} and len(seen) == 2 * len(
        bundles.CONFIGS
    )


@pytest.mark.parametrize("name", bundles.CONFIGS)
def test_no_finding_remains(name, exported):
    remaining = [found for found in findings(exported / name) if found.rule_id not in ACCEPTED]
    assert not remaining, "\n".join(map(mlinter.format_violation, remaining))


def test_every_accepted_rule_still_has_findings(exported):
    assert ACCEPTED.keys() == {found.rule_id for name in bundles.CONFIGS for found in findings(exported / name)}


@pytest.mark.skipif(find_spec("ruff") is None, reason="needs ruff, which comes with the extra dev")
@pytest.mark.parametrize("command", ["check", "format --check"])
def test_the_code_is_formatted_as_ours(command, exported):
    settings = Path(__file__).resolve().parents[1] / "pyproject.toml"
    run = [sys.executable, "-m", "ruff", *command.split(), "--no-cache", "--config", str(settings), str(exported)]
    result = subprocess.run(run, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_linter_finds_a_planted_fault(tmp_path):
    (tmp_path / "modeling_planted.py").write_text(
        "from torch import nn\nfrom transformers import PreTrainedModel\n\n\n"
        "class PlantedModel(PreTrainedModel):\n"
        "    def __init__(self, config):\n        super().__init__(config)\n        self.layer = nn.Linear(2, 2)\n"
    )
    assert findings(tmp_path)

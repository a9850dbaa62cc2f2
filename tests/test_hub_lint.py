"""The library's own linter for modeling code, run on the code that a checkpoint carries."""

from pathlib import Path

import mlinter
import pytest

from trine import FAMILIES


# Rules whose findings are accepted, each with the reason.
ACCEPTED = {
    "TRF013": "the base class of the encoder-decoders settles their vocabularies; each model calls post_init itself",
    "TRF029": "a feed-forward serves dense layers, experts and shared experts, which differ in width",
    "TRF041": "wants each branch on the config to name the published checkpoints that take it; there are none yet",
    "TRF051": "a row that packs sequences is cut into them for sdpa only, which would pay for the whole row squared",
    "TRF057": "@auto_docstring finds no documentation for classes outside the library, and prints errors at import",
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    """The code of all families; what they share is the same."""
    folder = tmp_path_factory.mktemp("exported")
    for config_class, _, _ in FAMILIES:
        config_class().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def all_as_modeling(exported, tmp_path_factory) -> Path:
    """The same code, with every file that uses torch named as the modeling rules want it."""
    folder = tmp_path_factory.mktemp("modeling")
    for path in exported.glob("*.py"):
        source = path.read_text(encoding="utf-8")
        is_plain = path.stem.startswith(("modeling_", "configuration_")) or "import torch" not in source
        (folder / (path.name if is_plain else f"modeling_{path.name}")).write_text(source, encoding="utf-8")
    return folder


def findings(folder: Path) -> list[mlinter.Violation]:
    files = sorted(mlinter.iter_modeling_files(search_paths=[folder]))
    assert files, "the linter looks at file names, and says OK when it finds none that it knows"
    return [found for path in files for found in mlinter.analyze_file(path, path.read_text(encoding="utf-8"))]


def test_the_linter_sees_the_configuration_and_the_models(exported):
    seen = {path.name for path in mlinter.iter_modeling_files(search_paths=[exported])}
    assert {"configuration_trine.py", "modeling_trine.py", "modeling_trine_causal_lm.py"} <= seen
    assert {"modeling_trine_seq2seq.py", "modeling_trine_recurrent.py"} <= seen


@pytest.mark.parametrize("folder", ["exported", "all_as_modeling"])
def test_no_finding_remains(folder, request):
    remaining = [found for found in findings(request.getfixturevalue(folder)) if found.rule_id not in ACCEPTED]
    assert not remaining, "\n".join(map(mlinter.format_violation, remaining))


def test_every_accepted_rule_still_has_findings(all_as_modeling):
    assert ACCEPTED.keys() == {found.rule_id for found in findings(all_as_modeling)}


def test_the_linter_finds_a_planted_fault(tmp_path):
    (tmp_path / "modeling_planted.py").write_text(
        "from torch import nn\nfrom transformers import PreTrainedModel\n\n\n"
        "class PlantedModel(PreTrainedModel):\n"
        "    def __init__(self, config):\n        super().__init__(config)\n        self.layer = nn.Linear(2, 2)\n"
    )
    assert findings(tmp_path)

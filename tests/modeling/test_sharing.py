"""A saved folder loads where the package is not installed, and carries its code and its card."""

import json

import pytest
import torch
import transformers
from huggingface_hub import ModelCard
from huggingface_hub.errors import EntryNotFoundError
from safetensors.torch import load_file, save_file
from support import forks
from support.tiny import GPT2, MIXED, SIZES, SPARSE, output_of, random_ids, tiny_model
from transformers import AutoModel, AutoModelForCausalLM, configuration_utils, modeling_utils
from transformers.utils import hub

from trine import (
    FAMILIES,
    TrineConfig,
    TrineForCausalLM,
    TrineForConditionalGeneration,
    TrineForMaskedLM,
    TrineRecurrentConfig,
    TrineSeq2SeqConfig,
)
from trine.configuration.bundle import files_of


SHARED = {
    "dense": {**MIXED, "position_type": "relative"},
    "sparse": {**SPARSE, "router_type": "sigmoid", "experts": "grouped_mm"},
    "gpt2": GPT2,
    "encoder": {"is_causal": False, **MIXED},
    "masked": {"is_causal": False, "model_class": TrineForMaskedLM, "type_vocab_size": 2, **MIXED},
}
AUTO_CLASSES = {"encoder": "AutoModel", "masked": "AutoModelForMaskedLM", "seq2seq": "AutoModelForSeq2SeqLM"}
# Loads every folder through the Auto classes in a process in which `import trine` fails, saves it once more from
# there, loads that copy too, and goes on from it with another head.
STRANGER = (
    f"""
AUTO_CLASSES = {AUTO_CLASSES}
"""
    + """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "trine":
            raise ImportError("trine is not installed here")

sys.meta_path.insert(0, Blocker())

import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

folder, names = sys.argv[1], sys.argv[2:]
ids = load_file(f"{folder}/ids.safetensors")["ids"]
for name in names:
    auto_class = getattr(transformers, AUTO_CLASSES.get(name, "AutoModelForCausalLM"))
    path = f"{folder}/{name}"
    for step in ("first", "second"):
        config = AutoConfig.from_pretrained(path, trust_remote_code=True)
        assert type(config).__module__.startswith("transformers_modules."), type(config)
        model = auto_class.from_pretrained(path, trust_remote_code=True)
        outputs = model(ids, labels=ids) if name == "seq2seq" else model(ids)
        output = outputs.logits if hasattr(outputs, "logits") else outputs.last_hidden_state
        save_file({"output": output.detach().contiguous()}, f"{folder}/{name}-{step}.safetensors")
        path = f"{folder}/{name}-copy"
        model.save_pretrained(path)
    if name == "seq2seq":
        encoder, path = model.get_encoder(), f"{folder}/encoder-alone"
        encoder.save_pretrained(path)
        again = AutoModel.from_pretrained(path, trust_remote_code=True)
        assert (again(ids).last_hidden_state == encoder(ids).last_hidden_state).all()
    classifier = AutoModelForSequenceClassification.from_pretrained(path, trust_remote_code=True, num_labels=5)
    assert classifier(ids).logits.shape == (2, 5)
    classifier.save_pretrained(f"{folder}/{name}-classifier")
    trunk = AutoModel.from_pretrained(f"{folder}/{name}", trust_remote_code=True)
    if name != "seq2seq":
        assert trunk(ids).last_hidden_state.shape == (2, 9, 32)
assert "trine" not in sys.modules
"""
)


@pytest.mark.slow
def test_a_process_without_the_package_computes_the_same(tmp_path, monkeypatch):
    ids = random_ids(2, 9)
    save_file({"ids": ids}, tmp_path / "ids.safetensors")
    expected = {}
    for name, fields in SHARED.items():
        model = tiny_model(**{"dtype": torch.float32, "experts": "grouped_mm", **fields})
        model.save_pretrained(tmp_path / name)
        expected[name] = output_of(model(ids))
    stack = {**SIZES, "pad_token_id": 0, "bos_token_id": 1}
    config = TrineSeq2SeqConfig(encoder=stack, decoder=stack)
    model = TrineForConditionalGeneration(config).eval()
    model.save_pretrained(tmp_path / "seq2seq")
    expected["seq2seq"] = model(ids, labels=ids).logits
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    result = forks.run(["-c", STRANGER, str(tmp_path), *expected], tmp_path)
    assert result.returncode == 0, result.stderr
    for name, output in expected.items():
        for step in ("first", "second"):
            assert torch.equal(load_file(tmp_path / f"{name}-{step}.safetensors")["output"], output), (name, step)
        kept = [f"{name}-copy", f"{name}-classifier"] if name != "seq2seq" else [f"{name}-copy"]
        for folder in kept:  # whatever part is saved again, all of the code and the whole map come along
            assert code_of(tmp_path / folder) == code_of(tmp_path / name)
            assert map_of(tmp_path / folder) == map_of(tmp_path / name)
    assert map_of(tmp_path / "encoder-alone") == TrineConfig.auto_map_of("trine_seq2seq")
    assert code_of(tmp_path / "encoder-alone") == code_of(tmp_path / "seq2seq")


# Loads several folders in a process in which `import trine` fails, and then trains each.
NEIGHBOURS = """
import sys
sys.modules["trine"] = None
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

folder, *names = sys.argv[1:]
ids = load_file(f"{folder}/ids.safetensors")["ids"]
models = {name: AutoModelForCausalLM.from_pretrained(f"{folder}/{name}", trust_remote_code=True) for name in names}
for name, model in models.items():
    loss = model.train()(ids, labels=ids).loss
    loss.backward()
    save_file({"loss": loss.detach(), "gradient": model.lm_head.weight.grad}, f"{folder}/{name}.safetensors")
"""


@pytest.mark.slow
def test_several_checkpoints_in_one_process(tmp_path, monkeypatch):
    """Each brings its copy of the operators, and an operator that is defined twice is freed under its first users."""
    ids, expected = random_ids(1, 20), {}
    save_file({"ids": ids}, tmp_path / "ids.safetensors")
    for seed, kind in enumerate(("simplicial", "simplicial", "bigbird", "lsh")):
        model, name = tiny_model(dtype=torch.float32, attn="sdpa", seed=seed, attention_types=kind), f"{kind}-{seed}"
        model.save_pretrained(tmp_path / name)
        loss = model.train()(ids, labels=ids).loss
        loss.backward()
        expected[name] = {"loss": loss.detach(), "gradient": model.lm_head.weight.grad}
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    result = forks.run(["-c", NEIGHBOURS, str(tmp_path), *expected], tmp_path)
    assert result.returncode == 0, result.stderr
    for name, tensors in expected.items():
        torch.testing.assert_close(load_file(tmp_path / f"{name}.safetensors"), tensors)


def code_of(folder) -> dict[str, str]:
    return {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.py")}


def map_of(folder) -> dict[str, str]:
    return json.loads((folder / "config.json").read_text())["auto_map"]


def test_a_saved_model_carries_two_files_and_the_whole_map(tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path)
    written = code_of(tmp_path)
    assert written == files_of(model.config) and sorted(written) == ["configuration_trine.py", "modeling_trine.py"]
    assert TrineConfig.from_pretrained(tmp_path).auto_map == TrineConfig.auto_map_of("trine")
    for reference in TrineConfig.auto_map_of("trine").values():
        module, name = reference.split(".")
        assert (f"class {name}(" in written[f"{module}.py"]) == (name not in TrineConfig.hub_roles[False])


def test_without_export_code_there_is_no_code(tmp_path):
    tiny_model(export_code=False).save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*.py"))
    config = TrineConfig.from_pretrained(tmp_path)
    assert config.export_code is False and not getattr(config, "auto_map", None)
    AutoModelForCausalLM.from_pretrained(tmp_path)


def test_every_head_is_in_the_map_and_registered():
    for config, base_model, heads in FAMILIES:
        encodes = {} if config is TrineRecurrentConfig else {"AutoModelForTextEncoding": base_model}
        models = {"AutoModel": base_model, **encodes, **heads}
        assert set(config.hub_auto_map) == set(models)
        for auto_class, model in models.items():
            assert config.hub_auto_map[auto_class] == model.__name__
            assert getattr(transformers, auto_class)._model_mapping[config] is model


def test_installed_classes_are_used_with_and_without_trust(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    for arguments in ({}, {"trust_remote_code": True}):
        assert type(AutoModelForCausalLM.from_pretrained(tmp_path, **arguments)) is TrineForCausalLM


# Cards


def test_the_card_describes_the_model(tmp_path):
    model = tiny_model(mlp_layer_types="dense, sparse", num_hidden_layers=4, attention_types="sliding*3, full")
    model.save_pretrained(tmp_path)
    card = ModelCard.load(tmp_path / "README.md")
    assert (card.data.library_name, card.data.pipeline_tag) == ("transformers", "text-generation")
    assert card.data.tags == ["trine"] and card.data.license == "unknown"
    assert "license: unknown  # say under which licence" in (tmp_path / "README.md").read_text()
    for text in (
        f"{model.num_parameters():,} parameters",
        "3 x sliding, full",
        "8 tokens",
        "4 of width 24, 2 a token",
        "AutoModelForCausalLM.from_pretrained",
        "96 tokens",
        "## Limits",
    ):
        assert text in card.text, text


def test_an_encoder_has_a_card_of_its_own(tmp_path):
    tiny_model(is_causal=False, attention_types="chunked", position_type="learned").save_pretrained(tmp_path)
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.pipeline_tag == "feature-extraction"
    assert "| encoder |" in card.text and "import AutoModel," in card.text
    assert "| attention chunk | 8 tokens |" in card.text and "longer input is an error" in card.text


def test_a_card_that_somebody_wrote_stays(tmp_path):
    (tmp_path / "README.md").write_text("my card")
    tiny_model().save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "my card"


def test_only_the_main_process_writes_a_card(tmp_path):
    tiny_model().save_pretrained(tmp_path, is_main_process=False)
    assert not (tmp_path / "README.md").exists()


class FakeHub:
    """Stands in for the Hub's client: keeps what would be uploaded."""

    def __init__(self):
        self.files = {}

    def create_repo(self, repo_id, **kwargs):
        return type("Repository", (), {"repo_id": repo_id})

    def create_commit(self, repo_id, operations, **kwargs):
        for operation in operations:
            with operation.as_file() as file:
                self.files[operation.path_in_repo] = file.read()


@pytest.fixture
def fake_hub(monkeypatch) -> FakeHub:
    fake = FakeHub()
    for module in (hub, modeling_utils, configuration_utils):
        monkeypatch.setattr(module, "hf_api", lambda: fake)

    def absent(*args, **kwargs):
        raise EntryNotFoundError("no card yet")

    monkeypatch.setattr(ModelCard, "load", absent)
    return fake


@pytest.mark.parametrize("way", ["push_to_hub", "save_pretrained"])
def test_pushing_sends_weights_code_and_our_card(way, fake_hub, tmp_path):
    model = tiny_model(dtype=torch.float32)
    if way == "push_to_hub":
        model.push_to_hub("someone/model")
    else:
        model.save_pretrained(tmp_path / "folder", push_to_hub=True, repo_id="someone/model")
    code = {name: text.encode() for name, text in files_of(model.config).items()}
    assert {name: data for name, data in fake_hub.files.items() if name.endswith(".py")} == code
    assert {"model.safetensors", "config.json"} <= fake_hub.files.keys()
    assert fake_hub.files["README.md"].decode() == model.render_card()


def test_pushing_keeps_a_card_that_is_on_the_hub(fake_hub, monkeypatch):
    monkeypatch.setattr(ModelCard, "load", lambda *args, **kwargs: ModelCard("---\nlicense: mit\n---\nmy card\n"))
    tiny_model().push_to_hub("someone/model")
    assert "my card" in fake_hub.files["README.md"].decode()


def test_a_trunk_is_a_model_of_its_own(tmp_path):
    tiny_model(is_causal=False).save_pretrained(tmp_path)
    assert AutoModel.from_pretrained(tmp_path).config.architectures == ["TrineModel"]

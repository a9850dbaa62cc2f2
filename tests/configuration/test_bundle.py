"""The two files of code in a checkpoint: what they hold, and that they serve whoever has nothing else."""

import json
import re
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import bundles, forks
from support.tiny import random_ids, tiny_config, tiny_model
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.dynamic_module_utils import get_class_from_dynamic_module

from trine import FAMILIES, TrineConfig, TrineForCausalLM
from trine.configuration.bundle import files_of, pack
from trine.configuration.choices import Choices
from trine.modeling.attention.table import ATTENTIONS


LONGEST_PLAIN_DECODER = 2500


def text_of(config) -> str:
    return "".join(files_of(config).values())


@pytest.mark.parametrize("fields", [{}, {"hidden_size": 64, "qk_norm": True, "num_key_value_heads": 2}])
def test_a_plain_decoder_needs_few_lines_and_nothing_of_other_mechanisms(fields):
    config = TrineConfig(**fields)
    assert sum(len(text.splitlines()) for text in files_of(config).values()) <= LONGEST_PLAIN_DECODER
    text = text_of(config)
    assert "class TrineForCausalLM(" in text and "class TrineForSequenceClassification(" in text
    for other in ("triton", "BigBird", "LSHAttention", "SparseMLP", "Performer", "CARD", "class CrossAttention"):
        assert other not in text, other


@pytest.mark.parametrize("kind", bundles.KINDS)
def test_a_file_holds_the_classes_of_its_kinds_only(kind):
    text = text_of(tiny_config(attention_types=kind))
    classes = {name: cls.__name__ for name, cls in ATTENTIONS.items()}
    assert {name for name, cls in classes.items() if f"class {cls}(" in text} == {kind}


def test_what_only_the_package_needs_of_a_kind_stays_there():
    text = text_of(tiny_config(**bundles.EVERYTHING))
    assert "class AttentionKind(" in text and "class About" not in text
    assert not [word for word in ("about=", "source=", "_pairs", "_products", 'arXiv 2009.14794"') if word in text]


@pytest.mark.parametrize(("backend", "expected"), [("auto", True), ("chunked", False), ("eager", False)])
def test_triton_goes_only_where_it_may_be_chosen(backend, expected):
    config = tiny_config(attention_types="simplicial", simplicial_backend=backend)
    assert ("import triton" in text_of(config)) == expected


def test_each_module_stands_under_its_path_once_and_after_what_it_imports():
    for config in (make() for make in bundles.CONFIGS.values()):
        for text in files_of(config).values():
            headings = re.findall(r"^# --- (.*) ---$", text, re.MULTILINE)
            assert headings and len(headings) == len(set(headings))
            defined = re.findall(r"^(?:class|def) (\w+)", text, re.MULTILINE)
            assert len([name for name in defined if name != "_"]) == len({*defined} - {"_"})


def test_names_that_two_modules_share_are_told_apart(tmp_path, monkeypatch):
    """Modules may have equal names in different folders, and so may what they define."""
    package = tmp_path / "package_twins"
    for place in (package, package / "a", package / "b"):
        place.mkdir()
        (place / "__init__.py").write_text("")
    (package / "entry.py").write_text("x = 1\n")
    for place, value in (("a", 2), ("b", 3)):
        source = f"from os.path import {'join' if place == 'a' else 'split'} as tool\n\n\ndef value(x=tool):\n"
        source += f"    return [value for value in [{value}]]\n\n\ndef {place}():\n    return value(), tool\n"
        (package / place / "table.py").write_text(source)
    (package / "model.py").write_text(
        "from .a.table import a\nfrom .b.table import b\n\n\nclass Model:\n    found = a(), b()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    files = pack(("package_twins.entry", "package_twins.model"), ("Model",), (), "twins", ())
    places: dict = {}
    exec(files["modeling_twins.py"].replace("from .configuration_twins import ", ""), places)
    (first, join), (second, split) = places["Model"].found
    assert (first, second) == ([2], [3]) and (join.__name__, split.__name__) == ("join", "split")


TABLES = """
def first(config):
    return "first"


def second(config):
    return "second"


CHECKS = in_package((first,))
RULES = Choices("kind", {"a": first})
OTHER_RULES = Choices("kind", {"b": second})
BASES = Choices("kind", {"a": dict})
OTHER_BASES = Choices("kind", {"b": list})
NOTES = Choices("kind", {"a": ("known", 1)})
OTHER_NOTES = Choices("kind", {"b": ("lost", 2)})


class Model(*OTHER_BASES.values(), *BASES.values()):  # one or none
    notes = {
        **dict(NOTES.values()),
        **dict(OTHER_NOTES.values()),
    }

    def answer(self, config):
        done = []
        # Not in a checkpoint.
        for check in CHECKS:
            done.append(check)
        for kind, rule in RULES.items():
            done.append((kind, rule(config)))
        for rule in OTHER_RULES.values():
            done.append(rule(config))
        return done


class Plain(*OTHER_BASES.values()):  # one or none
    pass
"""


def test_what_goes_through_an_empty_table_is_left_out(tmp_path, monkeypatch):
    package = tmp_path / "package_tables"
    package.mkdir()
    for name, text in {"__init__": "", "entry": "x = 1\n", "model": TABLES}.items():
        (package / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    chosen = (("kind", frozenset({"a"})),)
    files = pack(("package_tables.entry", "package_tables.model"), ("Model", "Plain"), (), "tables", chosen)
    text = files["modeling_tables.py"]
    assert not [word for word in ("OTHER", "CHECKS", "second", "Not in", "one or none") if word in text]
    assert "class Model(*BASES.values()):\n" in text and "class Plain:\n" in text
    places: dict = {"Choices": Choices}
    exec(text.replace("from .configuration_tables import ", ""), places)
    assert places["Model"]().answer(None) == [("a", "first")] and places["Model"].notes == {"known": 1}
    assert places["Model"].__bases__ == (dict,)


def test_packing_twice_is_the_same_object():
    assert files_of(tiny_config()) is files_of(tiny_config(hidden_size=64))


# Without the package

STRANGER = """
import json, sys
sys.modules["trine"] = None
import transformers
from pathlib import Path
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel

folder, jobs, TWICE = Path(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3:]
for name, (auto_class, is_decoded) in jobs.items():
    inputs = load_file(folder / f"{name}-inputs.safetensors")
    path = folder / name
    for step in range(2 if name in TWICE else 1):
        model = getattr(transformers, auto_class).from_pretrained(path, trust_remote_code=True)
        assert type(model).__module__.startswith("transformers_modules.")
        outputs = model(**inputs)
        keys = ("logits", "start_logits", "prediction_logits", "seq_relationship_logits", "last_hidden_state")
        tensor = next(outputs[key] for key in keys if key in outputs)
        save_file({"output": tensor.detach().contiguous()}, folder / f"{name}-{step}.safetensors")
        path = folder / f"{name}-copy{step}"
        model.save_pretrained(path)
    if is_decoded:
        encoder, path = model.get_encoder(), folder / f"{name}-encoder"
        encoder.save_pretrained(path)
        again = AutoModel.from_pretrained(path, trust_remote_code=True)
        ids = inputs["input_ids"]
        assert (again(ids).last_hidden_state == encoder(ids).last_hidden_state).all()
    AutoConfig.from_pretrained(folder / name, trust_remote_code=True).save_pretrained(folder / f"{name}-config")
"""


# A copy has the same code and the same map, so that what holds for it holds for a copy of it: a few show that.
TWICE = ["head TrineForCausalLM", "head TrineForConditionalGeneration", "head TrineRecurrentForConditionalGeneration"]


def code_of(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.py")}


def run_stranger(folder, monkeypatch, script: str, *arguments: str) -> str:
    monkeypatch.setenv("HF_MODULES_CACHE", str(folder / "modules"))
    result = forks.run(["-c", script, str(folder), *arguments], folder)
    assert result.returncode == 0, result.stderr
    return result.stdout


def every_head() -> dict[str, tuple]:
    """Name to config, model class, Auto class and inputs."""
    cases = {
        f"kind {kind}": (tiny_config(attention_types=kind), TrineForCausalLM, "AutoModelForCausalLM")
        for kind in bundles.KINDS
    }
    for family, base, heads in FAMILIES:
        for auto_class, head in {"AutoModel": base, **heads}.items():
            config = bundles.HEAD_CONFIGS[family]()
            if head is TrineForCausalLM:
                config = tiny_config()
            cases[f"head {head.__name__}"] = (config, head, auto_class)
    return cases


@pytest.mark.slow
@torch.no_grad()
def test_every_kind_and_head_is_bit_equal_without_the_package(tmp_path, monkeypatch):
    expected, jobs = {}, {}
    for name, (config, head, auto_class) in every_head().items():
        torch.manual_seed(0)
        head(config).save_pretrained(tmp_path / name)
        model = head.from_pretrained(tmp_path / name).eval()
        ids = random_ids(2, 9, vocab_size=40)
        inputs = {"input_ids": ids[:, None].repeat(1, 2, 1) if auto_class == "AutoModelForMultipleChoice" else ids}
        is_decoded = bool(config.is_encoder_decoder)
        if is_decoded and auto_class in ("AutoModel", "AutoModelForSeq2SeqLM"):
            inputs["decoder_input_ids"] = ids.clone()
        save_file({key: value.contiguous() for key, value in inputs.items()}, tmp_path / f"{name}-inputs.safetensors")
        outputs = model(**inputs)
        keys = ("logits", "start_logits", "prediction_logits", "seq_relationship_logits", "last_hidden_state")
        expected[name] = next(outputs[key] for key in keys if key in outputs)
        jobs[name] = (auto_class, is_decoded and config.model_type == "trine_seq2seq")
    run_stranger(tmp_path, monkeypatch, STRANGER, json.dumps(jobs), *TWICE)
    for name, output in expected.items():
        rounds = range(2 if name in TWICE else 1)
        for step in rounds:
            computed = load_file(tmp_path / f"{name}-{step}.safetensors")["output"]
            if "Recurrent" in name:  # the last bit of an LSTM depends on how the weights are aligned in memory
                torch.testing.assert_close(computed, output, rtol=0, atol=1e-7)
            else:
                assert torch.equal(computed, output), (name, step)
        written = json.loads((tmp_path / name / "config.json").read_text())["auto_map"]
        for other in (*(f"copy{step}" for step in rounds), "config"):
            assert code_of(tmp_path / f"{name}-{other}") == code_of(tmp_path / name), (name, other)
            assert json.loads((tmp_path / f"{name}-{other}" / "config.json").read_text())["auto_map"] == written
        if jobs[name][1]:
            assert code_of(tmp_path / f"{name}-encoder") == code_of(tmp_path / name)


SIDE_BY_SIDE = """
import sys
sys.modules["trine"] = None
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

folder, names = sys.argv[1], sys.argv[2].split(",")
ids = load_file(f"{folder}/ids.safetensors")["ids"]
models = {name: AutoModelForCausalLM.from_pretrained(f"{folder}/{name}", trust_remote_code=True) for name in names}
assert len({type(model) for model in models.values()}) == len(names)
for name, model in models.items():  # each after all are loaded, with caches of its own
    tokens = model.generate(ids, max_new_tokens=6, min_new_tokens=6, do_sample=False)
    save_file({"tokens": tokens}, f"{folder}/{name}-tokens.safetensors")
"""


@pytest.mark.slow
def test_checkpoints_with_different_code_load_side_by_side(tmp_path, monkeypatch):
    kinds = {"plain": "full", "lsh": "lsh", "both": "lsh, simplicial", "mixed": "bigbird, linear"}
    ids = random_ids(2, 9)
    save_file({"ids": ids}, tmp_path / "ids.safetensors")
    expected = {}
    for name, kind in kinds.items():
        tiny_model(dtype=torch.float32, attention_types=kind, pad_token_id=0).save_pretrained(tmp_path / name)
        model = TrineForCausalLM.from_pretrained(tmp_path / name)
        expected[name] = model.generate(ids, max_new_tokens=6, min_new_tokens=6, do_sample=False)
    run_stranger(tmp_path, monkeypatch, SIDE_BY_SIDE, ",".join(kinds))
    for name, tokens in expected.items():
        assert torch.equal(load_file(tmp_path / f"{name}-tokens.safetensors")["tokens"], tokens), name


# Beside the package


@pytest.fixture
def carried(tmp_path):
    """The config class, and the causal class, of a plain decoder's own code."""
    tiny_model(dtype=torch.float32).save_pretrained(tmp_path)
    config = get_class_from_dynamic_module("configuration_trine.TrineConfig", str(tmp_path))
    return tmp_path, config, get_class_from_dynamic_module("modeling_trine.TrineForCausalLM", str(tmp_path))


def test_another_kind_than_the_code_holds_says_where_to_get_it(carried):
    folder, config, _ = carried
    assert config is not TrineConfig
    for fields, name in (
        ({"attention_types": "simplicial"}, "attention_types[0]='simplicial'"),
        ({"attention_types": ["full", "lsh"]}, "attention_types[1]='lsh'"),
        ({"mlp_layer_types": "sparse"}, "mlp_layer_types[0]='sparse'"),
    ):
        with pytest.raises(ValueError, match=re.escape(name) + ".*pip install trine"):
            config.from_pretrained(folder, **fields)


def test_so_does_a_choice_that_the_model_reads(carried):
    folder, config, model = carried
    for fields, message in (
        ({"position_type": "learned"}, "position_type='learned' is not one of ['rope']"),
        ({"norm_type": "layernorm"}, "norm_type='layernorm' is not one of ['rmsnorm']"),
        ({"gated_mlp": False}, "gated_mlp=False is not one of [True]"),
    ):
        with pytest.raises(ValueError, match=re.escape(message) + ".*pip install trine"):
            model(config.from_pretrained(folder, **fields))


def test_an_encoder_decoder_without_the_default_kinds_is_printed_and_saved(tmp_path):
    """transformers compares its stacks with default ones, whose kinds no layer of it has."""
    written = bundles.seq2seq(attention_types="sliding", mlp_layer_types="sparse")
    written.save_pretrained(tmp_path / "first")
    remote = get_class_from_dynamic_module("configuration_trine_seq2seq.TrineSeq2SeqConfig", str(tmp_path / "first"))
    config = remote.from_pretrained(tmp_path / "first")
    assert remote is not type(written) and '"sparse"' in str(config)
    config.save_pretrained(tmp_path / "second")
    assert type(written).from_pretrained(tmp_path / "second").to_dict() == written.to_dict()


def test_a_typing_error_is_still_called_one(carried):
    folder, config, _ = carried
    with pytest.raises(ValueError, match="Did you mean 'full'") as caught:
        config.from_pretrained(folder, attention_types="fll")
    assert "pip install" not in str(caught.value)


def test_a_head_that_does_not_fit_says_so(carried):
    folder, _, _ = carried
    with pytest.raises(AttributeError, match="no TrineForMaskedLM. It does not fit is_causal.*pip install trine"):
        get_class_from_dynamic_module("modeling_trine.TrineForMaskedLM", str(folder))


def test_presets_are_of_the_package(carried, monkeypatch):
    _, config, _ = carried
    fields = {"attention_types": "full", "num_hidden_layers": 2}
    assert config.from_preset("tiny", **fields).hidden_size == TrineConfig.from_preset("tiny").hidden_size
    monkeypatch.setitem(sys.modules, "trine.configuration.presets", None)
    with pytest.raises(ImportError, match="trine.configuration.presets is not among.*pip install trine"):
        config.from_preset("tiny")


def test_the_code_of_a_checkpoint_computes_the_same_beside_the_package(carried):
    folder, config, model = carried
    ids = random_ids(2, 7)
    remote = model.from_pretrained(folder, config=config.from_pretrained(folder))
    assert torch.equal(remote(ids).logits, AutoModelForCausalLM.from_pretrained(folder)(ids).logits)
    assert type(AutoConfig.from_pretrained(folder)) is TrineConfig

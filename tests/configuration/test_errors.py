"""Every error of the configuration names the field, its value and what is allowed."""

import re
from pathlib import Path

import pytest
from support.messages import unseen
from support.own_kinds import cold_layers
from support.plugin_errors import REFUSED, other_messages, refused
from support.recurrent_errors import CONFIG_ERRORS
from support.value_errors import VALUE_ERRORS

from trine import TrineConfig, TrineSeq2SeqConfig
from trine.configuration.bundle import pack
from trine.configuration.choices import from_package
from trine.configuration.kinds import ATTENTION_KINDS
from trine.configuration.validation import NOT_NEGATIVE, POSITIVE_INTEGERS, POSITIVE_NUMBERS, PROBABILITIES


LAYER_TYPES = sorted({kind.layer_type for kind in ATTENTION_KINDS.values()})
FIELDS = {
    **{f"{field}=0": ({field: 0}, f"{field}=0 must be at least 1.") for field in POSITIVE_INTEGERS},
    "window=0": ({"sliding_window": 0}, "sliding_window=0 must be at least 1."),
    **{f"{field}=-1": ({field: -1}, f"{field}=-1 must not be negative.") for field in NOT_NEGATIVE},
    **{f"{field}=0": ({field: 0}, f"{field}=0 must be above 0.") for field in POSITIVE_NUMBERS},
    **{f"{field}=1": ({field: 1.0}, f"{field}=1.0 must be at least 0 and below 1.") for field in PROBABILITIES},
    **{f"{field}=-1": ({field: -0.1}, f"{field}=-0.1 must be at least 0 and below 1.") for field in PROBABILITIES},
    "chunk": ({"loss_chunk_size": 0}, "loss_chunk_size=0 must be at least 1, or None for ordinary logits."),
    "misspelt": ({"hidden_sise": 64}, "TrineConfig has no field 'hidden_sise'. Did you mean 'hidden_size'?"),
    "unheard of": ({"colour": 1}, "TrineConfig has no field 'colour'."),
    "pooler": (
        {"add_pooling_layer": True},
        "add_pooling_layer=True reads the first token, which sees no other in a decoder (is_causal=True).",
    ),
    "pooling": (
        {"classifier_pooling": "max"},
        "classifier_pooling='max' is not one of ['cls', 'mean', 'last'].",
    ),
    "bert's name": (
        {"hidden_dropout_prob": 0.1},
        "TrineConfig has no field 'hidden_dropout_prob'. Did you mean 'hidden_dropout'?",
    ),
    "pair dropout": (
        {"num_hidden_layers": 2, "attention_types": "full, simplicial", "attention_dropout": 0.1},
        "attention_dropout=0.1 drops the weights of pairs of tokens, but attention_types[1]='simplicial' offers none. "
        "Set it to 0; hidden_dropout acts on every layer.",
    ),
    "attention scale": ({"attention_scale": 0}, "attention_scale=0 must be above 0, or None for 1 / sqrt(head_dim)."),
    "pair scale": (
        {"attention_types": "simplicial", "attention_scale": 1.0},
        "attention_scale=1.0 is a factor on the scores of pairs of tokens, but attention_types[0]='simplicial' does "
        "not read it. Set it to None.",
    ),
    "pair bias": (
        {"attention_types": "simplicial", "position_type": "relative"},
        "position_type='relative' adds a bias to the scores of pairs of tokens, but attention_types[0]='simplicial' "
        "takes none. Use one of ['sinusoidal', 'learned', 'rope', 'none'].",
    ),
    "form": (
        {"attention_types": "simplicial", "simplicial_form": "det"},
        "simplicial_form='det' is not one of ['hadamard', 'complex', 'determinant'].",
    ),
    "triples": (
        {"attention_types": "simplicial", "simplicial_form": "determinant", "position_type": "none"},
        "head_dim=64 is not a multiple of 3, the features that simplicial_form='determinant' takes together.",
    ),
    "warm determinant": (
        {
            "attention_types": "simplicial",
            "simplicial_form": "determinant",
            "position_type": "none",
            "head_dim": 48,
            "simplicial_warm_start": True,
        },
        "simplicial_warm_start=True needs a form that can be a dot product, one of ['hadamard', 'complex'], "
        "but simplicial_form='determinant'.",
    ),
    "rotated product": (
        {"attention_types": "simplicial", "simplicial_form": "hadamard"},
        "simplicial_form='hadamard' with position_type='rope' depends on absolute positions: the rotations do not "
        "cancel in its product of three. Use simplicial_form='complex' or 'determinant', another position_type, or "
        "require_shift_invariance=False to have it all the same.",
    ),
    "partly rotated": (
        {"attention_types": "simplicial", "simplicial_form": "determinant", "head_dim": 48},
        "simplicial_form='determinant' reads relative positions only if the rotation turns 0.6667 of a head, but "
        "rope_parameters['partial_rotary_factor']=1.0. Set rope_parameters={'rope_theta': 10000.0, "
        "'partial_rotary_factor': 0.6666666666666666}, or require_shift_invariance=False to have it all the same.",
    ),
    "library's own": (
        {"layer_types": ["full_attention"] * 8},
        "TrineConfig has no field 'layer_types'. Did you mean 'attention_types'?",
    ),
    "even window": (
        {"attention_types": "bigbird", "is_causal": False, "bigbird_num_window_blocks": 4},
        "bigbird_num_window_blocks=4 must be odd in an encoder, whose window is centred.",
    ),
    "odd buckets": (
        {"attention_types": "full, lsh", "lsh_num_buckets": 7},
        "lsh_num_buckets=7 must be even: a hash is the nearest of random directions and their opposites.",
    ),
    "feature map": (
        {"linear_feature_map": "exp"},
        "linear_feature_map='exp' is not one of ['elu', 'relu', 'softmax', 'dpfp'].",
    ),
    "no features": ({"performer_num_features": 0}, "performer_num_features=0 must be at least 1."),
    "no chunk": ({"lsh_chunk_length": 0}, "lsh_chunk_length=0 must be at least 1."),
    "redraws": ({"performer_redraw_interval": -1}, "performer_redraw_interval=-1 must not be negative."),
    "kind": (
        {"num_hidden_layers": 4, "attention_types": ["full", "full", "full", "slidin"]},
        f"attention_types[3]='slidin' is not one of {list(ATTENTION_KINDS)}. Did you mean 'sliding'?",
    ),
    "kind in a pattern": (
        {"attention_types": "sliding*3, ful"},
        f"attention_types[3]='ful' is not one of {list(ATTENTION_KINDS)}. Did you mean 'full'?",
    ),
    "kind far from all": (
        {"mlp_layer_types": "moe"},
        "mlp_layer_types[0]='moe' is not one of ['dense', 'sparse']. A mechanism of somebody's own needs its file "
        "first: trine.load_plugin(FILE), with commands --plugin FILE. For that beside a checkpoint's weights, if you "
        "trust it, FILE is the checkpoint.",
    ),
    "pattern": (
        {"attention_types": "sliding x 3"},
        "attention_types='sliding x 3' has the part 'sliding x 3'; write 'name' or 'name*count'.",
    ),
    "no times": (
        {"attention_types": "full, sliding*0"},
        "attention_types='full, sliding*0' has the part ' sliding*0'; write 'name' or 'name*count'.",
    ),
    "nothing": ({"attention_types": ""}, "attention_types='' has the part ''; write 'name' or 'name*count'."),
    "short list": ({"attention_types": ["full"]}, "attention_types has 1 entries, but num_hidden_layers=8."),
    "no list": ({"mlp_layer_types": []}, "mlp_layer_types has 0 entries, but num_hidden_layers=8."),
    "position": (
        {"position_type": "rotary"},
        "position_type='rotary' is not one of ['sinusoidal', 'learned', 'rope', 'relative', 'none'].",
    ),
    "norm": ({"norm_type": "rms"}, "norm_type='rms' is not one of ['rmsnorm', 'layernorm']. Did you mean 'rmsnorm'?"),
    "norm place": ({"norm_position": "mid"}, "norm_position='mid' is not one of ['pre', 'post']."),
    "initializer": (
        {"initializer": "xavier_uniform"},
        "initializer='xavier_uniform' is not one of ['normal', 'xavier', 'kaiming']. Did you mean 'xavier'?",
    ),
    "router": (
        {"router_type": "Softmax"},
        "router_type='Softmax' is not one of ['softmax', 'sigmoid']. Did you mean 'softmax'?",
    ),
    "num_attention_heads=0": (
        {"num_attention_heads": 0},
        "hidden_size=512 is not a multiple of num_attention_heads=0; change one of them, or set head_dim.",
    ),
    "heads": (
        {"num_attention_heads": 7},
        "hidden_size=512 is not a multiple of num_attention_heads=7; change one of them, or set head_dim.",
    ),
    "groups": ({"num_key_value_heads": 3}, "num_attention_heads=8 is not a multiple of num_key_value_heads=3."),
    "more groups": ({"num_key_value_heads": 16}, "num_attention_heads=8 is not a multiple of num_key_value_heads=16."),
    "odd head": ({"head_dim": 5}, "head_dim=5 must be even for position_type='rope', which rotates pairs."),
    "odd width": (
        {"hidden_size": 33, "num_attention_heads": 1, "position_type": "sinusoidal"},
        "hidden_size=33 must be even for position_type='sinusoidal'.",
    ),
    "rope elsewhere": (
        {"position_type": "learned", "rope_parameters": {"rope_type": "default", "rope_theta": 5.0}},
        "rope_parameters={'rope_type': 'default', 'rope_theta': 5.0} is read by position_type='rope' only, "
        "but position_type='learned'.",
    ),
    "layered rope": (
        {"num_hidden_layers": 2, "attention_types": "full, sliding", "rope_parameters": {"full_attention": {}}},
        "rope_parameters has the keys ['full_attention'], but with parameters for each layer type it needs those of "
        f"the model, ['full_attention', 'sliding_attention'], and may have others of {LAYER_TYPES} only.",
    ),
    "rope of our kinds": (
        {"rope_parameters": {"full": {"rope_theta": 5.0}}},
        "rope_parameters has the keys ['full', 'rope_theta', 'rope_type'], but with parameters for each layer type "
        f"it needs those of the model, ['full_attention'], and may have others of {LAYER_TYPES} only.",
    ),
    "norm bias": (
        {"norm_bias": False},
        "norm_bias=False is read by norm_type='layernorm' only, but norm_type='rmsnorm' never has a bias. "
        "Leave norm_bias=True.",
    ),
    "first norm": (
        {"first_attention_norm": False, "norm_position": "post"},
        "first_attention_norm=False leaves a norm before attention out, which norm_position='pre' has, but "
        "norm_position='post'.",
    ),
    "buckets": (
        {"relative_attention_num_buckets": 7},
        "relative_attention_num_buckets=7 must be a positive multiple of 2.",
    ),
    "encoder buckets": (
        {"relative_attention_num_buckets": 6, "is_causal": False},
        "relative_attention_num_buckets=6 must be a positive multiple of 4.",
    ),
    "near": (
        {"relative_attention_max_distance": 16},
        "relative_attention_max_distance=16 must be above 16, the number of distances that have a bucket of their own "
        "with relative_attention_num_buckets=32.",
    ),
    "experts": (
        {"mlp_layer_types": "sparse", "num_experts_per_tok": 9},
        "num_experts_per_tok=9 must be at least 1, and at most num_experts=8.",
    ),
    "pad": ({"pad_token_id": 32000}, "pad_token_id=32000 must lie in the vocabulary, 0 to 31999."),
    "eos": ({"eos_token_id": [2, -1]}, "eos_token_id=[2, -1] must lie in the vocabulary, 0 to 31999."),
}


# What a finished config is given afterwards; a model checks its config again.
CHANGES = {
    "no experts": (
        {"num_hidden_layers": 2},
        {"mlp_layer_types": ["dense", "sparse"]},
        "num_experts=None, but mlp_layer_types=['dense', 'sparse'] has sparse layers: set it.",
    ),
    "no window": (
        {"num_hidden_layers": 2},
        {"attention_types": ["full", "sliding"]},
        "sliding_window=None, but attention_types=['full', 'sliding'] has sliding layers: set it.",
    ),
    "layer types": (
        {"num_hidden_layers": 2},
        {"layer_types": ["sliding_attention"] * 2},
        "layer_types=['sliding_attention', 'sliding_attention'] follows from attention_types=['full', 'full']: set "
        "attention_types.",
    ),
}


@pytest.mark.parametrize("case", CHANGES)
def test_a_bad_change_is_named(case):
    fields, changes, message = CHANGES[case]
    config = TrineConfig(**fields)
    with pytest.raises(ValueError) as caught:
        for name, value in changes.items():
            setattr(config, name, value)
        config.check()
    assert str(caught.value) == message


@pytest.mark.parametrize("case", FIELDS)
def test_a_bad_field_is_named(case):
    fields, message = FIELDS[case]
    with pytest.raises(ValueError) as caught:
        TrineConfig(**fields)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"hidden_size": "512"}, "hidden_size"),
        ({"num_hidden_layers": 2.5}, "num_hidden_layers"),
        ({"is_causal": "yes"}, "is_causal"),
        ({"attention_types": {"full": 8}}, "attention_types"),
        ({"norm_eps": None}, "norm_eps"),
    ],
)
def test_a_value_of_the_wrong_type_is_named(fields, name):
    with pytest.raises(Exception, match=name):
        TrineConfig(**fields)


def test_an_unknown_preset_is_named():
    with pytest.raises(ValueError, match=r"preset='llama' is not one of \['tiny', 'gpt2', 'llama-like', .*llama-like"):
        TrineConfig.from_preset("llama")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("sliding_window", 0, "sliding_window=0 must be at least 1."),
        ("num_hidden_layers", 9, "attention_types has 8 entries, but num_hidden_layers=9."),
        ("attention_types", ["full"] * 7 + ["hash"], "attention_types[7]='hash' is not one of"),
    ],
)
def test_a_change_is_checked_before_saving(field, value, message, tmp_path):
    config = TrineConfig()
    setattr(config, field, value)
    for check in (config.check, config.validate_architecture, lambda: config.save_pretrained(tmp_path)):
        with pytest.raises(Exception) as caught:
            check()
        chain = [str(caught.value), str(caught.value.__cause__)]
        assert any(text.startswith(message) for text in chain), chain


# The flattener refuses what it cannot rewrite.

SEQ2SEQ_FIELDS = {
    "unshared sizes": (
        {"encoder": {"hidden_size": 64}},
        "share_embeddings=True needs equal sizes, but encoder.hidden_size=64 and decoder.hidden_size=512.",
    ),
    "unshared vocabularies": (
        {"encoder": {"vocab_size": 64}},
        "share_embeddings=True needs equal sizes, but encoder.vocab_size=64 and decoder.vocab_size=32000.",
    ),
    "logit scale": ({"logit_scale": 0.0}, "logit_scale=0.0 must be above 0."),
    "vocabulary": (
        {"vocab_size": 9, "decoder": {"vocab_size": 32000}},
        "vocab_size=9 is the decoder's, but decoder.vocab_size=32000.",
    ),
    "start": (
        {"decoder_start_token_id": 32000},
        "decoder_start_token_id=32000 must lie in the vocabulary, 0 to 31999.",
    ),
    "inside": ({"decoder": {"num_hidden_layers": 0}}, "num_hidden_layers=0 must be at least 1."),
    "misspelt": (
        {"share_embedings": True},
        "TrineSeq2SeqConfig has no field 'share_embedings'. Did you mean 'share_embeddings'?",
    ),
    "misspelt inside": (
        {"encoder": {"hidden_sise": 64}},
        "TrineConfig has no field 'hidden_sise'. Did you mean 'hidden_size'?",
    ),
}


@pytest.mark.parametrize("name", SEQ2SEQ_FIELDS)
def test_what_two_stacks_need_of_each_other_is_named(name):
    fields, message = SEQ2SEQ_FIELDS[name]
    with pytest.raises(ValueError, match=re.escape(message)):
        TrineSeq2SeqConfig(**fields)


def test_an_unknown_preset_of_two_stacks_lists_the_known():
    with pytest.raises(ValueError, match=r"preset='t5' is not one of \['tiny', 'transformer-base', 't5-like'\]"):
        TrineSeq2SeqConfig.from_preset("t5")


SOURCES = {
    "package": ("from . import leaf\n", "{module}, line 1: write `from .module import name`."),
    "folder": ("from .a import x\n", "{module_name}.a is not a module with a file of its own."),
    "absent": ("from .nowhere import x\n", "{module_name}.nowhere is not a module with a file of its own."),
    "dotted": ("import os.path\n", "{module}, line 1: write `from package import module`."),
    "spread": (
        'from trine.configuration.choices import Choices\n\n\nKINDS = Choices("kind", {**{}})\n',
        "{module}, line 4: a table of choices is written out, row by row.",
    ),
}


def pack_source(name: str, folder: Path, monkeypatch) -> tuple[str, str]:
    """Pack a package of the given source; return the message of the error, and the expected one."""
    source, expected = SOURCES[name]
    package = folder / f"package_{name}"
    for place in (package, package / "a", package / "b"):
        place.mkdir()
        (place / "__init__.py").write_text("")
    (package / "entry.py").write_text(source)
    (package / "leaf.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(folder)
    with pytest.raises(ValueError) as caught:
        pack((f"{package.name}.entry",), ("x",), (), "trine", ())
    return str(caught.value), expected.format(module=f"{package.name}.entry", module_name=package.name)


@pytest.mark.parametrize("name", SOURCES)
def test_the_packer_names_what_it_cannot_pack(name, tmp_path, monkeypatch):
    message, expected = pack_source(name, tmp_path, monkeypatch)
    assert message.startswith(expected)


def late_errors(folder: Path) -> list[str]:
    """What is refused where it is not the constructor that refuses."""
    config = TrineConfig(export_code=False)
    config.save_pretrained(folder)
    with pytest.raises(ValueError) as too_many:
        TrineConfig.from_pretrained(folder, num_hidden_layers=9)
    with pytest.raises(ValueError) as other_class:
        TrineConfig.from_preset("t5-like")
    config.attention_types = "full"
    with pytest.raises(ValueError) as too_late:
        config.check()
    with pytest.raises(ImportError) as not_installed:
        from_package("trine.nowhere")
    return [str(caught.value) for caught in (too_many, other_class, too_late, not_installed)]


def message_of(family: type, fields: dict) -> str:
    with pytest.raises(ValueError) as caught:
        family(**fields)
    return str(caught.value)


def test_every_error_of_the_configuration_is_tested(tmp_path, monkeypatch):
    messages = [pack_source(name, tmp_path, monkeypatch)[0] for name in SOURCES]
    tables = (FIELDS, SEQ2SEQ_FIELDS, CONFIG_ERRORS)
    messages += [message for table in tables for _, message in table.values()]
    messages += [message for _, _, message in CHANGES.values()]
    messages += [message_of(family, fields) for family, fields, _ in VALUE_ERRORS.values()]
    messages += late_errors(tmp_path)
    messages += [refused(name) for name in REFUSED] + [cold_layers()]
    messages += [message for message, _ in other_messages(tmp_path).values()]
    parts = ("configuration_trine_dual", "configuration_trine_image_text", "nested_configs")  # with their models
    elsewhere = tuple(f"configuration/{part}" for part in parts)
    assert [place for place in unseen("configuration", messages) if not place.startswith(elsewhere)] == []

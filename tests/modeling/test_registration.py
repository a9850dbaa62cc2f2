"""Mechanisms of somebody's own: registered by name, with fields of their own, and taken along by a checkpoint."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support import remote_process
from support.plugin_errors import REFUSED, Plain, Scan, other_messages, refused
from support.plugins import tables_restored, write_sigmoid
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM
from transformers.utils import logging

from trine import (
    KindField,
    PairwiseAttention,
    PositionEncoding,
    StateAttention,
    StatesCacheLayer,
    TrineConfig,
    TrineForCausalLM,
    TrineForConditionalGeneration,
    TrineForMaskedLM,
    TrineRouter,
    TrineSeq2SeqConfig,
    Visibility,
    load_plugin,
    register_attention,
    register_feed_forward,
    register_position,
    register_router,
)
from trine.configuration.plugin_files import GROUP, load_entry_points


SIZES = {
    "vocab_size": 40,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
}


@pytest.fixture(autouse=True)
def forgotten():
    with tables_restored():
        yield


class SumAttention(StateAttention):
    """Linear attention without a denominator, whose state decays: `S = g S + v k`, `o = S q`."""

    def inputs(self, hidden_states, query, key, value):
        decay = torch.full(query.shape[:3], 0.9, dtype=query.dtype)
        return query, key, value, decay

    def without_padding(self, inputs, is_token):
        query, key, value, decay = inputs
        return query, key * is_token[..., None], value, torch.where(is_token, decay, 1)

    def scan(self, state, query, key, value, decay):
        sums = query.new_zeros(*query.shape[:2], query.shape[-1], value.shape[-1]) if state is None else state[0]
        outputs = []
        for step in range(query.shape[2]):
            sums = decay[:, :, step, None, None] * sums + key[:, :, step, :, None] * value[:, :, step, None]
            outputs.append((query[:, :, step, None] @ sums)[:, :, 0])
        return torch.stack(outputs, dim=2) if outputs else torch.zeros_like(query), (sums,)


class MeanCache(StatesCacheLayer):
    """The sum of the states of all tokens."""

    names = ("total",)

    def update(self, key_states, value_states, *args, **kwargs):
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        count, self.cumulative_length = self.cumulative_length, self.cumulative_length + key_states.shape[1]
        before = self.total if self.total is not None else torch.zeros_like(key_states[:, :1])
        totals = before + key_states.cumsum(dim=1)
        self.total = totals[:, -1:]
        return totals, count


class MeanMixer(nn.Module):
    """The mean of all tokens so far: a whole mechanism, with a cache layer of its own."""

    cache_layer_class = MeanCache
    causal_only = True

    def __init__(self, config, layer_idx):
        super().__init__()
        self.layer_idx = layer_idx

    def forward(self, hidden_states, visibility=Visibility(), *, past_key_values=None, **kwargs):  # noqa: B008
        totals, count = hidden_states.cumsum(dim=1), 0
        if past_key_values is not None:
            totals, count = past_key_values.update(hidden_states, hidden_states, self.layer_idx)
        numbers = torch.arange(1, hidden_states.shape[1] + 1) + count
        return totals / numbers[:, None], None


def make(kind: str, **fields) -> TrineForCausalLM:
    torch.manual_seed(0)
    return TrineForCausalLM(TrineConfig(**{**SIZES, "attention_types": kind, **fields})).eval()


def generated(model, rows: int = 2, **options) -> torch.Tensor:
    ids = torch.tensor([[3, 4, 5, 3, 4, 5], [9, 8, 7, 6, 5, 4]])[:rows]
    return model.generate(ids, max_new_tokens=6, do_sample=False, eos_token_id=None, **options)


WAYS = {
    "dynamic": {},
    "static": {"cache_implementation": "static"},
    "beams": {"num_beams": 3},
    "lookup": {"prompt_lookup_num_tokens": 2},
}


def test_an_unchanged_pairwise_layer_is_full_attention():
    """Of padding, packed texts, biases of positions and both shapes."""
    register_attention("plain", Plain, shareable=False)
    ids = torch.randint(1, 40, (2, 9))
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    packed = torch.cat([torch.arange(4), torch.arange(5)])[None]
    for fields in ({}, {"position_type": "relative"}, {"is_causal": False}, {"attn_implementation": "eager"}):
        head = TrineForCausalLM if fields.get("is_causal", True) else TrineForMaskedLM
        ours = head(TrineConfig(**SIZES, attention_types="plain", **fields)).eval()
        full = head(TrineConfig(**SIZES, attention_types="full", **fields)).eval()
        full.load_state_dict(ours.state_dict())
        for inputs in (
            {"input_ids": ids},
            {"input_ids": ids, "attention_mask": mask},
            {"input_ids": ids[:1], "position_ids": packed},
        ):
            seen = inputs.get("attention_mask", torch.ones_like(inputs["input_ids"])) != 0
            torch.testing.assert_close(ours(**inputs).logits[seen], full(**inputs).logits[seen], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("pattern", ["plain", "plain, full", "sum, full", "sum", "mean, full"])
def test_every_way_of_decoding_reads_the_cache(pattern, way):
    if pattern.startswith("mean") and way == "lookup":
        pytest.skip("its cache takes no token back")
    register_attention("plain", Plain, shareable=False)
    register_attention("sum", SumAttention, shareable=False)
    register_attention("mean", MeanMixer, shareable=False)
    model, rows = make(pattern), 1 if way == "lookup" else 2
    beams = {key: value for key, value in WAYS[way].items() if key == "num_beams"}
    assert torch.equal(generated(model, rows, **WAYS[way]), generated(model, rows, use_cache=False, **beams))


def test_a_state_sees_neither_padding_nor_other_texts():
    register_attention("sum", SumAttention, shareable=False)
    model = make("sum, full")
    first, second = torch.randint(1, 40, (1, 4)), torch.randint(1, 40, (1, 6))
    alone = model(first).logits, model(second).logits
    row = torch.cat([first, second], dim=1)
    packed = model(row, position_ids=torch.cat([torch.arange(4), torch.arange(6)])[None]).logits
    torch.testing.assert_close(packed[:, :4], alone[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(packed[:, 4:], alone[1], atol=1e-5, rtol=1e-5)
    ids = torch.cat([nn.functional.pad(first, (2, 0)), second])
    padded = model(ids, attention_mask=(ids != 0).long()).logits
    torch.testing.assert_close(padded[:1, 2:], alone[0], atol=1e-5, rtol=1e-5)


def test_fields_are_those_of_the_config(tmp_path):
    register_attention("plain", Plain, fields={"plain_x": KindField(0.5, "A number.", above=0)}, shareable=False)
    assert not hasattr(TrineConfig(**SIZES), "plain_x")
    config = TrineConfig(**SIZES, attention_types="plain")
    assert config.plain_x == 0.5
    config = TrineConfig.from_preset("tiny", attention_types="plain, full", plain_x=2.0)
    config.save_pretrained(tmp_path)
    assert TrineConfig.from_pretrained(tmp_path).plain_x == 2.0
    assert TrineConfig.from_pretrained(tmp_path, plain_x=3).plain_x == 3
    with pytest.raises(ValueError, match="plain_x=-1 must be above 0"):
        TrineConfig(**SIZES, attention_types="plain", plain_x=-1)
    with pytest.raises(ValueError, match=r"no field 'plain_y'. Did you mean 'plain_x'"):
        TrineConfig(**SIZES, attention_types="plain", plain_y=1)


def test_a_checkpoint_takes_its_mechanism_along(tmp_path):
    """Of decoders and encoder-decoders, and again and again, with and without the package."""
    load_plugin(write_sigmoid(tmp_path, "own_sigmoid", "sigmoid"))
    decoder = make("sigmoid, full", sigmoid_bias=-0.5)
    stack = {key: value for key, value in SIZES.items() if key != "pad_token_id"}
    stacks = {
        "encoder": {**stack, "attention_types": "sigmoid"},
        "decoder": {**stack, "attention_types": "full, sigmoid"},
    }
    pair = TrineForConditionalGeneration(TrineSeq2SeqConfig(**stacks, pad_token_id=0, decoder_start_token_id=1)).eval()
    ids = torch.randint(2, 40, (2, 7))
    torch.save(
        {"ids": ids, "decoder": decoder(ids).logits, "pair": pair(ids, decoder_input_ids=ids).logits}, tmp_path / "x"
    )
    for name, model in {"decoder": decoder, "pair": pair}.items():
        model.save_pretrained(tmp_path / name)
        files = {file.name for file in (tmp_path / name).glob("*.py")}
        assert {"own_sigmoid.py", "own_sigmoid_helper.py"} < files and len(files) == 4
    program = tmp_path / "program.py"
    program.write_text(
        "import sys, torch\n"
        "import remote_process\n"
        "sys.meta_path.insert(0, remote_process.Blocker())\n"
        "from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM\n"
        "x = torch.load('x')\n"
        "for name, auto in {'decoder': AutoModelForCausalLM, 'pair': AutoModelForSeq2SeqLM}.items():\n"
        "    model = auto.from_pretrained(name, trust_remote_code=True)\n"
        "    more = {'decoder_input_ids': x['ids']} if name == 'pair' else {}\n"
        "    assert torch.equal(model(x['ids'], **more).logits, x[name])\n"
        "    model.generate(x['ids'], max_new_tokens=3)\n"
        "    model.save_pretrained(name + '-again')\n"
    )
    environment = {
        "PYTHONPATH": str(Path(remote_process.__file__).parent),
        "HF_MODULES_CACHE": str(tmp_path / "modules"),
        "HF_HUB_OFFLINE": "1",
        "PATH": "/usr/bin:/bin",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run([sys.executable, program], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name, auto in {"decoder": AutoModelForCausalLM, "pair": AutoModelForSeq2SeqLM}.items():
        for file in (tmp_path / name).glob("*.py"):
            assert file.read_bytes() == (tmp_path / f"{name}-again" / file.name).read_bytes()
        auto.from_pretrained(tmp_path / f"{name}-again").save_pretrained(tmp_path / f"{name}-third")
        for file in (tmp_path / name).glob("*.py"):
            assert file.read_bytes() == (tmp_path / f"{name}-third" / file.name).read_bytes()


def test_a_file_out_of_a_checkpoint_is_a_plugin(tmp_path, caplog):
    with tables_restored():
        load_plugin(write_sigmoid(tmp_path, "lent_sigmoid", "lent"))
        model = make("lent, full")
        model.save_pretrained(tmp_path / "checkpoint")
        logits = model(torch.arange(1, 9)[None]).logits
    logging.enable_propagation()
    with pytest.raises(ValueError, match=r"attention_types\[0\]='lent' is not one of .* trine.load_plugin"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint")
    assert "has no field" not in caplog.text
    load_plugin(tmp_path / "checkpoint" / "lent_sigmoid.py")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint")
    assert torch.equal(again(torch.arange(1, 9)[None]).logits, logits)
    again.save_pretrained(tmp_path / "again")
    for file in (tmp_path / "checkpoint").glob("*.py"):
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes()


def test_what_cannot_go_along_is_said_when_a_model_is_saved(tmp_path, caplog):
    register_attention("plain", Plain, shareable=False)
    logging.enable_propagation()
    model = make("plain")
    model.save_pretrained(tmp_path / "model")
    assert "was registered with shareable=False" in caplog.text
    assert not list((tmp_path / "model").glob("*.py"))
    assert type(AutoModelForCausalLM.from_pretrained(tmp_path / "model")) is TrineForCausalLM
    Typed = type("Typed", (PairwiseAttention,), {"__module__": "__main__"})
    register_attention("typed", Typed)
    make("typed").save_pretrained(tmp_path / "typed")
    assert "stands in no file that can be imported" in caplog.text


def test_a_class_that_is_defined_again_takes_the_place_of_the_first():
    register_attention("typed", type("Typed", (PairwiseAttention,), {"__module__": "__main__"}))
    again = type("Typed", (PairwiseAttention,), {"__module__": "__main__"})
    register_attention("typed", again)
    assert type(make("typed").model.layers[0].self_attn) is again


def test_positions_feed_forwards_and_routers_of_ones_own():
    @register_position("distance", shareable=False, fields={"distance_slope": KindField(0.5, above=0)})
    class Distance(PositionEncoding):
        """Subtracts the distance from scores."""

        def __init__(self, config):
            super().__init__(config)
            self.slope, self.heads = config.distance_slope, config.num_attention_heads

        def biases(self, length, device, past_key_values, layer_types):
            past = past_key_values.get_seq_length() if past_key_values is not None else 0
            keys = torch.arange(past + length, device=device)
            bias = -self.slope * (keys[past:, None] - keys).abs()
            return dict.fromkeys(layer_types, bias.expand(1, self.heads, -1, -1).float())

    @register_feed_forward("square", source="a test", shareable=False)
    class Square(nn.Module):
        """Squares."""

        def __init__(self, config):
            super().__init__()
            self.up_proj = nn.Linear(config.hidden_size, config.hidden_size)

        def forward(self, hidden_states):
            return self.up_proj(hidden_states).square()

    @register_router("first", shareable=False)
    class First(TrineRouter):
        """Prefers the first experts."""

        def scores(self, router_logits):
            return router_logits.softmax(dim=-1)

        def preferences(self, scores):
            return -torch.arange(scores.shape[-1], device=scores.device).expand_as(scores)

    fields = {"position_type": "distance", "mlp_layer_types": "square, sparse", "router_type": "first"}
    model = make("full", **fields, num_experts=4, num_experts_per_tok=2)
    hidden = torch.randn(3, 32)
    assert model.model.layers[1].mlp.gate(hidden)[2].tolist() == [[0, 1]] * 3
    assert type(model.model.layers[0].mlp) is Square
    near = model.model.positions.biases(4, torch.device("cpu"), None, ["full_attention"])["full_attention"]
    assert near[0, 0, 3].tolist() == [-1.5, -1.0, -0.5, 0.0]
    assert torch.equal(generated(model), generated(model, use_cache=False))
    with pytest.raises(ValueError, match="position_type='distance' adds a bias to the scores of pairs"):
        make("linear", position_type="distance")
    assert model.config.base_model_tp_plan is None
    with pytest.raises(ValueError, match="distance_slope=0.0 must be above 0"):
        make("full", position_type="distance", distance_slope=0.0)


@pytest.mark.parametrize("name", REFUSED)
def test_a_registration_is_refused_by_name(name):
    assert REFUSED[name][1] in refused(name)


def test_everything_else_that_is_wrong_is_said(tmp_path):
    for name, (message, start) in other_messages(tmp_path).items():
        assert message.startswith(start), f"{name}: {message}"


def test_packages_register_by_an_entry_point(monkeypatch, caplog):
    class Point:
        name, value = "broken", "broken:plugin"

        def load(self):
            raise RuntimeError("no such thing")

    found = []
    good = type("Good", (), {"name": "good", "value": "good", "load": lambda self: found.append(1)})
    monkeypatch.setattr(
        "trine.configuration.plugin_files.entry_points", lambda group: [Point(), good()] if group == GROUP else []
    )
    logging.enable_propagation()
    load_entry_points()
    assert found and "'broken' (broken:plugin) cannot be loaded: RuntimeError('no such thing')" in caplog.text


def test_states_are_for_decoders():
    register_attention("sum", SumAttention, shareable=False)
    with pytest.raises(ValueError, match="'sum', which reads a text from left to right: it needs is_causal=True"):
        TrineConfig(**SIZES, attention_types="sum", is_causal=False)
    with pytest.raises(NotImplementedError):
        Scan(TrineConfig(**SIZES), 0)(torch.randn(1, 3, 32))


def test_rules_of_one_name_stand_apart():
    """An attention and a position encoding may be called alike."""

    def refuse(word):
        def check(config):
            raise ValueError(f"the rule of {word}")

        return check

    register_attention("alike", Plain, check=refuse("attention"), shareable=False)
    register_position("alike", type("Alike", (PositionEncoding,), {}), check=refuse("positions"), shareable=False)
    for fields in ({"attention_types": "alike"}, {"position_type": "alike"}):
        with pytest.raises(ValueError, match=f"the rule of {next(iter(fields)).split('_')[0]}"):
            TrineConfig(**SIZES, **fields)


def test_weights_of_own_attention_are_not_split():
    register_attention("plain", Plain, shareable=False)
    assert TrineConfig(**SIZES, attention_types="plain, full").base_model_tp_plan is None
    assert TrineConfig(**SIZES, attention_types="full").base_model_tp_plan


def test_a_module_of_ones_own_may_call_its_methods_as_it_likes():
    """`mix` and the like are names of the contract in subclasses of Trine's classes only."""

    class Whole(nn.Module):
        def __init__(self, config, layer_idx):
            super().__init__()

        def mix(self, states):
            return states.cumsum(1)

        def forward(self, hidden_states, visibility, **kwargs):
            return self.mix(hidden_states), None

    register_attention("whole", Whole, shareable=False)
    make("whole")(torch.ones(1, 3, dtype=torch.long))

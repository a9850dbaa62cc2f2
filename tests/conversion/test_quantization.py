"""What can be quantised, and why not; graphs of integers; layers of 8 bits. All of it without torchao."""

import json
import logging

import pytest
import torch
from support.tiny import random_ids, tiny_model
from torch import nn

from trine import (
    TrineConfig,
    TrineForCausalLM,
    TrineModel,
    TrineRecurrentConfig,
    TrineRecurrentForConditionalGeneration,
    train_wordpiece,
)
from trine.conversion import SCHEMES, fast_on_cpu, quantize
from trine.conversion.quantization import quantize as quantizing
from trine.conversion.quantization import schemes
from trine.conversion.quantization.fast import FastEmbedding, FastExperts, FastLinear, to_int8
from trine.conversion.quantization.quality import compare_predictions, encode
from trine.conversion.quantization.report import Report, align
from trine.conversion.quantization.weights import (
    NOT_ASKED,
    Weight,
    check_groups,
    find_weights,
    make_patterns,
    stored_bytes,
)
from trine.modeling.feed_forward.experts import EXPERTS, choose_kernel
from trine.modeling.quantized import with_other_names
from trine.modeling.recurrent.layers import written_out
from trine.scripts import generate
from trine.scripts.jobs import energy
from trine.scripts.quantize import main, read_texts


TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


class Integers:
    """A weight as torchao's tensors look, made by hand: rounded rows of a matrix, or of several."""

    def __init__(self, weight: torch.Tensor, zero_point: int = 0):
        self.scale = weight.abs().amax(dim=-1, keepdim=True) / 120
        self.qdata = (weight / self.scale).round().to(torch.int8)
        self.zero_point = torch.full_like(self.scale, zero_point)
        self.shape, self.dtype = weight.shape, weight.dtype

    def dequantize(self):
        return (self.qdata - self.zero_point) * self.scale

    def __getitem__(self, index):
        return Integers(self.dequantize()[index])


def small(**fields):
    return tiny_model(dtype=torch.float32, **{"num_hidden_layers": 2, **TOKENS, **fields})


def test_all_weights_are_found_with_a_reason_for_each_that_stays():
    model = small(attention_types="full, simplicial", mlp_layer_types="dense, sparse", num_experts=4, qk_norm=True)
    found = {weight.name: weight for weight in find_weights(model, SCHEMES["int8"], embeddings=True)}
    names = {name for weight in found.values() for name in weight.names}
    assert names == {*model.state_dict()}
    assert sum(weight.before for weight in found.values()) == sum(p.nbytes for p in model.parameters())
    linear = {f"{name}.weight" for name, module in model.named_modules() if type(module) is nn.Linear}
    experts = {f"model.layers.1.mlp.experts.{name}" for name in ("gate_up_proj", "down_proj")}
    quantized = {name for weight in found.values() if weight.is_quantized for name in weight.names}
    assert quantized == linear | experts | {"model.embed_tokens.weight"}
    assert found["model.embed_tokens.weight"].names == ("model.embed_tokens.weight", "lm_head.weight")
    assert "router" in found["model.layers.1.mlp.gate.weight"].why
    assert all(weight.is_quantized != bool(weight.why) for weight in found.values())
    asked = {weight.name: weight.why for weight in find_weights(model, SCHEMES["int8"])}
    assert asked["model.embed_tokens.weight"] == NOT_ASKED and asked["model.layers.0.self_attn.q_proj.weight"] == ""


def test_an_lstm_is_quantised_in_one_direction():
    model = TrineRecurrentForConditionalGeneration(TrineRecurrentConfig(vocab_size=50, hidden_size=16, **TOKENS))
    weights = find_weights(model, SCHEMES["int8"], embeddings=True)
    stays = [weight for weight in weights if len(weight.shape) > 1 and not weight.is_quantized]
    assert stays and all("other direction" in weight.why and weight.name.endswith("_reverse") for weight in stays)
    assert {weight.kind for weight in weights if weight.is_quantized} == {"embedding", "linear", "lstm"}


def test_a_pattern_stands_for_all_layers_or_for_none():
    names = ["layers.0.q.weight", "layers.1.q.weight", "layers.0.q.bias", "head.weight", "layers.10.k.weight"]
    assert make_patterns(names[:2], names) == [r"re:layers\.\d+\.q\.weight"]
    assert make_patterns(names[:1], names) == names[:1]
    assert make_patterns(names[3:], names) == ["head.weight", "layers.10.k.weight"]


def weight(name, width, stored="int4"):
    return Weight(name, (name,), (8, width), "linear", 32 * width, 8 * width, stored)


def test_widths_that_a_group_does_not_divide_are_named():
    check_groups([weight("a", 64), weight("b", 20, "int8")], 32)
    with pytest.raises(ValueError, match=r"group_size=32 does not divide the 48 inputs of b.weight and of 1 more\. "):
        check_groups([weight("a", 64), weight("b.weight", 48), weight("c", 40)], 32)
    with pytest.raises(ValueError, match=r"Choose one of \[2, 4, 8\], or scheme='int8'"):
        check_groups([weight("a", 64), weight("b", 40)], 16)
    with pytest.raises(ValueError, match="No size divides all"):
        check_groups([weight("a", 7), weight("b", 9)], 2)
    with pytest.raises(ValueError, match="group_size=0 must be at least 1"):
        check_groups([], 0)


def test_parts_of_a_tensor_are_counted_together():
    sizes = {
        "a._weight_qdata": 8,
        "a._weight_scale": 4,
        "a._weight_zero_point": 1,
        "a.bias": 2,
        "e._down_proj_qdata": 3,
    }
    assert stored_bytes(sizes) == {"a.weight": 13, "a.bias": 2, "e.down_proj": 3}


def test_the_table_tells_sizes_and_reasons():
    weights = [weight("layers.0.q.weight", 64, "int8"), weight("layers.1.q.weight", 64, "int8")]
    weights.append(Weight("norm", ("norm",), (9,), "", 36, 36, "float32", "a norm"))
    report = Report("from", "to", "int8", weights, 5000, 1500, {"texts": "3", "loss before": 1.23456})
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in report.table().splitlines()]
    assert rows[2] == ["`layers.*.q.weight`", "2", "4,096", "1,024", "int8", ""]
    assert rows[3] == ["`norm`", "1", "36", "36", "float32", "a norm"]
    assert rows[4] == ["all files", "3", "5,000", "1,500", "0.300 of before", "99.1% of the bytes quantised"]
    assert len({len(line) for line in report.table().splitlines()}) == 1
    assert report.told() == ["texts: 3", "loss before: 1.235"] and "loss before: 1.235" in report.card()
    assert json.loads(json.dumps(report.as_dict()))["weights"][2]["why"] == "a norm"
    assert align([("a", "1", "2", "3"), ("bc", "10", "2", "3")]).splitlines()[2] == "| a  |  1 | 2 | 3 |".replace(
        "a ", "bc"
    ).replace(" 1", "10")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quantise") / "source"
    tokenizer = train_wordpiece(["a red house by the river", "two birds"], vocab_size=120, show_progress=False)
    fields = {"vocab_size": len(tokenizer), "is_causal": False, "num_hidden_layers": 1, "pad_token_id": 0}
    tiny_model(TrineModel, dtype=torch.float32, scale=1.5, **fields).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_graph_of_integers_by_the_command(source, tmp_path, capsys, monkeypatch):
    import onnxruntime

    pytest.importorskip("codecarbon")

    (tmp_path / "texts.txt").write_text("a red house\n\ntwo birds by the river\n", encoding="utf-8")
    target = tmp_path / "graph"
    logging.disable(logging.CRITICAL)  # what torch logs of every shape takes long to collect
    try:
        monkeypatch.setattr(energy, "LEAST_SECONDS", 0.1)
        words = ["--scheme", "onnx-int8", "--embeddings", "--calibrate", str(tmp_path / "texts.txt"), "--json"]
        main([str(source), str(target), *words, "--energy_country", "DEU"])
    finally:
        logging.disable(logging.NOTSET)
    told = json.loads(capsys.readouterr().out)
    weights = {weight["name"]: weight for weight in told["weights"]}
    for name in ("embed_tokens.weight", "layers.0.self_attn.q_proj.weight", "layers.0.mlp.down_proj.weight"):
        assert weights[name]["stored"] == "int8" and weights[name]["after"] * 4 == weights[name]["before"]
    assert weights["layers.0.input_layernorm.weight"]["why"] == "a norm, a bias or the like"
    assert told["quality"]["texts"] == "2" and 0.9 < told["quality"]["worst cosine, onnx-int8"] < 1
    found = {name.partition(" (")[0]: value for name, value in told["quality"].items()}
    assert found["J of this command"] > 0 and found["CO2 of this command in g"] > 0
    assert found["J per 1,000 tokens, before"] > 0 and found["J per 1,000 tokens, onnx-int8"] > 0
    assert {name.rpartition(" (")[2] for name in told["quality"] if name.startswith("J ")} <= {
        "estimated)",
        "measured)",
    }
    session = onnxruntime.InferenceSession(target / "model.onnx", providers=["CPUExecutionProvider"])
    ids = random_ids(2, 7, vocab_size=30)
    (actual, *_) = session.run(None, {"input_ids": ids.numpy(), "attention_mask": torch.ones_like(ids).numpy()})
    expected = TrineModel.from_pretrained(source).eval()(ids).last_hidden_state
    assert 0 < (torch.as_tensor(actual) - expected).norm() / expected.norm() < 0.1
    assert "onnx-int8" in (target / "README.md").read_text() and (target / "tokenizer.json").is_file()
    assert not (target / "program").exists()


def test_bad_input_is_refused_before_the_work(source, tmp_path, monkeypatch):
    def fail(match, error=ValueError, source=source, target=tmp_path / "target", **options):
        with pytest.raises(error, match=match):
            quantize(source, target, **{"scheme": "onnx-int8", **options})

    fail(r"scheme='int7' is not one of \['int8', 'int8-weights', 'int4', 'int2', 'onnx-int8'\]", scheme="int7")
    fail("target='.*' is there already", OSError, target=source)
    fail("source='nowhere' is no folder", OSError, source="nowhere")
    fields = json.loads((source / "config.json").read_text())
    for name, changes, weights, match, error in (
        ("again", {"quantization_config": {"quant_method": "torchao"}}, "x", "is quantised already", ValueError),
        (
            "other",
            {"architectures": ["BertModel"], "model_type": "bert"},
            "x",
            "`trine convert` makes one",
            ValueError,
        ),
        ("empty", {}, None, r"has no weights \(\*\.safetensors\)", OSError),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(fields | changes))
        if weights:
            (tmp_path / name / "model.safetensors").write_text(weights)
        fail(match, error, source=tmp_path / name)
    monkeypatch.setattr(schemes, "find_spec", lambda name: None)
    fail(r"scheme='int8' needs torchao: pip install 'trine\[quantization\]'", scheme="int8")
    assert not (tmp_path / "target").exists()


def test_texts_to_calibrate_on(source, tmp_path):
    (tmp_path / "empty.txt").write_text("\n \n")
    with pytest.raises(ValueError, match=r"calibrate=\[.*empty\.txt'\] has no text"):
        read_texts([str(tmp_path / "empty.txt")])
    with pytest.raises(SystemExit, match="trine: .*empty.txt"):
        main([str(source), str(tmp_path / "t"), "--scheme", "onnx-int8", "--calibrate", str(tmp_path / "empty.txt")])
    with pytest.raises(ValueError, match="The 1 texts to calibrate on have no token to predict"):
        model = tiny_model(TrineForCausalLM, **TOKENS)
        model.config.save_pretrained(tmp_path / "decoder")
        train_wordpiece(["a b"], vocab_size=120, show_progress=False).save_pretrained(tmp_path / "decoder")
        tokenizer_file = tmp_path / "decoder" / "tokenizer.json"
        rules = json.loads(tokenizer_file.read_text()) | {"post_processor": None}
        tokenizer_file.write_text(json.dumps(rules))
        encode(tmp_path / "decoder", ["a"], 512, TrineForCausalLM)


@torch.no_grad()
def test_losses_and_agreement_are_those_of_a_loop():
    source, other = (small(seed=seed, scale=1.0) for seed in (0, 1))
    batches = [{"input_ids": random_ids(1, length, seed=length)} for length in (5, 9)]
    found = compare_predictions(source, {"x": other}, batches)
    losses, same = {"source": 0.0, "other": 0.0}, 0
    for inputs in batches:
        ids = inputs["input_ids"]
        logits = {"source": source(ids).logits[0], "other": other(ids).logits[0]}
        for place in range(ids.shape[1] - 1):
            for name in losses:
                losses[name] -= float(logits[name][place].log_softmax(-1)[ids[0, place + 1]])
            same += int(logits["source"][place].argmax() == logits["other"][place].argmax())
    assert found["tokens"] == "12" and found["top-1 agreement, x"] == same / 12
    torch.testing.assert_close(found["loss before"], losses["source"] / 12, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found["loss, x"], losses["other"] / 12, rtol=1e-5, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layers_of_8_bits_compute_what_the_rounded_weights_do(dtype):
    generator = torch.Generator().manual_seed(0)
    weight, bias = Integers(torch.randn(24, 16, generator=generator)), torch.randn(24, generator=generator)
    states = torch.randn(3, 5, 16, generator=generator).to(dtype)
    actual, expected = FastLinear(weight, bias)(states), states.float() @ weight.dequantize().T + bias
    assert actual.dtype == dtype and actual.shape == (3, 5, 24)
    assert (actual.float() - expected).norm() / expected.norm() < 0.02
    ids = torch.tensor([[3, 23], [0, 3]])
    torch.testing.assert_close(FastEmbedding(weight)(ids), weight.dequantize()[ids], rtol=1e-6, atol=1e-6)


def test_rows_with_a_zero_point_are_rounded_anew():
    weight = Integers(torch.randn(6, 8, generator=torch.Generator().manual_seed(0)), zero_point=3)
    values, scale = to_int8(weight)
    assert values.dtype == torch.int8
    assert ((values * scale[:, None]) - weight.dequantize()).abs().max() <= scale.max() * 0.51


@torch.no_grad()
@pytest.mark.parametrize("fields", [{}, {"gated_mlp": False, "mlp_bias": True}])
def test_experts_of_8_bits(fields):
    config = small(mlp_layer_types="sparse", num_experts=4, num_experts_per_tok=2, **fields).config
    experts = EXPERTS[config.gated_mlp](config)
    for parameter in experts.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel())))
    states, weights = torch.randn(7, config.hidden_size), torch.rand(7, 2)
    chosen = torch.tensor([[0, 1], [3, 1], [0, 3], [1, 0], [3, 0], [0, 1], [1, 3]])  # nobody visits expert 2
    expected = experts(states, chosen, weights)
    for name in ("gate_up_proj", "up_proj", "down_proj"):
        if hasattr(experts, name):
            weight = getattr(experts, name).detach()
            del experts._parameters[name]
            setattr(experts, name, Integers(weight))
    actual = FastExperts(experts)(states, chosen, weights)
    assert (actual - expected).norm() / expected.norm() < 0.05


def mark_as_quantised(tensor):
    tensor.qdata = torch.zeros(1)


def test_weights_quantised_in_memory_are_not_saved(tmp_path):
    model = small()
    mark_as_quantised(model.model.layers[0].mlp.up_proj.weight)
    with pytest.raises(
        ValueError, match="'model.layers.0.mlp.up_proj.weight' and 0 more weights were quantised in mem"
    ):
        model.save_pretrained(tmp_path / "model")
    assert not list((tmp_path / "model").iterdir())


def test_packed_layers_are_not_saved(tmp_path):
    model = small()
    model.model.layers[0].mlp.up_proj = FastLinear(Integers(torch.randn(40, 32)))
    with pytest.raises(ValueError, match="'model.layers.0.mlp.up_proj' was packed by `fast_on_cpu`"):
        model.save_pretrained(tmp_path / "model")


def test_what_cannot_be_made_fast():
    with pytest.raises(ValueError, match="has no weights that torchao quantised"):
        fast_on_cpu(small())
    with torch.device("meta"):
        model = TrineForCausalLM(TrineConfig(vocab_size=10, hidden_size=8, num_attention_heads=2))
    mark_as_quantised(model.lm_head.weight)
    with pytest.raises(ValueError, match="The model is on meta, but these layers are for the CPU"):
        fast_on_cpu(model)


def test_generate_says_that_nothing_is_quantised(tmp_path):
    small().save_pretrained(tmp_path / "model")
    train_wordpiece(["a b"], vocab_size=120, show_progress=False).save_pretrained(tmp_path / "model")
    with pytest.raises(SystemExit, match="trine generate: The model has no weights that torchao quantised"):
        generate.main(["--model", str(tmp_path / "model"), "--text", "a", "--fast_on_cpu"])


def test_quantised_experts_are_visited_one_by_one():
    config = small(mlp_layer_types="sparse", num_experts=4).config
    assert choose_kernel(config, None) is None or config.hidden_size % 8
    config.quantization_config = {"rules": {"re:.*experts.down_proj": "int8"}}
    assert choose_kernel(config, None) == "eager"
    with pytest.raises(ValueError, match="cannot compute these experts: their weights are quantised"):
        choose_kernel(config, "grouped_mm")


def test_an_lstm_with_quantised_weights_is_written_out():
    lstm = nn.LSTM(4, 4, batch_first=True)
    assert written_out(lstm) is lstm
    inputs, expected = torch.randn(1, 3, 4), None
    with torch.no_grad():
        expected = lstm(inputs)[0]
        mark_as_quantised(lstm.weight_ih_l0)
        plain = written_out(lstm)
        assert plain is not lstm
        torch.testing.assert_close(plain(inputs)[0], expected)


def test_tensors_are_known_with_and_without_a_head():
    whole, plain = json.dumps({"_type": "Int8Tensor"}), json.dumps({"_type": "Tensor"})
    known = with_other_names(
        {"model.a.weight": whole, "model.b": plain, "c.weight": whole, "tensor_names": "[]"}, "model."
    )
    assert known["a.weight"] == known["model.a.weight"] == known["model.c.weight"] == whole
    assert {*json.loads(known["tensor_names"])} == {*known} - {"tensor_names"} and "b" not in known


def test_a_reload_that_differs_is_refused(source, monkeypatch):
    model = TrineModel.from_pretrained(source).eval()
    quantizing.check_reload(source, model)
    broken = TrineModel.from_pretrained(source).eval()
    with torch.no_grad():
        broken.layers[0].mlp.up_proj.weight[0, 0] += 1
    with pytest.raises(ValueError, match="does not load as it was saved: 'layers.0.mlp.up_proj.weight' differs"):
        quantizing.check_reload(source, broken)
    with torch.no_grad():
        model.layers[0].mlp.up_proj.weight.fill_(torch.inf)
    monkeypatch.setattr(TrineModel, "from_pretrained", lambda folder: model)
    with pytest.raises(ValueError, match="computes infinite or undefined last_hidden_state"):
        quantizing.check_reload(source, model)

"""Models of series: patches of windows in the stream, and the head that predicts what follows."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from support import forks, reference
from support.messages import unseen
from support.tiny import leaves, tiny_config, tiny_model
from support.windows import SERIES, series_config, series_model, waves
from transformers import AutoModelForTimeSeriesPrediction, PatchTSTConfig, PatchTSTForPrediction

from trine import TrineForTimeSeriesPrediction, TrineModel
from trine.configuration.kinds import ATTENTION_KINDS, POSITION_KINDS
from trine.modeling.heads.series import quantile_levels


VALUES, FUTURE = waves(2, 22, 3), waves(2, 5, 3, seed=1)


def forecaster(**fields):
    return series_model(TrineForTimeSeriesPrediction, **fields)


def patch_vectors(config, weights, window) -> torch.Tensor:
    """The vectors of one channel's patches by a loop over steps, in float64."""
    mean = sum(window) / len(window)
    variance = sum((value - mean) ** 2 for value in window) / len(window)
    scaled = [(value - mean) / (variance + config.minimum_scale) ** 0.5 for value in window]
    count = (len(window) - config.patch_length) // config.patch_stride + 1
    first = len(window) - config.patch_length - (count - 1) * config.patch_stride
    rows = []
    for patch in range(count):
        start = first + patch * config.patch_stride
        row = weights["embed_tokens"]["projection"]["bias"].clone()
        for step in range(config.patch_length):
            row = row + weights["embed_tokens"]["projection"]["weight"][:, step] * scaled[start + step]
        rows.append(row)
    return torch.stack(rows)


@pytest.mark.parametrize("position_type", sorted(POSITION_KINDS))
def test_outputs_are_those_of_the_loops(position_type):
    model = series_model(position_type=position_type)
    config, tensors = series_config(position_type=position_type), leaves(model)
    states = model(past_values=VALUES).last_hidden_state.unflatten(0, (2, 3))
    for window, actual in zip(VALUES, states, strict=True):
        for channel, row in zip(window.T, actual, strict=True):
            vectors = patch_vectors(config, reference.Weights(tensors), channel)
            table = reference.Weights({**tensors, "embed_tokens.weight": vectors})
            plain = tiny_config(is_causal=False, position_type=position_type)
            expected = reference.trunk(plain, table, list(range(len(vectors))))
            tolerance = 1e-5 if position_type == "rope" else 1e-9  # rotations are made in float32
            torch.testing.assert_close(row, expected, rtol=tolerance, atol=tolerance)


def patch_tst(loss="mse", **fields):
    """transformers' PatchTST with a norm after each residual sum, the one of its forms that Trine's layers have."""
    shape = {"d_model": 16, "num_attention_heads": 2, "num_hidden_layers": 2, "ffn_dim": 24}
    sizes = {name: SERIES[name] for name in SERIES if name not in ("input_type", "is_causal")}
    config = PatchTSTConfig(
        **{**shape, **sizes, "norm_type": "layernorm", "pre_norm": False, "pooling_type": None, "loss": loss, **fields}
    )
    torch.manual_seed(0)
    peer = PatchTSTForPrediction(config).double().eval()
    for parameter in peer.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return peer


def equal_model(peer, **fields):
    """A Trine model with the weights of a PatchTST."""
    config = tiny_config(
        **{
            **SERIES,
            "hidden_size": 16,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "num_hidden_layers": 2,
            "head_dim": 8,
            "intermediate_size": 24,
            "position_type": "learned",
            "max_position_embeddings": 6,
            "norm_type": "layernorm",
            "norm_position": "post",
            "norm_eps": 1e-5,
            "gated_mlp": False,
            "hidden_act": "gelu",
            "attention_bias": True,
            "mlp_bias": True,
            **fields,
        }
    )
    model, source = TrineForTimeSeriesPrediction(config).double().eval(), peer.state_dict()
    names = {
        "model.embed_tokens.projection": "model.encoder.embedder.input_embedding",
        "projection": "head.projection",
    }
    for index in range(2):
        layer, other = f"model.layers.{index}", f"model.encoder.layers.{index}"
        names |= {f"{layer}.self_attn.{name}_proj": f"{other}.self_attn.{name}_proj" for name in "qkv"}
        names |= {
            f"{layer}.self_attn.o_proj": f"{other}.self_attn.out_proj",
            f"{layer}.mlp.up_proj": f"{other}.ff.0",
            f"{layer}.mlp.down_proj": f"{other}.ff.3",
        }
    state = {f"{own}.{part}": source[f"{its}.{part}"] for own, its in names.items() for part in ("weight", "bias")}
    own = {name for name in model.state_dict() if "norm" in name}
    for index in range(2):
        norms = sorted({name.rpartition(".")[0] for name in own if f"layers.{index}." in name})
        first = [name for name in norms if "input" in name or "attention" in name and "post" not in name]
        for name in norms:
            its = "norm_sublayer1" if name in first else "norm_sublayer3"
            for part in ("weight", "bias"):
                state[f"{name}.{part}"] = source[f"model.encoder.layers.{index}.{its}.{part}"]
    state["model.positions.embed_positions.weight"] = source["model.encoder.positional_encoder.position_enc"]
    model.load_state_dict(state)
    return model


@pytest.mark.parametrize("scaling", ["std", "mean", None])
def test_a_model_equals_patch_tst(scaling):
    peer = patch_tst(scaling=scaling)
    model = equal_model(peer, scaling=scaling or "none", minimum_scale=1e-10 if scaling == "mean" else 1e-5)
    expected = peer(past_values=VALUES, future_values=FUTURE)
    actual = model(past_values=VALUES, future_values=FUTURE)
    torch.testing.assert_close(actual.prediction_outputs, expected.prediction_outputs, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(actual.loss, expected.loss, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close((actual.loc, actual.scale), (expected.loc, expected.scale))
    expected.loss.backward()
    actual.loss.backward()
    torch.testing.assert_close(
        model.model.embed_tokens.projection.weight.grad, peer.model.encoder.embedder.input_embedding.weight.grad
    )


@pytest.mark.parametrize("kind", sorted(ATTENTION_KINDS))
def test_every_attention_reads_series_and_keeps_channels_apart(kind):
    causal = ATTENTION_KINDS[kind].causal_only
    model = forecaster(attention_types=kind, is_causal=causal, mlp_layer_types="dense, sparse")
    whole = model(past_values=VALUES, future_values=FUTURE)
    assert whole.prediction_outputs.shape == (2, 5, 3) and whole.loss.isfinite()
    changed = VALUES.clone()
    changed[:, :, 1] = -changed[:, :, 1]
    other = model(past_values=changed).prediction_outputs
    assert not torch.equal(other[..., 1], whole.prediction_outputs[..., 1])
    torch.testing.assert_close(other[..., [0, 2]], whole.prediction_outputs[..., [0, 2]])
    # Another level and size of a window are those of its forecast.
    moved = model(past_values=VALUES * 4 + 100).prediction_outputs
    torch.testing.assert_close(moved, whole.prediction_outputs * 4 + 100, rtol=1e-4, atol=1e-4)


def test_missing_values_are_not_read():
    model, mask = forecaster(), torch.ones_like(VALUES)
    mask[0, 3:9, 1], mask[1, :10] = 0, 0
    damaged = torch.where(mask > 0, VALUES, torch.nan)
    one = model(past_values=damaged, past_observed_mask=mask)
    other = model(past_values=torch.where(mask > 0, VALUES, 1e9), past_observed_mask=mask.bool())
    torch.testing.assert_close(one.prediction_outputs, other.prediction_outputs)
    for window in range(2):
        for channel in range(3):
            kept = VALUES[window, mask[window, :, channel] > 0, channel]
            torch.testing.assert_close(one.loc[window, 0, channel], kept.mean())
            deviation = (kept.var(correction=0) + 1e-5).sqrt()
            torch.testing.assert_close(one.scale[window, 0, channel], deviation)
    future, seen = FUTURE.clone(), torch.ones_like(FUTURE)
    future[0, 2], seen[0, 2] = torch.nan, 0
    loss = model(past_values=VALUES, future_values=future, future_observed_mask=seen).loss
    predicted = model(past_values=VALUES).prediction_outputs
    torch.testing.assert_close(loss, ((predicted - FUTURE)[seen > 0] ** 2).mean())


@pytest.mark.parametrize("scaling", ["std", "mean", "none"])
def test_constant_windows_whole_numbers_and_nothing_observed_are_finite(scaling):
    model = forecaster(scaling=scaling)
    constant = torch.full((1, 22, 3), 7.0)
    assert model(past_values=constant).prediction_outputs.isfinite().all()
    counts = torch.arange(66).reshape(1, 22, 3)
    whole, real = model(past_values=counts), model(past_values=counts.float())
    torch.testing.assert_close(whole.prediction_outputs, real.prediction_outputs)
    nothing = model(past_values=constant * torch.nan, past_observed_mask=torch.zeros_like(constant))
    assert nothing.prediction_outputs.isfinite().all()


def test_losses_are_those_of_the_definitions():
    model = forecaster(loss="quantile", num_quantiles=3)
    output = model(past_values=VALUES, future_values=FUTURE, loss_scale=torch.tensor([[[2.0, 1.0, 0.5]]] * 2))
    assert output.quantile_predictions.shape == (2, 5, 3, 3) and quantile_levels(3).tolist() == [0.25, 0.5, 0.75]
    assert (output.quantile_predictions.diff(dim=-1) >= 0).all()
    assert torch.equal(output.prediction_outputs, output.quantile_predictions[..., 1])
    model.train()
    raw, total = model(past_values=VALUES).quantile_predictions, 0.0
    for window in range(2):
        for step in range(5):
            for channel, unit in enumerate((2.0, 1.0, 0.5)):
                for level, q in zip((0.25, 0.5, 0.75), raw[window, step, channel], strict=True):
                    error = (FUTURE[window, step, channel] - q) / unit
                    total += 2 * float((level * error if error > 0 else (level - 1) * error).detach()) / 3
    trained = model(past_values=VALUES, future_values=FUTURE, loss_scale=torch.tensor([[[2.0, 1.0, 0.5]]] * 2))
    torch.testing.assert_close(float(trained.loss), total / 30)
    mae = forecaster(loss="mae")
    found = mae(past_values=VALUES, future_values=FUTURE)
    torch.testing.assert_close(found.loss, (found.prediction_outputs - FUTURE).abs().mean())


def test_waves_are_learned_saved_and_loaded(tmp_path):
    torch.manual_seed(0)
    model = TrineForTimeSeriesPrediction(series_config(num_input_channels=1, attention_types="linear, full"))
    model.gradient_checkpointing_enable()
    windows = waves(32, 27, 1, dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        loss = model.train()(past_values=windows[:, :22], future_values=windows[:, 22:]).loss
        loss.backward()
        optimizer.step()
    held_out = waves(32, 27, 1, seed=9, dtype=torch.float32)
    predicted = model.eval()(past_values=held_out[:, :22]).prediction_outputs
    naive = (held_out[:, 13:18] - held_out[:, 22:]).abs().mean()  # a period, of 9 steps, ago
    assert (predicted - held_out[:, 22:]).abs().mean() < naive
    model.save_pretrained(tmp_path)
    again = AutoModelForTimeSeriesPrediction.from_pretrained(tmp_path)
    assert type(again) is TrineForTimeSeriesPrediction
    assert torch.equal(again(past_values=held_out[:, :22]).prediction_outputs, predicted)
    card = (tmp_path / "README.md").read_text()
    assert "pipeline_tag: time-series-forecasting" in card and "AutoTokenizer" not in card
    torch.save((held_out, predicted), tmp_path / "expected.pt")
    script = (
        "import sys, torch; sys.modules['trine'] = None\n"
        "from transformers import AutoModelForTimeSeriesPrediction as Auto\n"
        "model = Auto.from_pretrained('.', trust_remote_code=True)\n"
        "values, expected = torch.load('expected.pt')\n"
        "print('equal' if torch.equal(model(past_values=values[:, :22]).prediction_outputs, expected) else 'other')\n"
    )
    result = forks.run(["-c", script], tmp_path)
    assert "equal" in result.stdout, result.stderr


def test_adapters_learn_what_the_model_lacks():
    torch.manual_seed(0)
    model = TrineForTimeSeriesPrediction(series_config())
    before = copy.deepcopy(model.state_dict())
    adapted = get_peft_model(model, LoraConfig(target_modules=["q_proj", "v_proj"], r=2))
    values, future = VALUES.float(), FUTURE.float()
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=0.05)
    losses = []
    for _ in range(10):
        optimizer.zero_grad()
        losses.append(adapted(past_values=values, future_values=future).loss)
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0]
    assert torch.equal(before["projection.weight"], model.projection.weight)


ERRORS = {
    "length": (lambda: series_model()(past_values=VALUES[:, :20]), "past_values have shape (2, 20, 3), but must have"),
    "channels": (lambda: series_model()(past_values=VALUES[..., :2]), "num_input_channels=3)"),
    "list": (lambda: series_model()(past_values=[*VALUES]), "past_values have shape of a list of 2"),
    "gap": (
        lambda: series_model()(past_values=VALUES.index_fill(1, torch.tensor([3]), torch.nan)),
        "past_values hold 6 values that are not finite: mark what is missing by 0",
    ),
    "infinite where observed": (
        lambda: series_model()(past_values=VALUES / 0, past_observed_mask=torch.ones_like(VALUES)),
        "past_values hold 132 values that are not finite",
    ),
    "mask": (
        lambda: series_model()(past_values=VALUES, past_observed_mask=torch.ones(2, 22)),
        "past_observed_mask has shape (2, 22), but past_values have (2, 22, 3).",
    ),
    "future": (
        lambda: forecaster()(past_values=VALUES, future_values=FUTURE[:, :4]),
        "future_values has shape (2, 4, 3), but must have (2, 5, 3).",
    ),
    "gap of the future": (
        lambda: forecaster()(past_values=VALUES, future_values=FUTURE / 0),
        "future_values hold values that are not finite: mark them by 0 in future_observed_mask.",
    ),
    "nothing": (lambda: forecaster()(), "input_type='series' reads past_values, which is missing."),
    "words": (lambda: tiny_model()(past_values=VALUES), "past_values is read with input_type='series', but this"),
    "head": (
        lambda: TrineForTimeSeriesPrediction(tiny_config(is_causal=False)),
        "input_type='tokens', but TrineForTimeSeriesPrediction needs input_type='series'.",
    ),
}


def message_of(case: str) -> str:
    with pytest.raises(ValueError) as caught:
        ERRORS[case][0]()
    return str(caught.value)


@pytest.mark.parametrize("case", ERRORS)
def test_bad_input_is_named(case):
    assert ERRORS[case][1] in message_of(case)


def test_every_error_of_series_is_tested():
    messages = [message_of(case) for case in ERRORS]
    places = unseen("modeling/inputs", messages) + unseen("modeling/heads", messages)
    assert [place for place in places if "series.py" in place] == []


def test_a_trunk_has_no_head():
    assert "projection.weight" not in TrineModel(series_config()).state_dict()

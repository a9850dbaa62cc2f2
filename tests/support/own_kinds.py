"""Kinds of somebody's own that equal others, for lifts, and what cannot be lifted to or from them."""

from pathlib import Path

import torch
from support.plugins import tables_restored
from support.tiny import tiny_model
from torch import nn

from trine import (
    KindField,
    PairwiseAttention,
    TrineModel,
    lift,
    load_plugin,
    register_attention,
    register_feed_forward,
)
from trine.modeling.feed_forward.mlp import make_mlp


TEMPERED = '''
import torch
from torch import nn
from trine import KindField, PairwiseAttention, register_attention


def check_start(config):
    if config.tempered_start != 1:
        raise ValueError(f"tempered_start={config.tempered_start} must be 1: the scores are multiplied by it.")


@register_attention(
    "tempered",
    fields={"tempered_start": KindField(1.0, "Where the factor on the scores begins.", above=0)},
    equals={"full": check_start},
)
class Tempered(PairwiseAttention):
    """Softmax with a learned factor on the scores of each head."""

    def __init__(self, config, layer_idx):
        super().__init__(config, layer_idx)
        self.factor = nn.Parameter(torch.empty(config.num_attention_heads, 1, 1))

    def initialize(self):
        super().initialize()
        nn.init.constant_(self.factor, self.config.tempered_start)

    def scores(self, query, key):
        return super().scores(query, key) * self.factor
'''


class Near(PairwiseAttention):
    """Sees itself and the tokens just before it, of those that are visible."""

    def position_bias(self, query_positions, key_positions):
        far = query_positions[:, None] - key_positions >= self.config.near_window
        dtype = self.q_proj.weight.dtype
        return torch.zeros(far.shape, dtype=dtype).masked_fill(far, torch.finfo(dtype).min)[None, None]


class Doubled(nn.Module):
    """A dense feed-forward times a factor of its own, which begins at 1."""

    def __new__(cls, config):
        mlp = make_mlp(config)
        mlp.__class__ = type("Doubled", (FactorMixin, type(mlp)), {})
        mlp.factor = nn.Parameter(torch.empty(()))
        return mlp


class FactorMixin:
    def initialize(self):
        nn.init.ones_(self.factor)

    def forward(self, hidden_states):
        return super().forward(hidden_states) * self.factor


class Mean(nn.Module):
    """The mean of all tokens so far, without weights."""

    causal_only = True

    def __init__(self, config, layer_idx):
        super().__init__()

    def forward(self, hidden_states, visibility=None, **kwargs):
        counts = torch.arange(1, hidden_states.shape[1] + 1)[:, None]
        return hidden_states.cumsum(dim=1) / counts, None


class Narrow(PairwiseAttention):
    """Has a weight of full attention by its name, but of another shape."""

    def __init__(self, config, layer_idx):
        super().__init__(config, layer_idx)
        self.o_proj = nn.Linear(config.num_attention_heads * self.head_dim, config.hidden_size, bias=True)
        self.q_proj.bias = None
        self.k_proj = nn.Linear(config.hidden_size, config.num_attention_heads * self.head_dim, bias=False)

    def project(self, hidden_states, position_embeddings=None):
        query, key, value = super().project(hidden_states, position_embeddings)
        return query, key[:, : value.shape[1]], value


def load_tempered(folder: Path) -> Path:
    """Writes and loads the plugin that registers `tempered`; returns its file."""
    file = folder / "tempered_kind.py"
    file.write_text(TEMPERED)
    load_plugin(file)
    return file


def register_near():
    register_attention(
        "near",
        Near,
        fields={"near_window": KindField(6, "Tokens that it sees.", minimum=1)},
        span=lambda config: (config.near_window - 1, 0),
        equals={"full": None, "sliding": None},
        shareable=False,
    )


def trained():
    model = lift(tiny_model(), "tempered")
    model.model.layers[1].self_attn.factor.data[2] = 1.5
    return model


def register_others():
    """A kind that says nothing, one with weights of other shapes, and one without any."""
    register_attention("silent", PairwiseAttention, shareable=False)
    register_attention("narrow", Narrow, equals={"full": None}, shareable=False)
    register_attention("mean", Mean, shareable=False)


# Model, lift, its options, and the beginning of the message.
ERRORS = {
    "says nothing": (tiny_model, "silent", {}, "kind='silent' is not one of ['simplicial', 'sliding', 'sparse', "),
    "from what says nothing": (
        lambda: tiny_model(attention_types="silent"),
        "full",
        {},
        "attention_types=['silent', 'silent'] has no layer that the lift 'full' changes: one of ['sliding', "
        "'simplicial', 'tempered', 'narrow'].",
    ),
    "another kind": (
        lambda: tiny_model(attention_types="full, sliding"),
        "tempered",
        {"layers": [1]},
        "layers[0]=1, but attention_types[1]='sliding' is not one of ['full'], which the lift 'tempered' changes.",
    ),
    "condition": (
        tiny_model,
        "tempered",
        {"tempered_start": 2.0},
        "tempered_start=2.0 must be 1: the scores are multiplied by it.",
    ),
    "condition of the way back": (
        lambda: tiny_model(attention_types="tempered", tempered_start=2.0),
        "full",
        {},
        "tempered_start=2.0 must be 1: the scores are multiplied by it.",
    ),
    "value": (tiny_model, "tempered", {"tempered_start": "1"}, "tempered_start='1' must be a float."),
    "option": (tiny_model, "tempered", {"factor": 1}, "The lift 'tempered' has no option 'factor', but ['stack', "),
    "read already": (
        lambda: tiny_model(attention_types="full, tempered"),
        "tempered",
        {"tempered_start": 3.0},
        "tempered_start=3.0 would change the layers [1], too, which read tempered_start=1.0 already. Leave it out.",
    ),
    "trained": (
        trained,
        "full",
        {},
        "'layers.1.self_attn.factor' is none of 'full', and differs from that of a new layer: with it 'tempered' does "
        "not equal 'full'.",
    ),
    "shape": (
        lambda: tiny_model(num_key_value_heads=1),
        "narrow",
        {},
        "'layers.0.self_attn.k_proj.weight' of (8, 32) would be of (32, 32) in a layer of 'narrow': weights of one",
    ),
    "nothing to silence": (
        lambda: tiny_model(attention_types="mean"),
        "deeper",
        {"after": [0]},
        "self_attn is a Mean, which has none of ['o_proj', 'down_proj'] to be zero: the lift 'deeper' cannot make a",
    ),
    "nothing to copy": (
        lambda: tiny_model(TrineModel, is_causal=False),
        "encoder_decoder",
        {"decoder": lambda: tiny_model(attention_types="mean"), "cross_attention": "self", "eos_token_id": 2},
        "layers.0.self_attn is a Mean, which has no q_proj, so that cross-attention cannot be a copy; use cross_atten",
    ),
}


def message_of(name: str) -> str:
    """What a lift that is refused says."""
    make, kind, options, _ = ERRORS[name]
    options = {key: value() if callable(value) else value for key, value in options.items()}
    return refused(make(), kind, **options)


def cold_layers() -> str:
    """What the way back says of 2-simplicial layers that did not begin as dot-product attention."""
    return refused(tiny_model(attention_types="simplicial"), "full")


def refused(model, kind: str, **options) -> str:
    try:
        lift(model, kind, **options)
    except ValueError as error:
        return str(error)
    return ""


def clashes() -> list[str]:
    """What a lift says whose name is that of a kind, too, and of kinds of two fields."""
    with tables_restored():
        register_attention("deeper", PairwiseAttention, equals={"full": None}, shareable=False)
        first = refused(tiny_model(), "deeper", after=[0])
    with tables_restored():
        register_feed_forward("tempered", Doubled, equals={"dense": None}, shareable=False)
        return [first, refused(tiny_model(), "tempered")]


def all_messages(folder: Path) -> list[str]:
    """What all of these say."""
    with tables_restored():
        load_tempered(folder)
        register_others()
        return [*map(message_of, ERRORS), *clashes()]

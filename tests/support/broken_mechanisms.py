"""Mechanisms that are each wrong in one way. They are registered when this is loaded as a plugin."""

import torch
from torch import nn

from trine import (
    PairwiseAttention,
    PositionEncoding,
    StateAttention,
    StatesCacheLayer,
    TrineRouter,
    register_attention,
    register_feed_forward,
    register_position,
    register_router,
)


@register_attention("right")
class Right(PairwiseAttention):
    """Nothing is wrong."""


@register_attention("right_state")
class RightState(StateAttention):
    """A fading sum of outer products: nothing is wrong."""

    def inputs(self, hidden_states, query, key, value):
        return query, key, value, key.new_full(key.shape[:3], 0.9)

    def without_padding(self, inputs, is_token):
        *others, fading = inputs
        return *super().without_padding(tuple(others), is_token), torch.where(is_token, fading, 1)

    def scan(self, state, query, key, value, fading):
        memory = torch.zeros_like(key[:, :, 0, :, None] * value[:, :, 0, None]) if state is None else state[0]
        outputs = []
        for place in range(query.shape[2]):
            memory = self.keep(memory, fading[:, :, place, None, None])
            memory = memory + key[:, :, place, :, None] * value[:, :, place, None]
            outputs.append(torch.einsum("bhk,bhkv->bhv", query[:, :, place], memory))
        return torch.stack(outputs, dim=2), (memory,)

    def keep(self, memory, fading):
        return memory * fading


@register_attention("wrong_shape")
class WrongShape(PairwiseAttention):
    """Gives one token less."""

    def forward(self, hidden_states, visibility=None, **kwargs):
        return super().forward(hidden_states, visibility, **kwargs)[0][:, 1:], None


@register_attention("bare_tensor")
class BareTensor(PairwiseAttention):
    """Returns no weights, and nothing in their place."""

    def forward(self, hidden_states, visibility, **kwargs):
        return super().forward(hidden_states, visibility, **kwargs)[0]


@register_attention("never_filled")
class NeverFilled(PairwiseAttention):
    """Has a parameter that nothing fills."""

    def __init__(self, config, layer_idx):
        super().__init__(config, layer_idx)
        self.temperature = nn.Parameter(torch.empty(config.num_attention_heads, 1, 1))

    def scores(self, query, key):
        return super().scores(query, key) * self.temperature


@register_attention("filled_early")
class FilledEarly(PairwiseAttention):
    """Has a parameter that the constructor alone fills."""

    def __init__(self, config, layer_idx):
        super().__init__(config, layer_idx)
        self.temperature = nn.Parameter(torch.full((config.num_attention_heads, 1, 1), 2.0))

    def scores(self, query, key):
        return super().scores(query, key) * self.temperature


@register_attention("detached")
class Detached(PairwiseAttention):
    """Scores get no gradient."""

    def scores(self, query, key):
        return super().scores(query.detach(), key)


@register_attention("unused")
class Unused(PairwiseAttention):
    """Has a projection that nothing reads."""

    def __init__(self, config, layer_idx):
        super().__init__(config, layer_idx)
        self.gate = nn.Linear(config.hidden_size, config.hidden_size)


@register_attention("looks_ahead")
class LooksAhead(PairwiseAttention):
    """Hides padding, but no later token."""

    def weights(self, scores, visible):
        return super().weights(scores, None if visible is None else visible.any(dim=2, keepdim=True))


@register_attention("looks_far_ahead")
class LooksFarAhead(PairwiseAttention):
    """Hides no later token in texts of more than 128 tokens."""

    def weights(self, scores, visible):
        return super().weights(scores, None if scores.shape[2] > 128 else visible)


@register_attention("normalizes_columns")
class NormalizesColumns(PairwiseAttention):
    """Weights of a key depend on all queries that see it."""

    def weights(self, scores, visible):
        weights = scores.exp() if visible is None else scores.exp() * visible
        return weights / weights.sum(dim=2, keepdim=True).clamp(min=1e-6)


@register_attention("one_sided")
class OneSided(PairwiseAttention):
    """Looks back in encoders, too."""

    def mix(self, query, key, value, visible, position_bias=None):
        past = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool).tril(key.shape[2] - query.shape[2])
        return super().mix(query, key, value, past if visible is None else visible & past, position_bias)


@register_attention("forgets_padding")
class ForgetsPadding(RightState):
    """Padding changes the state."""

    def without_padding(self, inputs, is_token):
        return inputs


@register_attention("leaks_between_texts")
class LeaksBetweenTexts(RightState):
    """Packed texts share a state."""

    def scan_apart(self, segments, state, *inputs):
        return self.scan(state, *inputs)


@register_attention("deaf_to_bias")
class DeafToBias(PairwiseAttention):
    """Positions that bias scores do nothing."""

    def mix(self, query, key, value, visible, position_bias=None):
        return super().mix(query, key, value, visible)


@register_attention("forgets_a_token")
class ForgetsAToken(RightState):
    """Reads the state as if a token lay between."""

    def scan(self, state, *inputs):
        return super().scan(None if state is None else (state[0] * 0.9,), *inputs)


@register_attention("forgets_chunks")
class ForgetsChunks(RightState):
    """Reads chunks of 64 tokens, of which only the first knows what came before."""

    def scan(self, state, *inputs):
        outputs = []
        for chunk in zip(*(part.split(64, dim=2) for part in inputs), strict=True):
            output, last = super().scan(None if outputs else state, *chunk)
            outputs.append(output)
        return torch.cat(outputs, dim=2), last


@register_attention("writes_keys")
class WritesKeys(PairwiseAttention):
    """Multiplies keys in place, which are those of the cache where heads are not grouped."""

    def scores(self, query, key):
        return super().scores(query, key.mul_(1.1))


class SumLayer(StatesCacheLayer):
    """A sum and a count of all values."""

    names = ("total",)

    def update(self, key_states, value_states, *args, **kwargs):
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.total = torch.zeros_like(value_states[:, :1])
        sums = self.total + value_states.cumsum(dim=1)
        self.total, count = sums[:, -1:], torch.arange(value_states.shape[1]) + self.cumulative_length + 1
        self.cumulative_length += value_states.shape[1]
        return sums, count

    def remove(self, count):
        """Wrong: the sum stays."""


class UnnamedLayer(SumLayer):
    """Its sum is not named, and stays in place when rows change theirs."""

    names = ()
    total = None


class Average(nn.Module):
    """The running mean of projected tokens, which begins anew with each text, and leaves padding out."""

    cache_layer_class = SumLayer
    causal_only = True

    def __init__(self, config, layer_idx):
        super().__init__()
        self.layer_idx = layer_idx
        self.proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def forward(self, hidden_states, visibility, *, past_key_values=None, position_ids=None, **kwargs):
        values = self.proj(hidden_states)
        cache = self.cache_layer_class() if past_key_values is None else past_key_values.layers[self.layer_idx]
        sums, count = cache.update(values, values)
        return sums / count.view(-1, 1), None


@register_attention("wrong_crop")
class WrongCrop(Average):
    """Tokens that were taken back are still in the sum."""


@register_attention("wrong_reorder")
class WrongReorder(Average):
    """Beams that change places leave their sums behind."""

    cache_layer_class = UnnamedLayer


@register_attention("sees_empty_places")
class SeesEmptyPlaces(PairwiseAttention):
    """Takes all keys of a cache for tokens, where there is one query."""

    def mix(self, query, key, value, visible, position_bias=None):
        return super().mix(query, key, value, None if query.shape[2] == 1 else visible, position_bias)


@register_attention("writes_attributes")
class WritesAttributes(PairwiseAttention):
    """Leaves its scores behind."""

    def scores(self, query, key):
        self.last = super().scores(query, key)
        return self.last


@register_attention("counts_calls")
class CountsCalls(PairwiseAttention):
    """Changes a buffer in place."""

    def __init__(self, config, layer_idx):
        super().__init__(config, layer_idx)
        self.calls = nn.Buffer(torch.zeros(()))

    def initialize(self):
        super().initialize()
        nn.init.zeros_(self.calls)

    def scores(self, query, key):
        self.calls += 1
        return super().scores(query, key)


@register_attention("wrong_dtype")
class WrongDtype(PairwiseAttention):
    """Returns float32 whatever the model has."""

    def forward(self, hidden_states, visibility, **kwargs):
        output, weights = super().forward(hidden_states, visibility, **kwargs)
        return output if output.dtype == torch.float64 else output.float(), weights


@register_attention("overflows")
class Overflows(PairwiseAttention):
    """Weights are exponentials that half precision cannot hold."""

    def weights(self, scores, visible):
        weights = (scores.clamp(-1, 1) + 12).exp()
        weights = weights if visible is None else weights * visible
        return weights / weights.sum(dim=-1, keepdim=True)


@register_attention("single_precision")
class SinglePrecision(PairwiseAttention):
    """Computes weights in float32, also where the model has float64."""

    def weights(self, scores, visible):
        single = scores.float() if visible is None else scores.float().masked_fill(~visible, -1e9)
        return single.softmax(dim=-1).to(scores.dtype)


@register_attention("other_when_repeated")
class OtherWhenRepeated(PairwiseAttention):
    """Each second call gives something else."""

    calls = 0

    def scores(self, query, key):
        type(self).calls += 1
        return super().scores(query, key) * (1 + type(self).calls % 2 * self.training)


@register_attention("asks_values")
class AsksValues(PairwiseAttention):
    """Takes another way where a score is large."""

    def scores(self, query, key):
        scores = super().scores(query, key)
        return scores if scores.max() < 1000 else scores.clamp(max=1000)


@register_attention("noisy")
class Noisy(PairwiseAttention):
    """Training drowns in noise."""

    def forward(self, hidden_states, visibility, **kwargs):
        output, weights = super().forward(hidden_states, visibility, **kwargs)
        return output + 1000 * self.training * torch.randn_like(output), weights


@register_attention("overwrites")
class Overwrites(FilledEarly):
    """Fills its parameter by an assignment, also after it was loaded."""

    def initialize(self):
        super().initialize()
        self.temperature.data = torch.full_like(self.temperature, 2.0)


@register_attention("equals_nothing", equals={"full": None})
class EqualsNothing(PairwiseAttention):
    """Says that it equals softmax attention, but has a scale of its own."""

    def scores(self, query, key):
        return 1.5 * super().scores(query, key)


@register_position("counts_places")
class CountsPlaces(PositionEncoding):
    """Adds waves of places in the batch, in place of `position_ids`."""

    def add_to(self, inputs_embeds, position_ids):
        places = torch.arange(inputs_embeds.shape[1], dtype=inputs_embeds.dtype)
        return inputs_embeds + places[:, None].sin()


@register_feed_forward("mixes_tokens")
class MixesTokens(nn.Module):
    """Subtracts the mean of the text."""

    def __init__(self, config):
        super().__init__()
        self.proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden_states):
        return self.proj(hidden_states - hidden_states.mean(dim=1, keepdim=True))


@register_feed_forward("one_for_all")
class OneForAll(nn.Module):
    """Gives one vector for the whole text."""

    def __init__(self, config):
        super().__init__()
        self.proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden_states):
        return self.proj(hidden_states[:, :1])


@register_feed_forward("pair_returned")
class PairReturned(OneForAll):
    """Returns a pair, as attention does."""

    def forward(self, hidden_states):
        return self.proj(hidden_states), None


@register_router("overflowing")
class Overflowing(TrineRouter):
    """Scores are exponentials of large numbers."""

    def scores(self, router_logits):
        return (router_logits.float() + 100).exp()

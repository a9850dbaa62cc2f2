"""The tests of generation in a checkout of transformers, and what they need to be about our models and their peers."""

from unittest.mock import patch

import torch
from conformance.adapted import common
from conformance.known import has_no_weights
from conformance.upstream import CHECKOUT
from transformers.cache_utils import EncoderDecoderCache


class Generation(common.GenerationTesterMixin):
    """What the common tests of generation take for granted, said for caches and weights of every kind.

    Without a checkout it holds no test.
    """

    # What a decorator leaves behind when it has made two tests of one: it can be called, and does nothing.
    test_generate_from_inputs_embeds = None

    def prepare_config_and_inputs_for_generate(self, batch_size=2):
        """Prompts without padding on the right: behind it, layers with short windows see padding only."""
        config, inputs = super().prepare_config_and_inputs_for_generate(batch_size)
        return config, {**inputs, "attention_mask": torch.ones_like(inputs["input_ids"])}

    def _check_past_key_values_for_generate(self, batch_size, past_key_values, seq_length, config):
        """Every layer has counted all tokens, whatever it keeps of them."""
        if isinstance(past_key_values, EncoderDecoderCache):
            past_key_values = past_key_values.self_attention_cache
        layers = past_key_values.layers
        assert len(layers) == config.get_text_config(decoder=True).num_hidden_layers
        assert [int(layer.get_seq_length()) for layer in layers] == [seq_length] * len(layers)
        assert all(len(layer.keys) == batch_size for layer in layers if getattr(layer, "keys", None) is not None)

    def _check_attentions_for_generate(
        self, batch_size, attentions, prompt_length, output_length, config, decoder_past_key_values
    ):
        """A row of entries for each step, whose weights, where a layer has any, sum to 1 over at most all tokens."""
        config, cache = config.get_text_config(decoder=True), decoder_past_key_values
        room = [] if cache is None else [cache.get_max_length(index) for index in range(len(cache.layers))]
        if attentions == ():  # of assisted decoding where no layer has weights
            assert has_no_weights(self.run_of)
            return
        assert len(attentions) == output_length - prompt_length
        for step, weights in enumerate(attentions):
            queries = 1 if cache is not None and step else prompt_length + step
            check_weights(weights, (batch_size, config.num_attention_heads, queries), max([output_length, *room]))

    def _check_encoder_attention_for_generate(self, attentions, batch_size, config, prompt_length):
        heads = getattr(config, "encoder", config).num_attention_heads
        check_weights(attentions, (batch_size, heads, prompt_length), prompt_length)

    def _check_hidden_states_for_generate(self, *, config, **kwargs):
        super()._check_hidden_states_for_generate(config=config.get_text_config(decoder=True), **kwargs)

    def _check_encoder_hidden_states_for_generate(self, *, config, **kwargs):
        super()._check_encoder_hidden_states_for_generate(config=getattr(config, "encoder", config), **kwargs)


def check_weights(weights, shape, most_keys):
    for layer_weights in (layer for layer in weights if layer is not None):
        assert layer_weights.shape[:3] == shape and layer_weights.shape[3] <= most_keys
        torch.testing.assert_close(layer_weights.sum(dim=-1), torch.ones(shape), rtol=1e-4, atol=1e-4)


class Seq2SeqGeneration(Generation):
    """An encoder-decoder goes on from a decoder without padding on the right."""

    if CHECKOUT:

        def test_generate_continue_from_past_key_values(self):
            prepare = self.model_tester.prepare_config_and_inputs_for_common

            def unpadded():
                config, inputs = prepare()
                mask = {"decoder_attention_mask": torch.ones_like(inputs["decoder_input_ids"])}
                return config, {**inputs, **mask}

            with patch.object(self.model_tester, "prepare_config_and_inputs_for_common", unpadded):
                super().test_generate_continue_from_past_key_values()


GENERATION = {
    "decoder": Generation,
    "encoder": Generation,
    "encoder-decoder": Seq2SeqGeneration,
    "recurrent": Seq2SeqGeneration,
}

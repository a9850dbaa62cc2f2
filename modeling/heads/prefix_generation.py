"""Generation from a prefix that is read both ways."""

from typing import Any

from transformers import GenerationMixin

from ...configuration.choices import Choices


class PrefixGeneration(GenerationMixin):
    """`generate` of a decoder with `config.prefix_lm`: `prefix_length` tokens of the prompt, by default all, see each
    other. The first pass over the prompt reads them; with a cache, later steps need nothing.

    A cache that already holds tokens was filled with the prefix of its own prompt: no more is read both ways then.
    """

    def _prepare_cache_for_generation(
        self, generation_config: Any, model_kwargs: dict, generation_mode: Any, batch_size: int, max_cache_length: int
    ) -> None:
        """Fills in the prefix, as soon as padding is known and the batch has its beams.

        Raises:
            ValueError: It is longer than the prompt: what is generated would be a part of it, and change it.
        """
        cache, prefix = model_kwargs.get("past_key_values"), model_kwargs.get("prefix_length")
        is_new = cache is None or not cache.get_seq_length()
        if self.config.prefix_lm and is_new:  # pyright: ignore[reportAttributeAccessIssue] of the model
            tokens = model_kwargs["position_ids"][:, -1] + 1
            if prefix is None:
                model_kwargs["prefix_length"] = tokens
            elif (tokens < prefix).any():
                raise ValueError(f"prefix_length={prefix} is above the number of tokens in the prompts, {tokens}.")
        super()._prepare_cache_for_generation(  # pyright: ignore[reportAttributeAccessIssue] of the model
            generation_config, model_kwargs, generation_mode, batch_size, max_cache_length
        )

    def prepare_inputs_for_generation(
        self,
        input_ids: Any,
        past_key_values: Any = None,
        attention_mask: Any = None,
        inputs_embeds: Any = None,
        prefix_length: Any = None,
        **kwargs: Any,
    ) -> dict:
        """Hands the prefix to the pass that reads it, with the padding mask that a static cache would replace."""
        inputs = super().prepare_inputs_for_generation(  # pyright: ignore[reportAttributeAccessIssue] of the model
            input_ids,
            past_key_values=past_key_values,
            attention_mask=attention_mask,
            inputs_embeds=inputs_embeds,
            **kwargs,
        )
        if prefix_length is None:
            return inputs
        is_read = past_key_values is not None and past_key_values.get_seq_length()
        if is_read and not kwargs.get("is_first_iteration"):
            return inputs
        return {**inputs, "attention_mask": attention_mask, "prefix_length": prefix_length}


PREFIXED = Choices("prefix_lm", {True: PrefixGeneration})

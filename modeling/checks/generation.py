"""Checks of the arguments of `generate`, and mends of transformers' prefill."""

from typing import Any

import torch
from transformers import GenerationConfig, GenerationMixin

from ...configuration.choices import Choices, in_package


BOUNDED_POSITIONS = ("learned",)  # the position types that end at `max_position_embeddings`


class MendedPrefill(GenerationMixin):
    """The mend of `generate` that encoder-decoders need."""

    def _prefill(self, input_ids: Any, generation_config: Any, model_kwargs: dict, *args: Any, **kwargs: Any) -> Any:
        """Lets an encoder-decoder go on from a cache, which an assistant does in each round, as a decoder does.

        Transformers tells by the length of the mask that `input_ids` hold the cached tokens too, and makes no mask for
        the target: it would read them a second time.
        """
        cache, mask = model_kwargs.get("past_key_values"), model_kwargs.get("decoder_attention_mask")
        without_mask = self.config.is_encoder_decoder and mask is None  # pyright: ignore[reportAttributeAccessIssue] of the model
        if without_mask and cache is not None and 0 < cache.get_seq_length() < input_ids.shape[1]:
            generation_config._mask_length = input_ids.shape[1]
        return super()._prefill(input_ids, generation_config, model_kwargs, *args, **kwargs)  # pyright: ignore[reportAttributeAccessIssue] a model's


PREFILLS = Choices("is_encoder_decoder", {True: MendedPrefill})


class MendedGeneration(*PREFILLS.values(), GenerationMixin):  # pyright: ignore[reportGeneralTypeIssues] one or none
    """Mends of `generate` itself."""

    def _assisted_decoding(self, *args: Any, inputs_tensor: torch.Tensor | None = None, **kwargs: Any) -> Any:
        """Mends two things of transformers' loop over drafts.

        It looks at the first layer's attention weights, though there may be none at all; and `assistant_early_exit`
        takes layers away while it drafts, which an error would leave so.

        Args:
            inputs_tensor: What the encoder of an assistant reads. `generate` hands it to who names it.
        """
        model: Any = self
        layers = getattr(model.config, "num_hidden_layers", None)
        handle = model.register_forward_hook(tell_of_no_weights)
        try:
            return super()._assisted_decoding(*args, inputs_tensor=inputs_tensor, **kwargs)
        finally:
            handle.remove()
            if layers is not None:
                model.config.num_hidden_layers = layers


class CheckedGeneration(MendedGeneration):
    """`generate` with checks of its arguments.

    Each method overrides one that `generate` calls when the values to be checked are at hand. They look at masks and
    positions once per call, never in a step.
    """

    def generate(self, *args: Any, prefix_cache: Any = None, **kwargs: Any) -> Any:
        """Transformers'; with a `PrefixCache`, what was read before is not read again."""
        if prefix_cache is None:
            return super().generate(*args, **kwargs)
        if not hasattr(prefix_cache, "cached_tokens"):
            raise ValueError(f"prefix_cache={prefix_cache!r} must be a PrefixCache of trine.generation.")
        return prefix_cache.generate(self, *args, **kwargs)

    def position_limits(self) -> tuple[int | None, int | None]:
        """Numbers of positions of the stack that reads the source and of the one that writes; None is no limit."""
        config: Any = self.config  # pyright: ignore[reportAttributeAccessIssue] of the model
        stacks = [getattr(config, side, None) or config for side in ("encoder", "decoder")]
        source, target = [
            stack.max_position_embeddings if getattr(stack, "position_type", None) in BOUNDED_POSITIONS else None
            for stack in stacks
        ]
        return source, target

    def _prepare_generation_config(
        self, generation_config: GenerationConfig | None, **kwargs: Any
    ) -> tuple[GenerationConfig, dict]:
        prepared, model_kwargs = super()._prepare_generation_config(generation_config, **kwargs)
        if not prepared.is_assistant:  # its settings are those of the model that it helps
            own: Any = self
            asked = [kwargs.get("top_k"), getattr(generation_config, "top_k", None), own.generation_config.top_k]
            top_k = next((value for value in asked if value is not None), 0)  # not transformers' 50
            check_settings(prepared, top_k, own.config.get_text_config(decoder=True).vocab_size)
            check_early_exit(prepared.assistant_early_exit, own.config)
        return prepared, model_kwargs

    def _prepare_model_inputs(self, inputs: Any, bos_token_id: Any, model_kwargs: dict) -> tuple[Any, Any, dict]:
        prepared = super()._prepare_model_inputs(inputs, bos_token_id, model_kwargs)
        tensor, name, model_kwargs = prepared
        mask = model_kwargs.get("attention_mask")
        check_input(tensor, mask, name or "inputs")
        if self.config.is_encoder_decoder:  # pyright: ignore[reportAttributeAccessIssue] of the model
            length = tensor.shape[1] if mask is None else int(mask.sum(dim=-1).max())
            check_reach(length, self.position_limits()[0], "The source", "Shorten it.")
        return prepared

    def _prepare_cache_for_generation(
        self, generation_config: Any, model_kwargs: dict, generation_mode: Any, batch_size: int, max_cache_length: int
    ) -> None:
        self.check_target_length(generation_config, model_kwargs, max_cache_length)
        check_offloading(generation_config.cache_implementation, self.device)  # pyright: ignore[reportAttributeAccessIssue] of the model
        super()._prepare_cache_for_generation(
            generation_config, model_kwargs, generation_mode, batch_size, max_cache_length
        )

    def check_target_length(self, generation_config: Any, model_kwargs: dict, last: int) -> None:
        """Raises a `ValueError` for a text beyond the positions; `last` tokens are read when it is complete."""
        limit = self.position_limits()[1]
        if limit is not None:
            what = f"max_length={generation_config.max_length}, of input and output,"
            advice = "Shorten the input, or lower max_new_tokens or max_length."
            check_reach(last - count_padding(model_kwargs), limit, what, advice)


def check_settings(config: GenerationConfig, top_k: int, vocab_size: int) -> None:
    """Raises a `ValueError` for numbers that have no meaning: of beams always, of sampling where it is on."""
    if not (isinstance(config.num_beams, int) and config.num_beams >= 1):
        raise ValueError(f"num_beams={config.num_beams} must be a whole number of at least 1; 1 is no beam search.")
    if not config.do_sample:
        return
    if config.temperature is not None and not config.temperature > 0:
        raise ValueError(
            f"temperature={config.temperature} must be above 0; do_sample=False always takes the best token."
        )
    if config.top_p is not None and not 0 < config.top_p <= 1:
        raise ValueError(f"top_p={config.top_p} must be above 0 and at most 1; 1 keeps every token.")
    if not (isinstance(top_k, int) and 0 <= top_k <= vocab_size):
        raise ValueError(
            f"top_k={top_k} must be a whole number from 0 to vocab_size={vocab_size}; 0 keeps every token."
        )


def check_early_exit(layer: int | None, config: Any) -> None:
    """Raises a `ValueError` if a draft cannot leave the model after so many layers."""
    if layer is None:
        return
    if config.is_encoder_decoder:
        raise ValueError(
            f"assistant_early_exit={layer} is for decoders, but this is an encoder-decoder (model_type="
            f"'{config.model_type}'). Give it an assistant_model, or prompt_lookup_num_tokens."
        )
    if isinstance(layer, bool) or not (isinstance(layer, int) and 1 <= layer <= config.num_hidden_layers):
        raise ValueError(
            f"assistant_early_exit={layer} must be a number of layers, from 1 to "
            f"num_hidden_layers={config.num_hidden_layers}."
        )


def check_offloading(cache_implementation: str | None, device: torch.device) -> None:
    """Raises a `ValueError` if a cache is to be moved to the CPU that is there already."""
    if cache_implementation is not None and "offloaded" in cache_implementation and device.type == "cpu":
        raise ValueError(
            f"cache_implementation='{cache_implementation}' moves the cache from an accelerator to the CPU, but the "
            "model is on the CPU. Leave it out, or take 'dynamic' or 'static'."
        )


def tell_of_no_weights(module: Any, args: Any, output: Any) -> None:
    """A forward hook that returns None, not an empty tuple, for attention weights that no layer has."""
    if getattr(output, "attentions", None) == ():
        output.attentions = (None,)


def check_input(tensor: torch.Tensor, mask: torch.Tensor | None, name: str) -> None:
    """Raises a `ValueError` unless every row of the input has a token."""
    if tensor.ndim < 2 or tensor.numel() == 0:
        raise ValueError(
            f"{name} has shape {tuple(tensor.shape)}, but must be (batch, length) with one token at least. An empty "
            "text can be begun with the token bos_token_id."
        )
    if mask is not None and mask.ndim == 2:
        tokens = (mask != 0).any(dim=-1)
        if not bool(tokens.all()):
            row = int(tokens.long().argmin())
            raise ValueError(f"attention_mask[{row}] has no token. An empty text can be begun with bos_token_id.")


def check_reach(length: int, limit: int | None, what: str, advice: str) -> None:
    """Raises a `ValueError` if `length` positions are more than there are."""
    if limit is not None and length > limit:
        raise ValueError(
            f"{what} reaches position {length - 1}, but max_position_embeddings={limit} allows 0 to {limit - 1}. "
            f"{advice}"
        )


def count_padding(model_kwargs: dict) -> int:
    """Counts the padding of the row of the prompt that has the least."""
    position_ids = model_kwargs.get("position_ids")
    if position_ids is not None:
        return position_ids.shape[-1] - 1 - int(position_ids.max())
    mask = model_kwargs.get("decoder_attention_mask")
    return 0 if mask is None else int((mask == 0).sum(dim=-1).min())


# A base of models that generate, before `MendedGeneration`. A checkpoint's code does not check what is asked for.
CHECKED = in_package((CheckedGeneration,))

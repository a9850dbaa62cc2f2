"""Several models that predict each token together, in every way of decoding that one model has."""

# Shapes: M members, B batch, T target tokens, S source tokens, V vocabulary.

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.modeling_outputs import CausalLMOutputWithPast, Seq2SeqLMOutput

from ...configuration.patterns import check_choice
from ...modeling.checks.generation import CheckedGeneration
from .cache import EnsembleCache
from .encoder import EnsembleEncoder, split_outputs


def mix_probabilities(log_probs: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """log sum_m w_m p_m of (M, ..., V)."""
    return torch.logsumexp(log_probs + weights.log().view(-1, *[1] * (log_probs.ndim - 1)), dim=0)


def mix_log_probabilities(log_probs: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """log of prod_m p_m^w_m, normalised, of (M, ..., V)."""
    return torch.tensordot(weights, log_probs, dims=1).log_softmax(dim=-1)


AVERAGES = {"probabilities": mix_probabilities, "log_probabilities": mix_log_probabilities}
TOKEN_FIELDS = ["bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id"]


class EnsembleConfig(PreTrainedConfig):
    """The fields of a config that `generate` reads of an ensemble. It is not saved."""

    model_type = "trine_ensemble"
    vocab_size: int = 0
    max_position_embeddings: int | None = None


class Ensemble(PreTrainedModel, CheckedGeneration, GenerationMixin):
    """Several trained models as one: the probability of the next token is the mean of theirs.

    `Ensemble([first, second]).generate(...)` takes what `generate` of a member takes: greedy search, sampling, beams,
    streaming, assistants, prompt lookup, constraints, chunked prefill, and `CoverageBeamSearch`, which then counts the
    mean of the members' attention. Each member keeps a cache of its own. Members may differ in size and kind, and
    decoders of any class of transformers can be members; time and memory are the sums.

    Its logits are log-probabilities, so processors that depend on more than differences of logits, as
    `repetition_penalty` does, do other than with one model.

    Args:
        members: Decoders, or encoder-decoders, with equal vocabularies and special tokens, on one device.
        weights: One for each, divided by their sum. Default: equal.
        average: "probabilities" is the arithmetic mean, the mixture. "log_probabilities" is the geometric one,
            normalised, in which every member can veto.

    Raises:
        ValueError: There is no member, one cannot generate, or they or the weights do not fit.
    """

    config_class = EnsembleConfig
    main_input_name = "input_ids"
    _supports_sdpa = True

    def __init__(self, members: Sequence[Any], weights: Sequence[float] | None = None, average: str = "probabilities"):
        check_members(members)
        check_choice("average", average, AVERAGES)
        super().__init__(_common_config(members))
        self.members = nn.ModuleList(members)
        # Nothing is initialised here, and `post_init`, which does that, is not called: the members are trained.
        self.average, self.weights = average, check_weights(weights, len(members))
        self.generation_config = copy.deepcopy(members[0].generation_config)
        self._is_stateful = any(member._is_stateful for member in members)
        self.train(all(member.training for member in members))

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        decoder_input_ids: torch.Tensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
        encoder_outputs: Any = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast | Seq2SeqLMOutput:
        """Runs every member on the same tokens. Arguments are theirs, and those that are None are not passed on.

        Args:
            encoder_outputs: What `get_encoder()` returned.
            past_key_values: An `EnsembleCache`.

        Returns:
            `logits` (B, kept, V): log-probabilities of the mixture, in float32 or better. `past_key_values`. With
            `output_attentions`, `cross_attentions`: one tensor (B, 1, T, S), the mean over heads and members of each
            one's last layer, or None if a member has none.

        Raises:
            ValueError: `past_key_values` is not an ensemble's.
        """
        if past_key_values is not None and not isinstance(past_key_values, EnsembleCache):
            raise ValueError(
                f"past_key_values is a {type(past_key_values).__name__}, but must be the EnsembleCache of an earlier "
                "call."
            )
        given = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "position_ids": position_ids,
            "decoder_input_ids": decoder_input_ids,
            "decoder_attention_mask": decoder_attention_mask,
            "use_cache": use_cache,
            **kwargs,
            "logits_to_keep": logits_to_keep,
            "return_dict": True,
        }
        given = {name: value for name, value in given.items() if value is not None}
        caches = past_key_values.members if past_key_values is not None else [None] * len(self.members)
        outputs = []
        for member, cache, states in zip(
            self.members, caches, self.split_encoder_outputs(encoder_outputs), strict=True
        ):
            own = {"past_key_values": cache, "encoder_outputs": states}
            outputs.append(member(**given, **{name: value for name, value in own.items() if value is not None}))
        found: dict[str, Any] = {
            "logits": self.mix_logits([output.logits for output in outputs]),
            "past_key_values": _join_caches(outputs),
        }
        if not self.config.is_encoder_decoder:
            return CausalLMOutputWithPast(**found)
        return Seq2SeqLMOutput(**found, cross_attentions=self.mean_attentions(outputs))

    def mix_logits(self, logits: list[torch.Tensor]) -> torch.Tensor:
        """Log-probabilities of the mixture, (B, kept, V), of each member's logits."""
        dtype = torch.promote_types(logits[0].dtype, torch.float32)
        log_probs = torch.stack([one.to(logits[0].device, dtype).log_softmax(dim=-1) for one in logits])
        weights = torch.tensor(self.weights, dtype=dtype, device=log_probs.device)
        return AVERAGES[str(self.average)](log_probs, weights)

    def mean_attentions(self, outputs: list[Any]) -> tuple[torch.Tensor] | None:
        """The weighted mean of the members' attention to the source, (B, 1, T, S)."""
        attentions = [output.get("cross_attentions") for output in outputs]
        if any(not layers or layers[-1] is None for layers in attentions):
            return None
        means = [layers[-1].mean(dim=1, keepdim=True) for layers in attentions]
        return (sum(weight * mean for weight, mean in zip(self.weights, means, strict=True)),)  # pyright: ignore[reportReturnType] a tensor

    def position_limits(self) -> tuple[int | None, int | None]:
        """The smallest limits of any member: positions of the source and of the target; None is no limit."""
        members: Any = self.members
        pairs = [member.position_limits() for member in members if hasattr(member, "position_limits")]
        source, target = [
            min((pair[side] for pair in pairs if pair[side] is not None), default=None) for side in (0, 1)
        ]
        return source, target

    def get_encoder(self, modality: str | None = None) -> nn.Module:
        """Returns all encoders as one module."""
        members: Any = self.members
        return EnsembleEncoder(members)

    def split_encoder_outputs(self, encoder_outputs: dict[str, Any] | None) -> list[Any]:
        """The encoder outputs of each member, or None for each where there is no encoder."""
        return [None] * len(self.members) if encoder_outputs is None else split_outputs(encoder_outputs)

    def _prepare_cache_for_generation(
        self, generation_config, model_kwargs: dict, generation_mode, batch_size: int, max_cache_length: int
    ) -> None:
        """Lets each member make its own. Those that make none before their first pass have None."""
        self.check_target_length(generation_config, model_kwargs, max_cache_length)
        if model_kwargs.get("past_key_values") is not None or generation_config.use_cache is False:
            return
        caches = []
        for member, states in zip(
            self.members, self.split_encoder_outputs(model_kwargs.get("encoder_outputs")), strict=True
        ):
            own = {**model_kwargs, "encoder_outputs": states}
            settings = (generation_config, own, generation_mode, batch_size, max_cache_length)
            member._prepare_cache_for_generation(*settings)  # pyright: ignore[reportCallIssue] the mixin's
            caches.append(own.get("past_key_values"))
        model_kwargs["past_key_values"] = EnsembleCache(caches)

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """Always raises a `NotImplementedError`: save the members."""
        raise NotImplementedError("An ensemble is not saved: save its members, and make it anew from them.")


def check_members(members: Sequence[Any]) -> None:
    """Raises a `ValueError` unless the models can predict tokens together."""
    if not members:
        raise ValueError("members is empty: an ensemble needs one model at least.")
    for index, member in enumerate(members):
        if not (isinstance(member, PreTrainedModel) and member.can_generate()):
            raise ValueError(f"members[{index}] is a {type(member).__name__}, which cannot generate.")
        if not getattr(member.config, "decoder_is_causal", True):
            raise ValueError(f"members[{index}] has decoder_is_causal=False: it does not write token by token.")
        if getattr(member.config, "prefix_lm", False):
            raise ValueError(f"members[{index}] has prefix_lm=True, but an ensemble reads no prompt both ways.")
    for index, member in enumerate(members[1:], start=1):
        for name, value, expected in zip(
            ["is_encoder_decoder", "vocab_size", "source vocab_size", *TOKEN_FIELDS],
            _must_agree(member),
            _must_agree(members[0]),
            strict=True,
        ):
            if value != expected:
                raise ValueError(f"members[{index}] has {name}={value}, but members[0] has {expected}.")


def _must_agree(model: Any) -> list[Any]:
    config = model.config
    vocabularies = [config.get_text_config(decoder=side == "decoder").vocab_size for side in ("decoder", "encoder")]
    tokens = [getattr(model.generation_config, name, None) for name in TOKEN_FIELDS]
    return [config.is_encoder_decoder, *vocabularies, *tokens]


def check_weights(weights: Sequence[float] | None, members: int) -> list[float]:
    """Weights that sum to 1.

    Raises:
        ValueError: They are not as many as members, or not all above 0 and finite.
    """
    weights = [1.0] * members if weights is None else list(weights)
    if len(weights) != members:
        raise ValueError(f"weights has {len(weights)} entries, but there are {members} members.")
    for index, weight in enumerate(weights):
        if not (math.isfinite(weight) and weight > 0):
            raise ValueError(f"weights[{index}]={weight} must be a finite number above 0.")
    return [weight / sum(weights) for weight in weights]


def _common_config(members: Sequence[Any]) -> EnsembleConfig:
    configs = [member.config for member in members]
    longest = [getattr(config, "max_position_embeddings", None) for config in configs]
    fields: dict[str, Any] = {"attn_implementation": "eager"}  # never used: it keeps transformers from choosing
    return EnsembleConfig(
        is_encoder_decoder=configs[0].is_encoder_decoder,
        vocab_size=configs[0].get_text_config(decoder=True).vocab_size,
        max_position_embeddings=min((length for length in longest if length is not None), default=None),
        **fields,
    )


def _join_caches(outputs: list[Any]) -> EnsembleCache | None:
    caches = [output.get("past_key_values") for output in outputs]
    return EnsembleCache(caches) if any(cache is not None for cache in caches) else None

"""Mask-predict: all tokens of a target are written at once, then the least certain ones again."""

# Shapes: B batch, C candidates of length, T target tokens with the end token, V vocabulary.

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import GenerationConfig
from transformers.generation.utils import GenerateBeamEncoderDecoderOutput


@dataclass(frozen=True)
class MaskPredict:
    """Parallel decoding of an encoder-decoder that was trained for it: `generate(custom_generate=MaskPredict())`.

    At first every token is masked, and each is set to the most probable one. Then, in iteration t of N, the
    `floor(n * (N - t) / N)` of n tokens that were least probable when they were set are masked and set anew, while the
    others are read. The number of forward passes is that of the iterations, whatever the length.

    Several lengths are tried: that of the source times the mean ratio in the training data, and the nearest to it. The
    best target has the highest log probability per token, plus that of its length: lengths are taken to scatter
    normally around the ratio. Masks and special tokens are never written. All masks look alike, so the model needs
    positions that are added, `learned` or `sinusoidal`.

    The paper predicts lengths with a token of the encoder instead. The ratio needs no weights, but is worse where
    lengths vary much. The paper also compares targets by the probability of their tokens alone.

    Train with `MaskedTargetCollator` and `decoder_is_causal=False`, as `trine train-translation --objective masked`
    does; it keeps mask token, ratio and spread with the model (`keep_settings`).
    Source: Ghazvininejad et al. 2019, arXiv 1904.09324.

    Args:
        iterations: N, at least 1.
        length_candidates: Number of lengths to try, at least 1.
        length_ratio: Target tokens for each token of the source, end tokens among them. Default: the model's
            `generation_config.length_ratio`.
        length_spread: Standard deviation of targets' lengths from that, in tokens. Default: the model's
            `generation_config.length_spread`; with neither, all lengths are equally likely.
        mask_token_id: Default: the model's `generation_config.mask_token_id`.

    Raises:
        ValueError: A number out of its range; in `generate`, a decoder that is causal, beams, sampling, logits
            processors, several outputs a source, or no ratio, mask, end or padding token.
    """

    iterations: int = 10
    length_candidates: int = 5
    length_ratio: float | None = None
    length_spread: float | None = None
    mask_token_id: int | None = None

    reads_both_sides: ClassVar[bool] = True  # what `generate` of the model looks for

    def __post_init__(self):
        for name in ("iterations", "length_candidates"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")
        for name in ("length_ratio", "length_spread"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name}={value} must be a finite number above 0.")

    @torch.no_grad()
    def __call__(
        self,
        model: Any,
        input_ids: Tensor,
        logits_processor: Any,
        stopping_criteria: Any,
        generation_config: GenerationConfig,
        **model_kwargs: Any,
    ) -> Any:
        """Runs the decoding; `generate` calls this. Returns ids (B, 1 + T), the start token first."""
        check_settings(model, input_ids, logits_processor, generation_config)
        mask_id = int(self._setting("mask_token_id", generation_config))
        ratio = self._setting("length_ratio", generation_config)
        spread = self.length_spread or getattr(generation_config, "length_spread", None)
        outputs, source_mask = model_kwargs["encoder_outputs"], model_kwargs.get("attention_mask")
        if source_mask is None:
            states = outputs["last_hidden_state"]
            source_mask = torch.ones(states.shape[:2], dtype=torch.long, device=states.device)
        expected = source_mask.sum(dim=-1) * ratio
        lengths = candidate_lengths(expected, self.length_candidates, generation_config.max_length - 1)
        rows = {"encoder_outputs": outputs, "attention_mask": source_mask}
        _, source = model._expand_inputs_for_generation(lengths.shape[1], is_encoder_decoder=True, **rows)
        target, scores = self.refine(model, source, lengths.flatten(), mask_id, special_ids(generation_config))
        if spread is not None:
            scores = scores + length_log_probs(lengths, expected, spread).flatten()
        scores = scores / (lengths.flatten() - 1)
        best = scores.view(lengths.shape).argmax(dim=-1)
        rows = torch.arange(len(best), device=best.device) * lengths.shape[1] + best
        target = target[rows, : int(lengths.flatten()[rows].max())]
        sequences = torch.cat([input_ids, target], dim=1)
        if not generation_config.return_dict_in_generate:
            return sequences
        return GenerateBeamEncoderDecoderOutput(sequences=sequences, sequences_scores=scores[rows])  # pyright: ignore

    def refine(
        self, model: Any, source: dict[str, Any], lengths: Tensor, mask_id: int, special: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        """Targets (rows, T) of the given lengths (rows,), end tokens among them, and log probabilities (rows,)."""
        places = torch.arange(int(lengths.max()), device=lengths.device)[None]
        written, real = places < lengths[:, None] - 1, places < lengths[:, None]
        target = torch.where(written, mask_id, torch.where(real, special["end"], special["padding"]))
        log_probs = torch.zeros(target.shape, device=target.device)
        never = torch.tensor([mask_id, *special["never"]], device=target.device)
        for iteration in range(self.iterations):
            counts = (lengths - 1) * (self.iterations - iteration) // self.iterations
            masked = least_probable(log_probs, written, counts)
            target = target.masked_fill(masked, mask_id)
            logits = model(
                **source, decoder_input_ids=target, decoder_attention_mask=real.long(), use_cache=False
            ).logits.float()
            best = logits.index_fill(-1, never, -torch.inf).log_softmax(dim=-1).max(dim=-1)
            target = torch.where(masked, best.indices, target)
            log_probs = torch.where(masked, best.values, log_probs)
        return target, log_probs.sum(dim=-1)

    def _setting(self, name: str, generation_config: GenerationConfig) -> float:
        value = getattr(self, name)
        value = getattr(generation_config, name, None) if value is None else value
        if value is None:
            raise ValueError(
                f"{name} is neither given to MaskPredict nor in the model's generation_config: the model was not "
                "trained for mask-predict, or not by 'trine train-translation --objective masked'."
            )
        return value


def keep_settings(model: Any, *, mask_token_id: int, length_ratio: float, length_spread: float) -> None:
    """Stores the settings of `MaskPredict` in a model's generation config, with which they are saved."""
    settings = model.generation_config
    settings._from_model_config = False  # else transformers leaves entries of its own names only when it loads
    settings.update(
        mask_token_id=mask_token_id,
        length_ratio=length_ratio,
        length_spread=length_spread,
        allow_custom_entries=True,
    )


def least_probable(log_probs: Tensor, written: Tensor, counts: Tensor) -> Tensor:
    """Marks in each row the `counts` (rows,) of the `written` places (rows, T) with the least log probability."""
    ranks = log_probs.masked_fill(~written, torch.inf).argsort(dim=-1, stable=True).argsort(dim=-1)
    return written & (ranks < counts[:, None])


def length_log_probs(lengths: Tensor, expected: Tensor, spread: float) -> Tensor:
    """Log probabilities of lengths (B, C) that scatter normally around the expected ones (B,), up to a constant."""
    return -(((lengths - expected[:, None]) / spread) ** 2) / 2


def candidate_lengths(expected: Tensor, candidates: int, most: int) -> Tensor:
    """Lengths of targets (B, C), end tokens among them: the expected one (B,), then the nearest, from 2 to `most`.

    Raises:
        ValueError: No token has a place beside the end token.
    """
    if most < 2:
        raise ValueError(f"max_length={most + 1} leaves no place for a token between the start and the end.")
    offsets = torch.arange(1, candidates + 1, device=expected.device)
    offsets = torch.where(offsets % 2 == 0, offsets // 2, -(offsets // 2))  # 0, 1, -1, 2, -2, ...
    return (expected.round().long()[:, None] + offsets).clamp(2, most)


def special_ids(generation_config: GenerationConfig) -> dict[str, Any]:
    """The end token, the padding, and the ids that are never written between start and end."""
    ends = generation_config.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    padding = generation_config.pad_token_id
    if ends[0] is None or padding is None:
        raise ValueError(f"eos_token_id={ends[0]} and pad_token_id={padding} are both needed for mask-predict.")
    others = (padding, generation_config.bos_token_id, generation_config.decoder_start_token_id)
    return {"end": ends[0], "padding": padding, "never": sorted({*ends, *others} - {None})}


def check_settings(model: Any, input_ids: Tensor, logits_processor: Any, generation_config: GenerationConfig) -> None:
    """Raises an error for settings that mask-predict would ignore."""
    if getattr(model.config, "decoder_is_causal", True):
        raise ValueError(
            f"{type(model).__name__} has decoder_is_causal=True: mask-predict needs a decoder that reads both sides."
        )
    if input_ids.shape[1] != 1:
        raise ValueError(f"decoder_input_ids has {input_ids.shape[1]} tokens; mask-predict begins with one.")
    for name, plain in {"num_beams": 1, "num_return_sequences": 1, "do_sample": False}.items():
        if getattr(generation_config, name) not in (plain, None):
            raise ValueError(
                f"{name}={getattr(generation_config, name)} has no meaning in mask-predict; leave it out."
            )
    if logits_processor:
        names = [type(processor).__name__ for processor in logits_processor]
        raise ValueError(f"logits_processor={names}: mask-predict has no steps to which they could apply.")

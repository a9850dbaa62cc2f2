"""Trainers for Trine's language models: label smoothing in the model's own loss, and scheduled sampling."""

# Shapes: B batch, T tokens of the target, V vocabulary.

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig, Seq2SeqTrainer, Trainer

from .freezing import PartialTrainingMixin


# The probability that a token is the true one, by the share of training that is done; each begins with 1.
SCHEDULES: dict[str, Callable[[float], float]] = {
    "exponential": lambda done: 0.6**done,
    "linear": lambda done: 1 - 0.4 * done,
    "inverse_sigmoid": lambda done: 1 - 0.4 / (1 + math.exp(10 * (0.5 - done))),
    "none": lambda done: 1.0,
}


def keep_use_cache(config: PreTrainedConfig) -> Callable[[], None]:
    """Remembers a config's `use_cache`, which making a trainer sets even where the config has no such field.

    Returns:
        A function that restores it, or removes it.
    """
    before = vars(config).get("use_cache")

    def restore() -> None:
        vars(config).pop("use_cache", None)
        if before is not None:
            config.use_cache = before  # pyright: ignore[reportAttributeAccessIssue] some configs have it

    return restore


class LabelSmoothingMixin:
    """Base of trainers that hands `label_smoothing_factor` to the model, in training only.

    transformers smooths the logits afterwards, which leaves out the router losses of sparse models and needs the
    logits of a whole batch. Here both stay as they are without smoothing; and evaluation losses are plain
    cross-entropies, which compare.

    Name it before a trainer among the bases of a class; the model must be one of Trine's language models.

    Raises:
        ValueError: The factor is not in [0, 1).
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.label_smoother = None
        self.label_smoothing: float = self.args.label_smoothing_factor  # pyright: ignore[reportAttributeAccessIssue]
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing_factor={self.label_smoothing} must be at least 0 and below 1.")

    def compute_loss(self, model, inputs, *args, **kwargs):
        """Passes `label_smoothing` on to the model in training."""
        if model.training and self.label_smoothing:
            inputs = {**inputs, "label_smoothing": self.label_smoothing}
        return super().compute_loss(model, inputs, *args, **kwargs)  # pyright: ignore[reportAttributeAccessIssue]


class TrineTrainer(PartialTrainingMixin, LabelSmoothingMixin, Trainer):
    """The trainer of transformers with label smoothing that suits Trine's models, and training of parts of them."""


class TrineSeq2SeqTrainer(PartialTrainingMixin, LabelSmoothingMixin, Seq2SeqTrainer):
    """The trainer for encoder-decoders, with label smoothing that suits Trine's models, and training of parts."""


class ScheduledSamplingTrainer(TrineSeq2SeqTrainer):
    """A trainer in which the decoder reads its own predictions in place of some true tokens.

    Each token after the first is the true one with the probability of the schedule, and else drawn from what the model
    predicts there. The transformer predicts all tokens in a first pass, which reads the true ones; the recurrent model
    predicts token by token from what it has read itself. No gradient flows through the draws. `teacher_forcing` in the
    logs is the probability. Evaluation reads true tokens only.

    Args:
        schedule: A name in `SCHEDULES`.

    Raises:
        ValueError: The schedule is unknown.

    Source: Bengio et al. 2015, Scheduled sampling, arXiv 1506.03099; two passes: Mihaylova and Martins 2019, arXiv
    1906.07651.
    """

    def __init__(self, *args, schedule: str = "exponential", **kwargs):
        if schedule not in SCHEDULES:
            raise ValueError(f"schedule={schedule!r} is not one of {list(SCHEDULES)}.")
        super().__init__(*args, **kwargs)
        self.schedule = schedule

    @property
    def teacher_forcing(self) -> float:
        """The probability of a true token now."""
        return SCHEDULES[self.schedule](self.state.global_step / max(self.state.max_steps, 1))

    def compute_loss(self, model, inputs, *args, **kwargs):  # pyright: ignore[reportIncompatibleMethodOverride]
        """Replaces some inputs of the decoder by its own predictions in training."""
        if model.training and self.teacher_forcing < 1:
            inputs = {**inputs, "decoder_input_ids": mix_inputs(model, inputs, self.teacher_forcing)}
        return super().compute_loss(model, inputs, *args, **kwargs)

    def log(self, logs: dict[str, float], *args, **kwargs) -> None:
        """Adds the probability of a true token to the training loss."""
        if "loss" in logs:
            logs["teacher_forcing"] = round(self.teacher_forcing, 4)
        super().log(logs, *args, **kwargs)


@torch.no_grad()
def mix_inputs(model: Any, inputs: dict[str, Any], teacher_forcing: float) -> Tensor:
    """`decoder_input_ids` (B, T), each true with this probability; the first and padding are always true."""
    module = getattr(model, "module", model)  # of a wrapper for several processes
    true = inputs.get("decoder_input_ids")
    if true is None:
        true = module.prepare_decoder_input_ids_from_labels(inputs["labels"])
    keep = torch.rand(true.shape, device=true.device) < teacher_forcing
    keep[:, 0] = True
    keep |= true == module.config.pad_token_id
    source = {name: inputs[name] for name in ("input_ids", "attention_mask", "encoder_outputs") if name in inputs}
    model.eval()  # neither dropout nor the count of experts is that of a training pass
    try:
        return METHODS.get(module.config.model_type, in_two_passes)(model, source, true, keep)
    finally:
        model.train()


def in_two_passes(model: Any, source: dict[str, Tensor], true: Tensor, keep: Tensor) -> Tensor:
    """Draws tokens (B, T) from one pass over the true ones, where `keep` (B, T) is False."""
    logits = model(**source, decoder_input_ids=true).logits[:, :-1]
    return torch.where(keep, true, torch.cat([true[:, :1], draw(logits)], dim=1))


def step_by_step(model: Any, source: dict[str, Tensor], true: Tensor, keep: Tensor) -> Tensor:
    """Draws each token of (B, T), where `keep` is False, after those before it, drawn ones too."""
    encoder_outputs = getattr(model, "module", model).get_encoder()(**source)
    source = {"encoder_outputs": encoder_outputs, "attention_mask": source.get("attention_mask")}  # pyright: ignore
    cache, tokens = None, [true[:, :1]]
    for place in range(1, true.shape[1]):
        outputs = model(**source, decoder_input_ids=tokens[-1], past_key_values=cache, use_cache=True)
        cache = outputs.past_key_values
        tokens.append(torch.where(keep[:, place, None], true[:, place, None], draw(outputs.logits)))
    return torch.cat(tokens, dim=1)


def draw(logits: Tensor) -> Tensor:
    """A token (B, T) from each distribution (B, T, V)."""
    return torch.distributions.Categorical(logits=logits.float()).sample()


METHODS = {"trine_recurrent": step_by_step}

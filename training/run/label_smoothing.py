"""Trainers whose label smoothing happens inside the model's own loss."""

from transformers import Seq2SeqTrainer, Trainer


class LabelSmoothingMixin:
    """Hands `label_smoothing_factor` to the model, in training only, instead of smoothing its logits afterwards.

    The library's way leaves out the router losses of sparse models and needs the logits of a whole batch. Here both
    stay as they are without smoothing; and evaluation losses are plain cross-entropies, which compare.

    Goes before a trainer among the bases of a class; the model must be one of Trine's language models.

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
        if model.training and self.label_smoothing:
            inputs = {**inputs, "label_smoothing": self.label_smoothing}
        return super().compute_loss(model, inputs, *args, **kwargs)  # pyright: ignore[reportAttributeAccessIssue]


class TrineTrainer(LabelSmoothingMixin, Trainer):
    """The library's trainer with label smoothing that suits Trine's models."""


class TrineSeq2SeqTrainer(LabelSmoothingMixin, Seq2SeqTrainer):
    """The same for encoder-decoders, with evaluation by generation."""

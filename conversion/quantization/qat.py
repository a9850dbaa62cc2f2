"""Training for weights of few bits: a model learns while its weights are rounded, so that rounding costs less."""

from typing import Any

from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from .schemes import GROUP_SIZE, SCHEMES, Scheme, check_scheme
from .weights import Weight, check_groups, find_weights


def check_trainable(name: str) -> Scheme:
    """The scheme of a name, for whose rounding a model can be trained.

    Raises:
        ValueError: There is no such scheme, it has no weights of few bits, or a package is missing.
    """
    known = [each for each, scheme in SCHEMES.items() if scheme.is_grouped]
    if name in SCHEMES and name not in known:
        raise ValueError(
            f"scheme={name!r} leaves nothing for training to repair: 8 bits lose next to nothing. Training is for "
            f"one of {known}."
        )
    return check_scheme(name)


class QATCallback(TrainerCallback):
    """Trains a model with its weights rounded as a scheme of `trine quantize` will round them.

    From the beginning to the end of training each linear layer that the scheme stores in groups of few bits computes
    with its rounded weight, also in evaluation. Gradients pass the rounding as if it were not there; the optimizer,
    checkpoints and what is saved have the weights before rounding, under their names. After training the layers are
    the model's own again: save it, and `quantize` it by the same scheme, which gives the weights that training
    computed with. What the scheme stores in 8 bits (embeddings, experts, LSTMs) trains unrounded.

    Source: Jacob et al. 2018, Quantization and training of neural networks, arXiv 1712.05877, section 3; gradients of
    Bengio et al. 2013, arXiv 1308.3432; the layers are torchao's.

    Args:
        scheme: `int4` or `int2`.
        group_size: Inputs that share a scale, as for `quantize`.

    Raises:
        ValueError: The scheme is another one, torchao is missing, or, when training begins, a width is no multiple of
            the group size or no layer would be rounded.

    Example:
        >>> trainer = TrineTrainer(model, arguments, callbacks=[QATCallback("int4")], ...)  # doctest: +SKIP
        >>> trainer.train()  # doctest: +SKIP
        >>> trainer.save_model("trained")  # doctest: +SKIP
        >>> quantize("trained", "trained-int4", scheme="int4")  # doctest: +SKIP
    """

    def __init__(self, scheme: str = "int4", group_size: int = GROUP_SIZE):
        self.scheme, self.group_size = check_trainable(scheme), group_size
        self._own: dict[str, nn.Module] = {}

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        """Puts layers that round in the place of the model's own."""
        self.prepare(kwargs["model"])

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        """Puts the model's own layers back."""
        self.restore(kwargs["model"])

    def prepare(self, model: Any) -> None:
        """Puts layers that round in the place of a model's own; they share its parameters.

        Raises:
            ValueError: A width is no multiple of the group size, or no layer would be rounded.
        """
        from torchao.quantization import quantize_  # pyright: ignore[reportMissingImports] optional
        from torchao.quantization.qat import QATConfig  # pyright: ignore[reportMissingImports] optional

        weights = [weight for weight in find_weights(model, self.scheme) if self.rounds(weight)]
        check_groups(weights, self.group_size)
        names = {name.removesuffix(".weight") for weight in weights for name in weight.names}
        if not names:
            raise ValueError(f"{type(model).__name__} has no linear layers whose weights would have few bits.")
        self._own = {name: model.get_submodule(name) for name in names}
        base = self.scheme.rules["linear"].make(self.group_size)
        quantize_(model, QATConfig(base, step="prepare"), filter_fn=lambda module, name: name in names)

    def restore(self, model: Any) -> None:
        """Puts a model's own layers back, with the parameters that were trained."""
        for name, own in self._own.items():
            own.train(model.training)
            model.set_submodule(name, own)
        self._own = {}

    def rounds(self, weight: Weight) -> bool:
        """Whether training computes with a weight as the scheme will round it."""
        return weight.kind == "linear" and self.scheme.rules[weight.kind].is_grouped

"""Checks that several libraries share."""

import copy

import torch
from torch import nn
from transformers import TrainerCallback


class Gradients(TrainerCallback):
    """Notes before each optimizer step which trainable parameters have finite gradients, and which have any.

    `is_unused` tells names that no loss of the case depends on.
    """

    def __init__(self, is_unused=lambda name: False):
        self.is_unused = is_unused
        self.reached, self.trainable = set(), set()

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and not self.is_unused(name):
                self.trainable.add(name)
                if parameter.grad is not None:
                    assert parameter.grad.isfinite().all(), f"the gradient of {name} is not finite"
                    if parameter.grad.any():
                        self.reached.add(name)

    def check(self) -> None:
        assert self.trainable, "nothing is trained"
        assert self.reached == self.trainable, f"no gradient reaches {sorted(self.trainable - self.reached)}"


def check_falls(losses: list[float]) -> None:
    """The mean of the last three losses is below that of the first three; all are finite."""
    assert all(torch.tensor(losses).isfinite()), losses
    assert sum(losses[-3:]) < sum(losses[:3]), losses


def check_close(actual, expected, tolerance: float = 1e-4) -> None:
    """Equal up to rounding, and not trivially so: the values differ among themselves."""
    actual, expected = torch.as_tensor(actual), torch.as_tensor(expected)
    assert expected.isfinite().all() and (expected.numel() == 1 or expected.float().std() > 0)
    torch.testing.assert_close(actual.to(expected.dtype), expected, rtol=tolerance, atol=tolerance)


def weights_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return copy.deepcopy(dict(model.state_dict()))

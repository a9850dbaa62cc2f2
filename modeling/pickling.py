"""Makes models picklable whose modules record hidden states, attentions or router logits.

Transformers records them by forward hooks that are local functions, which Python cannot pickle. Sparse models have
such hooks from the beginning, any other one from the first forward pass that records something.
"""

import inspect
from collections.abc import Callable
from typing import Any

from torch import nn
from transformers import PreTrainedModel
from transformers.utils.output_capturing import install_output_capuring_hook

from ..configuration.choices import Choices


class CapturingHook:
    """A hook of transformers that can be made again after unpickling.

    Args:
        hook: The function.
        arguments: The arguments that made it, besides its module.
    """

    def __init__(self, hook: Callable, arguments: dict[str, Any]):
        self.hook, self.arguments = hook, arguments

    def __call__(self, *args) -> None:
        self.hook(*args)

    def __reduce__(self) -> tuple:
        return make_hook, (self.arguments,)


def make_hook(arguments: dict[str, Any]) -> Callable:
    """Makes the hook that transformers makes of these arguments."""
    module = nn.Module()
    install_output_capuring_hook(module, **arguments)
    (hook,) = module._forward_hooks.values()
    return hook


def make_picklable(model: nn.Module) -> None:
    """Replaces transformers' hooks in all of a model's modules by hooks that Python can pickle."""
    maker = install_output_capuring_hook
    names = list(inspect.signature(maker).parameters)[1:]
    for module in model.modules():
        for number, hook in module._forward_hooks.items():
            if inspect.isfunction(hook) and hook.__qualname__.startswith(f"{maker.__name__}.<locals>"):
                values = inspect.getclosurevars(hook).nonlocals
                arguments = {name: values[name] for name in names if name in values}
                module._forward_hooks[number] = CapturingHook(hook, arguments)


class PicklableModel(PreTrainedModel):
    """A `PreTrainedModel` that can be pickled whatever it has recorded."""

    def __getstate__(self) -> Any:
        make_picklable(self)
        return super().__getstate__()


# Of sparse models every one has such hooks; of others those that were asked for states, as with transformers' own.
PICKLING = Choices("mlp_layer_types", {"sparse": PicklableModel})

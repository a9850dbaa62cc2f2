"""Evaluation without gradients, without the cost of calling modules: on twins of modules, which are called directly.

A step of a small model takes longer around its modules than in them: PyTorch looks for hooks at each call, and for
parameters and children at each access. A twin shares its module's tensors and is of its class, so the same code runs
on it, with the same results, in less time.
"""

from collections.abc import Callable
from functools import cache, wraps
from inspect import signature, unwrap
from itertools import chain
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.nn.modules import module as calls
from torch.utils.hooks import RemovableHandle
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import logging


logger = logging.get_logger(__name__)

PACKAGE = __name__.partition(".")[0]
RECORDER = "transformers.utils.output_capturing"  # whose hooks do nothing unless outputs are asked for
CALL = nn.Module.__call__
CALLS = (CALL, GradientCheckpointingLayer.__call__)  # before transformers 5.23 layers had a call of their own
RECORDED = ("output_attentions", "output_hidden_states", "output_router_logits")


def pass_on(states: torch.Tensor) -> torch.Tensor:
    """The twin of a module that does nothing."""
    return states


@cache
def is_known(kind: type) -> bool:
    """Whether a class is of PyTorch or Trine. Others, as those of adapters, may change the modules that they hold."""
    own = any(base.__module__.partition(".")[0] == PACKAGE for base in kind.__mro__)
    return own or kind.__module__.startswith(("torch.nn.modules.", "transformers.activations"))


def is_plain(module: nn.Module) -> bool:
    """Whether a call of a module in evaluation is its class's `forward` and nothing else."""
    state, hooks = vars(module), [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
    return (
        type(module).__call__ in CALLS
        and is_known(type(module))
        and not module.training
        and "forward" not in state  # accelerate and kernels put another in its place
        and state.get("_compiled_call_impl") is None
        and all(getattr(hook, "__module__", None) == RECORDER for hook in hooks)
    )


def set_on_both(twin: Any, name: str, value: Any) -> None:
    """Sets an attribute of a twin and of its module."""
    setattr(vars(twin)["twin_of"], name, value)
    if name in vars(twin)["twin_of"].__dict__:
        vars(twin)[name] = value


@cache
def twin_class(kind: type[nn.Module], forward: Callable) -> type:
    """The class of the twins of modules of a class, whose `forward` this is: it may be replaced later."""
    if issubclass(kind, GradientCheckpointingLayer):
        forward = unwrap(forward)
    return type(kind.__name__, (kind,), {"__call__": forward, "__setattr__": set_on_both})


class Settings:
    """The fields of a config as plain attributes, whose reading costs little."""

    def __init__(self, config: Any):
        derived = {name: getattr(config, name) for name in ("_attn_implementation", "layer_types", *RECORDED)}
        vars(self).update(vars(config), _config=config, **derived)

    def __getattr__(self, name: str) -> Any:
        return getattr(vars(self)["_config"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(vars(self)["_config"], name, value)


class Twin:
    """A twin of a module and of those in it, as long as none of them changes.

    A module that is not plain, because of hooks, adapters or another way of calling it, takes part as it is.
    """

    def __init__(self, module: nn.Module):
        self.config = Settings(module.config)
        self.settings: list[Any] = [vars(module.config).values()]
        self.parts: list[Any] = []
        self.states: list[dict] = []
        self.called: list[nn.Module] = []
        self.others: list[str] = []
        self.module = self.copy(module, object.__new__(type(module)))
        self.seen = self.look()
        if self.others:
            logger.debug(f"Called one by one, because of hooks, adapters or the like: {', '.join(self.others)}.")

    def copy(self, module: nn.Module, twin: Any, **attributes) -> Any:
        """Gives `twin` what `module` has."""
        state = vars(module)
        self.states.append(state)
        self.parts += [module._parameters.values(), module._modules.values()]
        if type(module) not in (nn.Linear, nn.Embedding):  # nothing reads the attributes of these
            self.settings.append(state.values())
        vars(twin).update(state, **module._parameters, **attributes)
        vars(twin).update((name, self.lean(child, name)) for name, child in module._modules.items())
        if state.get("config") is self.config._config:
            vars(twin)["config"] = self.config
        return twin

    def lean(self, module: nn.Module | None, name: str) -> Any:
        """A module's twin, or itself."""
        if module is None:
            return None
        if not is_plain(module):
            self.others.append(name)
            return module
        if type(module) is nn.ModuleList:
            self.parts.append(module._modules.values())
            return [self.lean(child, f"{name}.{key}") for key, child in module._modules.items()]
        self.called.append(module)
        twin = self.copy(module, object.__new__(twin_class(type(module), type(module).forward)), twin_of=module)
        return pass_on if type(module) in (nn.Dropout, nn.Identity) else twin

    def look(self) -> list[Any]:
        """All that must not change: attributes, parameters, modules, classes, and the number of hooks ever made."""
        parts = map(id, chain.from_iterable(self.parts))
        kinds = [*map(type, self.called)]
        made = [RemovableHandle.next_id, *kinds, *[kind.forward for kind in dict.fromkeys(kinds)]]
        return [*chain.from_iterable(self.settings), *parts, *map(len, self.states), *made]

    def holds(self) -> bool:
        """Whether nothing has changed."""
        try:
            return self.look() == self.seen
        except RuntimeError:  # of two tensors, which have no one answer
            return False


TWINS: WeakKeyDictionary[nn.Module, Twin] = WeakKeyDictionary()


def may_be_lean(model: nn.Module, kwargs: dict[str, Any], read: set[str]) -> bool:
    """Whether a forward pass only evaluates, and nothing that is between the modules is asked for."""
    given = kwargs.get("input_ids")
    given = kwargs.get("inputs_embeds") if given is None else given
    if type(given) is not torch.Tensor or torch.compiler.is_compiling() or torch.jit.is_tracing():  # pyright: ignore[reportPrivateImportUsage] it is public
        return False
    if model.training or torch.is_grad_enabled():
        return False
    is_watched = calls._global_forward_hooks or calls._global_forward_pre_hooks or nn.Module.__call__ is not CALL
    if is_watched or kwargs.get("return_dict") is False:
        return False
    return all(name in read or value is None or name in RECORDED and not value for name, value in kwargs.items())


def leanly(forward: Callable) -> Callable:
    """Lets the `forward` of a trunk run without its decorators, on a twin, where only its result is asked for."""
    plain = unwrap(forward)
    read = {*signature(plain).parameters, "return_dict"}

    @wraps(forward)
    def wrapper(self, *args, **kwargs):
        if args or not may_be_lean(self, kwargs, read):
            return forward(self, *args, **kwargs)
        twin = TWINS.get(self)
        if twin is None or not twin.holds():
            twin = TWINS[self] = Twin(self)
        config = twin.config
        if any(getattr(config, name) for name in RECORDED if name not in kwargs):
            return forward(self, *args, **kwargs)
        kwargs.pop("return_dict", None)
        if kwargs.get("use_cache") is None:
            kwargs["use_cache"] = config.use_cache
        return plain(twin.module, is_causal=config.is_causal, **kwargs)

    return wrapper

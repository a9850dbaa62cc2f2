"""Evaluation without gradients, without the cost of calling modules: on twins of modules, which are called directly.

A step of a small model takes longer around its modules than in them: PyTorch looks for hooks at each call, and for
parameters and children at each access. A twin shares its module's tensors and is of its class, so the same code runs
on it, with the same results, in less time. Compiled code has nothing between its modules; there, what is around it in
each step is left out.
"""

from collections.abc import Callable, Sequence
from functools import cache, partial, wraps
from inspect import signature, unwrap
from itertools import chain
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.nn.modules import module as calls
from torch.utils.hooks import RemovableHandle
from transformers import CompileConfig, GenerationMixin
from transformers.cache_utils import Cache
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import logging

from ..configuration.choices import in_package
from ..configuration.kinds import ATTENTION_KINDS


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
        made = [*kinds, *[kind.forward for kind in dict.fromkeys(kinds)], RemovableHandle.next_id]
        return [*chain.from_iterable(self.settings), *parts, *map(len, self.states), *made]

    def holds(self) -> bool:
        """Whether nothing has changed."""
        return are_equal(self.look(), self.seen)


def are_equal(seen: list[Any], other: list[Any]) -> bool:
    """Whether two looks saw the same."""
    try:
        return seen == other
    except RuntimeError:  # of two tensors, which have no one answer
        return False


TWINS: WeakKeyDictionary[nn.Module, Twin] = WeakKeyDictionary()


def may_be_lean(model: nn.Module, kwargs: dict[str, Any], read: set[str]) -> bool:
    """Whether a forward pass only evaluates, and nothing that is between the modules is asked for."""
    given = kwargs.get("input_ids")
    given = kwargs.get("inputs_embeds") if given is None else given
    if type(given) is not torch.Tensor or torch.compiler.is_exporting() or torch.jit.is_tracing():  # pyright: ignore[reportPrivateImportUsage] it is public
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
        if torch.compiler.is_compiling():  # modules cost nothing then, but what is around them does
            if getattr(self, "_output_capturing_hooks_installed", False):
                return forward(self, *args, **kwargs)
            module, config = self, self.config
        else:
            twin = TWINS.get(self)
            if twin is None or not twin.holds():
                twin = TWINS[self] = Twin(self)
            module, config = twin.module, twin.config
        if any(getattr(config, name) for name in RECORDED if name not in kwargs):
            return forward(self, *args, **kwargs)
        kwargs.pop("return_dict", None)
        if kwargs.get("use_cache") is None:
            kwargs["use_cache"] = config.use_cache
        return plain(module, is_causal=config.is_causal, **kwargs)

    return wrapper


# Compiled steps of `generate`: what is left around them.

TOLD_BY_THE_CACHE = ("attention_mask", "position_ids")


class CompiledGeneration(GenerationMixin):
    """`generate` whose steps with a static cache hand over the token and the cache alone, where that says everything.

    Masks and positions then follow from the number of cached tokens, which compiled code has at hand: made before it,
    as transformers does, they take a small model as long as a layer.
    """

    def _prefill(self, input_ids: Any, generation_config: Any, model_kwargs: dict, *args: Any, **kwargs: Any) -> Any:
        outputs = super()._prefill(input_ids, generation_config, model_kwargs, *args, **kwargs)  # pyright: ignore[reportAttributeAccessIssue] a model's
        config: Any = self.config  # pyright: ignore[reportAttributeAccessIssue] of the model
        cache, mask, positions = (model_kwargs.get(name) for name in ("past_key_values", *TOLD_BY_THE_CACHE))
        is_static = isinstance(cache, Cache) and cache.is_compileable and makes_masks_itself(config)
        if is_static and is_full(mask) and counts_on(positions):
            model_kwargs.update(dict.fromkeys(TOLD_BY_THE_CACHE))
        return outputs

    @wraps(GenerationMixin.prepare_inputs_for_generation)  # pyright: ignore[reportAttributeAccessIssue] as above; its arguments are looked at
    def prepare_inputs_for_generation(self, input_ids: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        given = (*TOLD_BY_THE_CACHE, "inputs_embeds", "token_type_ids", "prefix_length")
        cache = kwargs.get("past_key_values")
        is_lone = kwargs.get("next_sequence_length") == 1 and all(kwargs.get(name) is None for name in given)
        if not is_lone or args or not isinstance(cache, Cache) or not cache.is_compileable:
            return super().prepare_inputs_for_generation(input_ids, *args, **kwargs)  # pyright: ignore[reportAttributeAccessIssue] a model's
        ids = input_ids[:, -1:].clone(memory_format=torch.contiguous_format)
        left_out = (*given, "next_sequence_length", "is_first_iteration", "labels")
        return {"input_ids": ids.to(self.device)} | {key: kwargs[key] for key in kwargs if key not in left_out}  # pyright: ignore[reportAttributeAccessIssue] of the model


# Of each model a compiled call of it, and what the model was when it was compiled.
COMPILED_BEFORE: WeakKeyDictionary[Any, tuple[list[Any], Callable]] = WeakKeyDictionary()
PLAIN_TENSORS = (torch.Tensor, torch.nn.Parameter)


def compiled_call(model: Any, compile_config: CompileConfig | None) -> Callable | None:
    """A compiled call of a model, as transformers makes it, but that whether the model is still what was compiled is
    seen here, once a text, and not in each step. None for a model with hooks, adapters or the like.

    PyTorch compares some thousand attributes before it runs compiled code, which takes a small model as long as a
    layer.
    """
    config = compile_config or model._default_compile_config()
    state = describe(model, config)
    if state is None:
        return None
    known, call = COMPILED_BEFORE.get(model, ([], None))
    if call is None or not are_equal(known, state):
        call = compile_call(config)
        COMPILED_BEFORE[model] = state, call
    return partial(call, model)


def describe(model: Any, config: CompileConfig) -> list[Any] | None:
    """Lists all that compiled code takes for granted of a model; None where PyTorch has to see in each call whether it
    changes: if there are hooks, adapters, other tensors or other settings of the compiler."""
    twin, tensors = Twin(model), [*model.parameters(), *model.buffers()]
    is_own = not is_plain(model) or bool(twin.others) or any(type(tensor) not in PLAIN_TENSORS for tensor in tensors)
    if is_own or config.options is not None or config.backend not in ("inductor", "eager"):
        return None
    found = [(x.dtype, x.device, x.shape, x.stride(), x.requires_grad) for x in tensors]
    return [config, *found, *twin.seen[:-1]]  # all but the number of hooks ever made, of which there are none here


def compile_call(config: CompileConfig) -> Callable:
    """A compiled function that calls a model, its first argument, which it takes for the one it was compiled for."""

    def call(compiled_model, **inputs):
        return compiled_model(**inputs)

    # PyTorch keeps what it has compiled with the code of a function: each model needs its own.
    call.__code__ = call.__code__.replace()
    settings = {**config.to_dict(), "mode": None}
    mode: Any = torch._inductor.list_mode_options(config.mode) if config.backend == "inductor" else {}
    return torch.compile(call, **{**settings, "options": {**mode, "guard_filter_fn": compare_inputs}})


def compare_inputs(guards: Sequence[Any]) -> list[bool]:
    """Which comparisons are made before compiled code runs: those of inputs and of PyTorch's own state."""
    names = [guard.name for guard in guards]
    if not any("L['compiled_model']" in name for name in names):  # of another function, after a break
        return [True] * len(names)
    return [not ("L['compiled_model']" in name or name.startswith("G[")) for name in names]


def makes_masks_itself(config: Any) -> bool:
    """Whether compiled steps make the masks of all layers: those of windows depend on numbers that compiled code
    would have to be compiled for one by one, and other kernels have masks of their own."""
    kinds = {ATTENTION_KINDS[kind].sees_by for kind in config.attention_types}
    return "band" not in kinds and config._attn_implementation in ("eager", "sdpa")


def is_full(mask: torch.Tensor | None) -> bool:
    """Whether a mask (batch, length) hides nothing."""
    return mask is None or mask.ndim == 2 and bool(mask.all())


def counts_on(positions: torch.Tensor | None) -> bool:
    """Whether positions (batch, length) are 0, 1, 2 and so on, in every row."""
    if positions is None:
        return True
    return positions.ndim == 2 and bool((positions == torch.arange(positions.shape[1], device=positions.device)).all())


# A base of decoders that generate, and what compiles their steps. A checkpoint's own code is short rather than fast.
COMPILED = in_package((CompiledGeneration,))
COMPILED_CALLS = in_package((compiled_call,))

"""Checks of how a model is run and trained: half precision, checkpointing, compilation, overfitting, cost."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from .results import Difference, require_equal, require_finite
from .subjects import Subject, output_of, random_ids


NEAR = 0.1  # how far half precision may be from float32, in units of the norm
STEPS, LEARNING_RATE = 60, 1e-2
LENGTHS = (256, 512, 1024)


def run_recorded(subject: Subject, model: Any, ids: torch.Tensor) -> list[torch.Tensor]:
    """The outputs of each module of the mechanism, but for positions, and that of the model.

    Raises:
        Difference: One of them has not the dtype of the model.
    """
    found: list[torch.Tensor] = []

    def record(module: Any, args: Any, output: Any) -> None:
        output = output[0] if isinstance(output, tuple) else output
        if output.dtype != model.dtype:
            raise Difference(f"the output of a module in {name_of(model.dtype)} is {name_of(output.dtype)}")
        found.append(output)

    parts = [] if subject.field == "position_type" else subject.parts(model)
    hooks = [part.register_forward_hook(record) for part in parts]
    with torch.no_grad():
        output = output_of(model(ids, use_cache=False))
    for hook in hooks:
        hook.remove()
    record(model, (), output)
    return found


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def check_half_precision(subject: Subject) -> str:
    """bfloat16 and float16 are kept, and near float32 with the same weights; a step under autocast is finite."""
    ids, errors, fields = random_ids(2, 13), [], subject.last()
    for dtype in (torch.bfloat16, torch.float16):
        half = subject.build(dtype=dtype, **fields)
        single = subject.build(dtype=torch.float32, **fields)
        single.load_state_dict({key: tensor.float() for key, tensor in half.state_dict().items()})
        found, expected = (run_recorded(subject, model, ids) for model in (half, single))
        for tensor, other in zip(found, expected, strict=True):
            require_finite(tensor, name_of(dtype))
            errors.append(((tensor.float() - other).norm() / other.norm().clamp(min=1e-12)).item())
            if errors[-1] > NEAR:
                raise Difference(f"{name_of(dtype)}: {errors[-1]:.0%} away from float32")
    model = subject.build(dtype=torch.float32, **fields).train()
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(ids, labels=ids).loss
    loss.backward()
    for part in subject.parts(model):
        for name, parameter in part.named_parameters():
            if parameter.grad is not None:
                require_finite(parameter.grad, f"under autocast: the gradient of {name}")
    return f"at most {max(errors):.1%} from float32"


def gradients(model: Any, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    torch.manual_seed(0)
    output_of(model(ids, use_cache=False)).square().mean().backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


def check_checkpointing(subject: Subject) -> None:
    """Gradient checkpointing changes no gradient."""
    for what, fields in subject.cases():
        model, ids = subject.model(**fields).train(), random_ids(2, 11)
        expected = gradients(model, ids)
        model.gradient_checkpointing_enable()
        actual = gradients(model, ids)
        for name, gradient in expected.items():
            require_equal(actual[name], gradient, f"{what}: the gradient of {name}")


def check_compilation(subject: Subject) -> None:
    """`torch.compile(fullgraph=True)` takes forward passes, with padding too, and a step of training."""
    ids, mask = random_ids(2, 11), torch.ones(2, 11, dtype=torch.long)
    mask[0, :3] = 0
    options = {"dtype": torch.float32, "experts_implementation": None, "use_cache": False, **subject.last()}
    model = subject.build(**options)
    for what, inputs in {"a text": {}, "a text with padding": {"attention_mask": mask}}.items():
        torch.compiler.reset()
        compiled = torch.compile(model, fullgraph=True, backend="eager")
        with torch.no_grad():
            actual, expected = (output_of(run(ids, **inputs)) for run in (compiled, model))
        require_equal(actual, expected, what, 1e-4)
    torch.compiler.reset()
    model.train()
    expected = gradients(model, ids)
    actual = gradients(torch.compile(model, fullgraph=True, backend="eager"), ids)
    for name, gradient in expected.items():
        require_equal(actual[f"_orig_mod.{name}"], gradient, f"a step of training: the gradient of {name}", 1e-3)
    torch.compiler.reset()


def check_overfitting(subject: Subject) -> str:
    """Training learns one small batch by heart."""
    model, ids = subject.build(dtype=torch.float32, **subject.first()).train(), random_ids(4, 12)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    losses = []
    for _ in range(STEPS):
        loss = model(ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    told = f"loss {losses[0]:.2f} to {losses[-1]:.2g} in {STEPS} steps"
    if not losses[-1] < losses[0] / 5:
        raise Difference(told)
    return told


class Counter(TorchDispatchMode):
    """Counts operations while `on`: those of products of matrices, and the elements that anything else returns."""

    def __init__(self):
        super().__init__()
        self.on, self.total = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if self.on:
            packet = func._overloadpacket
            if "scaled_dot_product" in str(packet):
                query, key = args[0], args[1]
                self.total += 4 * query.numel() * key.shape[-2]
            elif packet in flop_registry:
                self.total += flop_registry[packet](*args, **(kwargs or {}), out_val=output)
            else:
                found = output if isinstance(output, (tuple, list)) else (output,)
                self.total += sum(tensor.numel() for tensor in found if isinstance(tensor, torch.Tensor))
        return output


def count(subject: Subject, length: int) -> int:
    """Operations of one layer of the mechanism for a text."""
    alone = {"position_type": "none"} if subject.field == "attention_types" else {}
    model = subject.build(dtype=torch.float32, **{**subject.first(), **alone, "num_hidden_layers": 1})
    with Counter() as counter:

        def switch(change: int) -> Any:
            return lambda *_: setattr(counter, "on", counter.on + change)

        for part in subject.parts(model):
            part.register_forward_pre_hook(switch(1))
            part.register_forward_hook(switch(-1))
        with torch.no_grad():
            model(random_ids(1, length), use_cache=False)
    return counter.total


def check_cost(subject: Subject) -> str:
    """Reports the power of the length with which a layer's operations grow.

    What grows in proportion to the length, as projections do, is taken out of the rest by differences.
    """
    short, middle, long = (count(subject, length) for length in LENGTHS)
    first, second = middle - 2 * short, long - 2 * middle
    power = 1.0 if first < 0.02 * middle or second <= 0 else torch.tensor(second / first).log2().item()
    told = getattr(subject.row.about, "cost", "")
    stated = f"; its row says {told}" if told and told != "unknown" else ""
    return f"grows like n^{max(power, 1.0):.1f}, {long / LENGTHS[-1]:,.0f} operations a token at {LENGTHS[-1]}{stated}"

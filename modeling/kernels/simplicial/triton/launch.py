"""How the Triton kernels of 2-simplicial attention are launched: tile sizes, parts, buffers."""

# Shapes: B batch, H heads, G key-value heads, Q queries, K keys, M second keys, D head size, T offsets (the second
# window's size), N programs of a head, U second keys that the rows of a program see, P parts of the keys.

from typing import Any, NamedTuple

import torch

from ..forms import FORMS
from ..inputs import SimplicialInputs
from .backward import simplicial_backward_query
from .backward_keys import simplicial_backward_key
from .forward import merge_parts, simplicial_forward
from .rows import is_interpreted, triton


LARGEST_VECTOR = 512  # bytes of the vector of a head: the tiles of larger ones fit no shared memory
LARGEST_SECOND_WINDOW = 128  # the rows of one query must fit one program
SPLIT_QUERIES = 16  # up to so many queries, each program takes a part of the keys
KEYS_OF_A_PART = 64  # at least
PROGRAMS_PER_PROCESSOR = 2
INTERPRETED_PROCESSORS = 4
TUNED_FOR = ["D", "PARTS", "OFFSET_BLOCK", "REPEATS", "ROWS", "HAS_SEGMENTS", "HAS_BIAS", "PRECISION"]


class Choice(NamedTuple):
    """Keys of a tile, warps of a program, stages of the pipeline that loads tiles."""

    tile: int
    warps: int
    stages: int


INTERPRETED_CHOICE = Choice(32, 1, 1)
OPTIONS = {"enable_fp_fusion": True}  # the default up to Triton 3.9, which warns that it will change


def start(kernel, grid, arguments: dict[str, Any], **options) -> None:
    """Starts a kernel on the device of its arguments, with options of Triton such as `num_warps`."""
    with torch.cuda.device_of(arguments["log_sum"]):
        kernel[grid](**arguments, **options, **OPTIONS)


class TunedKernel:
    """A kernel, launched with the fastest of its choices for the shapes at hand, whatever the length of the text.

    The first choice is taken unmeasured for few queries, as generation must not stop to measure, and where algorithms
    must be deterministic: another order changes the sums.

    Args:
        numbers: How many numbers of its rows a program may hold: with more, they spill from its registers.
        accumulates: Arguments that the kernel adds to, which measuring must reset.
    """

    def __init__(self, kernel, numbers: int, choices: tuple[Choice, ...], accumulates=()):
        self.kernel = kernel
        self.numbers = numbers
        self.choices = (INTERPRETED_CHOICE,) if is_interpreted else choices
        self.fixed = self.choices[0]
        self.tuned: Any = None
        if triton is not None and not is_interpreted:
            configs = [triton.Config({"TILE": tile}, warps, stages) for tile, warps, stages in choices]
            self.tuned = triton.autotune(configs, TUNED_FOR, reset_to_zero=list(accumulates))(kernel)

    def rows(self, shared: dict[str, Any], pairs: int, most: int = 128) -> int:
        """Rows of a program for so many pairs of query and head; at least those of a pair."""
        limit = min(most, self.numbers // shared["DP"])
        offset_block = shared["OFFSET_BLOCK"]
        return max(16, offset_block, min(limit, triton.next_power_of_2(pairs) * offset_block))

    def launch(self, grid, arguments: dict[str, Any]) -> None:
        """`grid` maps the constants of the launch, such as TILE, to the numbers of programs."""
        may_measure = arguments["QUERIES"] > SPLIT_QUERIES and not torch.are_deterministic_algorithms_enabled()
        if self.tuned is not None and may_measure:
            start(self.tuned, grid, arguments)
        else:
            tile, warps, stages = self.fixed
            start(self.kernel, grid, arguments | {"TILE": tile}, num_warps=warps, num_stages=stages)


# With the first choices no kernel spills registers in its loops (sm_90, heads of 64 and 128, 32 offsets).
FORWARD = TunedKernel(simplicial_forward, 16384, (Choice(64, 8, 2), Choice(64, 8, 3), Choice(128, 8, 2)))
BACKWARD_QUERY = TunedKernel(
    simplicial_backward_query,
    8192,
    (Choice(32, 8, 2), Choice(32, 8, 3), Choice(64, 8, 1)),
    accumulates=("second_key_grad", "second_value_grad"),
)
BACKWARD_KEY = TunedKernel(simplicial_backward_key, 4096, (Choice(64, 8, 1), Choice(128, 8, 1), Choice(64, 4, 1)))


def parts_of(query: torch.Tensor, programs: int, keys: int) -> int:
    """The number of parts, a power of two, that keys are split into so that few queries keep every processor busy."""
    if query.shape[2] > SPLIT_QUERIES:
        return 1
    processors = INTERPRETED_PROCESSORS
    if query.is_cuda:
        processors = torch.cuda.get_device_properties(query.device).multi_processor_count
    wanted = min(processors * PROGRAMS_PER_PROCESSOR // programs, keys // KEYS_OF_A_PART)
    return 1 << max(wanted, 1).bit_length() - 1


def shared_arguments(inputs: SimplicialInputs) -> dict[str, Any]:
    """The arguments that all kernels take.

    Where there are no biases or segments, kernels get the queries in their place, and do not read them.
    """
    query, key, _, second_key, _, offset_bias, segments, first, second, form, scale = inputs
    pointers = {
        name: query if tensor is None else tensor.contiguous()
        for name, tensor in zip(inputs._fields[:7], inputs[:7], strict=True)
    }
    keys, head_dim = key.shape[2:]
    may_round = query.dtype != torch.float32 or torch.backends.cuda.matmul.fp32_precision == "tf32"
    return pointers | {
        "QUERIES": query.shape[2],
        "KEYS": keys,
        "SECOND_KEYS": second_key.shape[2],
        "TOKENS": 0 if segments is None else segments.shape[1],
        "GROUPS": key.shape[1],
        "left": min(first.left, keys),
        "right": min(first.right, keys),
        "scale": scale,
        "SECOND_LEFT": second.left,
        "OFFSETS": second.size,
        "OFFSET_BLOCK": triton.next_power_of_2(second.size),
        "REPEATS": query.shape[1] // key.shape[1],
        "D": head_dim,
        "DP": max(16, triton.next_power_of_2(head_dim)),
        "PARTS": FORMS[form].parts,
        "HAS_BIAS": offset_bias is not None,
        "HAS_SEGMENTS": segments is not None,
        "PRECISION": "tf32" if may_round else "ieee",
    }


def launch_forward(shared: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Output (B, H, Q, D) and its natural log-sum-exp (B, H, Q)."""
    query, keys = shared["query"], shared["KEYS"]
    batch, heads, queries, head_dim = query.shape
    pairs = queries * shared["REPEATS"]
    rows = FORWARD.rows(shared, pairs)
    programs = triton.cdiv(pairs, rows // shared["OFFSET_BLOCK"]) * batch * shared["GROUPS"]
    splits = parts_of(query, programs, min(keys, shared["left"] + shared["right"] + queries))
    output = torch.empty_like(query)
    log_sum = torch.empty(batch, heads, queries, dtype=torch.float32, device=query.device)
    parts, part_sums = output, log_sum
    if splits > 1:
        parts = torch.empty(splits, *query.shape, dtype=torch.float32, device=query.device)
        part_sums = torch.empty(splits, *log_sum.shape, dtype=torch.float32, device=query.device)
    outputs = {"output": parts, "log_sum": part_sums, "splits": splits, "ROWS": rows}
    FORWARD.launch(lambda meta: (programs, splits), shared | outputs)
    if splits > 1:
        vectors = batch * heads * queries
        merged = {"output": output, "log_sum": log_sum, "VECTORS": vectors}
        merged |= {"D": head_dim, "DP": shared["DP"], "SPLITS": splits}
        start(merge_parts, (vectors,), {"parts": parts, "part_sums": part_sums} | merged)
    return output, log_sum


def overlap_add(parts: torch.Tensor, start: int, step: int, size: int) -> torch.Tensor:
    """Adds parts (B, G, H/G, N, U, D) to (B, G, size, D), in a fixed order: part n begins at row start + n * step."""
    parts = parts.sum(dim=2)
    batch, groups, programs, span, head_dim = parts.shape
    chunks = span // step
    total = parts.new_zeros(batch, groups, programs + chunks - 1, step, head_dim)
    for chunk in range(chunks):
        total[:, :, chunk : chunk + programs] += parts[:, :, :, chunk * step : (chunk + 1) * step]
    total = total.flatten(2, 3)
    result = parts.new_zeros(batch, groups, size, head_dim)
    low, high = max(start, 0), min(start + total.shape[2], size)
    result[:, :, low:high] = total[:, :, low - start : high - start]
    return result


def launch_backward(
    shared: dict[str, Any], output_grad: torch.Tensor, log_sum: torch.Tensor, delta: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """Gradients of the five states, in their types and shapes, and of the biases, (H, T) in float32 or empty.

    Deterministic algorithms keep each program's float32 sums for the second axis apart: about U / step times as much
    memory as the second keys and values of all query heads take, with 128 rows and 32 offsets 16 times.
    """
    query, key, second_key = shared["query"], shared["key"], shared["second_key"]
    batch, heads, queries, head_dim = query.shape
    groups, offsets, offset_block = shared["GROUPS"], shared["OFFSETS"], shared["OFFSET_BLOCK"]
    shared = shared | {"output_grad": output_grad.contiguous(), "log_sum": log_sum, "delta": delta.contiguous()}
    rows = BACKWARD_QUERY.rows(shared, queries, most=128 if shared["PARTS"] == 1 else 64)
    step = rows // offset_block
    programs = triton.cdiv(queries, step)
    span = max(16, triton.next_power_of_2(step + offsets - 1))
    separately = torch.are_deterministic_algorithms_enabled()
    float32 = {"dtype": torch.float32, "device": query.device}
    if separately:
        seconds = [torch.empty(batch, groups, heads // groups, programs, span, head_dim, **float32) for _ in range(2)]
    else:
        seconds = [torch.zeros(second_key.shape, **float32) for _ in range(2)]
    query_grad, key_grad, value_grad = torch.empty_like(query), torch.empty_like(key), torch.empty_like(key)
    bias_grad = torch.empty(batch, heads, programs, offsets if shared["HAS_BIAS"] else 0, **float32)
    outputs: dict[str, Any] = {
        "query_grad": query_grad,
        "second_key_grad": seconds[0],
        "second_value_grad": seconds[1],
        "bias_grad": bias_grad,
        "SEPARATELY": separately,
        "SPAN": span,
        "ROWS": rows,
    }
    BACKWARD_QUERY.launch(lambda meta: (programs * batch * heads,), shared | outputs)
    outputs = {"key_grad": key_grad, "value_grad": value_grad}
    outputs["ROWS"] = BACKWARD_KEY.rows(shared, queries * shared["REPEATS"])
    BACKWARD_KEY.launch(lambda meta: (triton.cdiv(shared["KEYS"], meta["TILE"]) * batch * groups,), shared | outputs)
    if separately:
        first_row = second_key.shape[2] - queries - shared["SECOND_LEFT"]
        seconds = [overlap_add(parts, first_row, step, second_key.shape[2]) for parts in seconds]
    seconds = [gradient.to(query.dtype) for gradient in seconds]
    return query_grad, key_grad, value_grad, *seconds, bias_grad.sum(dim=(0, 2))

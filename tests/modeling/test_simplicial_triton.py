"""The Triton path of 2-simplicial attention against its definition in float64.

On a GPU the kernels run in this process. Elsewhere they run in Triton's interpreter, which has to be chosen before
Triton is imported: one test starts this file again in a process of its own.
"""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
import torch
from packaging.version import Version
from support.plugins import CACHE_LAYERS, tables_restored
from support.simplicial_reference import simplicial_reference, trilinear_logits

from trine import TrineConfig
from trine.configuration.bundle import files_of
from trine.modeling.kernels.simplicial.forms import Window
from trine.modeling.kernels.simplicial.inputs import SimplicialInputs
from trine.modeling.kernels.simplicial.table import CHUNKED, TRITON
from trine.modeling.kernels.simplicial.triton import launch as simplicial_triton_launch
from trine.modeling.kernels.simplicial.triton.launch import FORWARD, parts_of
from trine.modeling.kernels.simplicial.triton.operators import simplicial_triton, triton_unavailable
from trine.scripts.benchmarks.kernel_cases import CASES, Case


INTERPRETER = {"TRITON_INTERPRET": "1"}
IS_INTERPRETED = INTERPRETER.items() <= os.environ.items()
DEVICE = "cuda" if torch.cuda.is_available() and not IS_INTERPRETED else "cpu"
on_kernels = pytest.mark.skipif(DEVICE == "cpu" and not IS_INTERPRETED, reason="runs in Triton's interpreter, below")
NAMES = ["query", "key", "value", "second_key", "second_value", "offset_bias"]


each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return ((actual.double().cpu() - expected.cpu()).norm() / expected.norm()).item()


def define(case: Case, tensors) -> tuple[list[torch.Tensor | None], torch.Tensor]:
    """The inputs in float64, and the output that the definition gives them."""
    doubles = [t if t is None else t.detach().double().cpu().requires_grad_() for t in tensors]
    segments = case.segment_ids(DEVICE)
    return doubles, simplicial_reference(*doubles, None if segments is None else segments.cpu(), **case.options)


def triton_path(*tensors, **options) -> torch.Tensor:
    return simplicial_triton(SimplicialInputs(*tensors, **options))


def check(case: Case, dtype=torch.float32, output_error=1e-5, gradient_error=1e-5, compute=triton_path) -> None:
    """Compares the output and all gradients with the definition."""
    tensors, segments = case.tensors(dtype, DEVICE), case.segment_ids(DEVICE)
    output = compute(*tensors, segments, **case.options)
    direction = torch.randn(output.shape).to(output)
    output.backward(direction)
    doubles, expected = define(case, tensors)
    expected.backward(direction.double().cpu())
    assert output.dtype == dtype and output.shape == expected.shape
    assert relative_error(output, expected) <= output_error
    if segments is not None:  # padding is exactly zero
        is_padding = segments[:, -case.lengths[0] :] == 0
        assert not output.transpose(1, 2)[is_padding].any() and not tensors[0].grad.transpose(1, 2)[is_padding].any()
    for name, tensor, double in zip(NAMES, tensors, doubles, strict=True):
        if tensor is None:
            continue
        largest = max(double.grad.abs().max().item(), 1.0)
        error = relative_error(tensor.grad, double.grad) if double.grad.any() else tensor.grad.abs().max() / largest
        assert error <= gradient_error, f"{name}: {error}"


@pytest.fixture
def deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@on_kernels
@each_case
def test_output_and_gradients_equal_the_definition(case):
    check(case)


@on_kernels
@pytest.mark.parametrize("name", ["packed, padded on either side, bidirectional", "caches of two lengths"])
def test_deterministic_algorithms_equal_the_definition(name, deterministic):
    check(CASES[name])


@pytest.mark.skipif(DEVICE == "cpu", reason="programs that run in turn always repeat themselves")
def test_deterministic_algorithms_repeat_themselves(deterministic):
    case = Case((8, 2), (1000, 1000, 1000), 64, Window(127, 0), Window(15, 0))
    tensors = case.tensors(torch.bfloat16, DEVICE)
    given = [tensor for tensor in tensors if tensor is not None]
    runs = [torch.autograd.grad(triton_path(*tensors, None, **case.options).sum(), given) for _ in range(3)]
    assert all(torch.equal(one, other) for run in runs[1:] for one, other in zip(runs[0], run, strict=True))


@pytest.mark.skipif(IS_INTERPRETED, reason="nothing is tuned in the interpreter")
def test_deterministic_algorithms_and_few_queries_take_the_first_choice(deterministic, monkeypatch):
    pytest.importorskip("triton", reason="Triton is not installed")
    started = []

    def record(*launch, **options):
        started.append((launch, options))

    monkeypatch.setattr(simplicial_triton_launch, "start", record)
    many, few = {"QUERIES": 17}, {"QUERIES": 16}
    FORWARD.launch("grid", many)
    torch.use_deterministic_algorithms(False)
    FORWARD.launch("grid", few)
    FORWARD.launch("grid", many)
    options = {"num_warps": FORWARD.fixed.warps, "num_stages": FORWARD.fixed.stages}
    one_choice = [((FORWARD.kernel, "grid", {**given, "TILE": FORWARD.fixed.tile}), options) for given in (many, few)]
    assert started == [*one_choice, ((FORWARD.tuned, "grid", many), {})]


@on_kernels
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    if IS_INTERPRETED and dtype == torch.bfloat16:
        pytest.skip("Triton's interpreter has no bfloat16")
    check(CASES["caches of two lengths"], dtype, output_error=1e-2, gradient_error=2e-2)


@on_kernels
def test_some_parts_of_the_keys_may_be_empty(monkeypatch):
    monkeypatch.setattr(simplicial_triton_launch, "parts_of", lambda *_: 8)
    case = CASES["decode"]
    tensors = case.tensors(torch.float32, DEVICE)
    assert relative_error(triton_path(*tensors, None, **case.options), define(case, tensors)[1]) <= 1e-5


@on_kernels
def test_only_few_queries_are_attended_to_in_parts():
    assert parts_of(torch.empty(1, 1, 1, 16, device=DEVICE), programs=1, keys=512) > 1
    assert parts_of(torch.empty(1, 1, 1, 16, device=DEVICE), programs=10**6, keys=512) == 1
    assert parts_of(torch.empty(1, 1, 17, 16, device=DEVICE), programs=1, keys=512) == 1


def log_sum_of(tensors, case, segments=None) -> torch.Tensor:
    output, log_sum = torch.ops.trine.simplicial_triton_forward(
        *SimplicialInputs(*tensors, segments, **case.options).flat()
    )
    return log_sum


@on_kernels
@pytest.mark.parametrize("length", [3, 17], ids=["in parts", "whole"])
def test_log_sums_are_natural_and_differentiable(length):
    case = Case((1, 1), (length,) * 3, 16, Window(length, length), Window(length, length))
    tensors = case.tensors(torch.float32, DEVICE)
    actual = log_sum_of(tensors, case)
    direction = torch.randn(actual.shape).to(actual)
    actual.backward(direction)
    doubles = [tensor.detach().double().cpu().requires_grad_() for tensor in tensors]
    logits = trilinear_logits(doubles[0], doubles[1], doubles[3], case.form) * case.options["scale"]
    offsets = torch.arange(length) - torch.arange(length)[:, None] + case.second.left
    logits = logits + doubles[5][:, offsets][None, :, :, None, :]
    expected = logits.flatten(-2).logsumexp(dim=-1)
    expected.backward(direction.double().cpu())
    assert relative_error(actual, expected) <= 1e-6
    for index in (0, 1, 3, 5):
        assert relative_error(tensors[index].grad, doubles[index].grad) <= 1e-5, NAMES[index]
    assert not tensors[2].grad.any() and not tensors[4].grad.any()


@on_kernels
def test_the_log_sum_of_padding_is_minus_infinity():
    case = Case((1, 1), (4, 4, 4), 16, Window(3, 0), Window(1, 0), segments=(((0, 2), (1, 2)),))
    log_sum = log_sum_of(case.tensors(torch.float32, DEVICE), case, case.segment_ids(DEVICE))
    assert torch.isneginf(log_sum).tolist() == [[[True, True, False, False]]]


RULES = ("test_schema", "test_faketensor", "test_autograd_registration")  # tracing has its own tests, below


@on_kernels
@pytest.mark.parametrize("bias", [True, False])
def test_the_operators_keep_the_rules_of_operators(bias):
    segments = (((0, 1), (1, 3)),) if bias else None
    case = Case((2, 1), (2, 4, 3), 16, Window(2, 0), Window(1, 0), bias=bias, segments=segments)
    arguments = SimplicialInputs(*case.tensors(torch.float32, DEVICE), case.segment_ids(DEVICE), **case.options).flat()
    torch.library.opcheck(torch.ops.trine.simplicial_triton_forward.default, arguments, test_utils=RULES)
    output, log_sum = torch.ops.trine.simplicial_triton_forward(*arguments)
    with torch.no_grad():
        arguments = (torch.randn_like(output), log_sum, torch.randn_like(log_sum), *arguments)
        torch.library.opcheck(torch.ops.trine.simplicial_triton_backward.default, arguments, test_utils=RULES)


@on_kernels
def test_compiles_without_graph_breaks():
    compiled = torch.compile(triton_path, fullgraph=True, dynamic=True, backend="aot_eager")
    check(CASES["caches of two lengths"], compute=compiled)


class Attention(torch.nn.Module):
    def forward(self, *tensors):
        return triton_path(*tensors, None, **CASES["causal"].options)


@on_kernels
def test_exports():
    tensors = [tensor.detach() for tensor in CASES["causal"].tensors(torch.float32, DEVICE)]
    program = torch.export.export(Attention(), tuple(tensors))
    assert "trine.simplicial_triton_forward" in str(program.graph)
    torch.testing.assert_close(program.module()(*tensors), Attention()(*tensors), rtol=0, atol=0)


@pytest.fixture
def import_copy(tmp_path, monkeypatch):
    """Imports a copy of the path, such as a checkpoint carries, as a package of the given name."""

    def load(package: str):
        folder = tmp_path / package
        folder.mkdir()
        for name, source in files_of(TrineConfig(attention_types="simplicial", export_code=False)).items():
            (folder / name).write_text(source, encoding="utf-8")
        monkeypatch.syspath_prepend(tmp_path)
        return importlib.import_module(f"{package}.modeling_trine")

    with tables_restored(CACHE_LAYERS):
        yield load


@on_kernels
def test_a_second_copy_of_the_code_works_beside_the_first(import_copy):
    """The operators bear the same names."""
    copy = import_copy("carried_kernels")
    assert copy.simplicial_triton is not simplicial_triton

    def compute(*tensors, **options):
        return copy.simplicial_triton(copy.SimplicialInputs(*tensors, **options))

    check(CASES["windows larger than the sequence"], compute=compute)  # of the default form


@pytest.mark.skipif(IS_INTERPRETED, reason="is in the interpreter")
def test_imports_where_triton_is_not_installed(import_copy, monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    assert import_copy("kernels_without_triton").triton_unavailable(torch.ones(1)) == "Triton is not installed"


def test_kernels_get_their_windows_whole():
    """They are compiled for the size of a window; other paths compute no more of it than the text has."""
    case = Case((2, 1), (4, 4, 4), 16, Window(9, 0), Window(6, 0))
    inputs = SimplicialInputs(*case.tensors(torch.float32, DEVICE), segments=None, **case.options)
    sizes = []
    for backend in (TRITON, CHUNKED):
        backend._replace(compute=lambda given: sizes.append((given.first.size, given.offset_bias.shape[1])))(inputs)
    assert sizes == [(10, 7), (4, 4)]


REFUSALS = {
    "float64": (16, 2, torch.float64, "query.dtype=torch.float64 is not one of"),
    "head size": (260, 2, torch.float16, "head size 260 is larger than 256 for query.dtype=torch.float16"),
    "head size in float32": (130, 2, torch.float32, "head size 130 is larger than 128 for query.dtype=torch.float32"),
    "second window": (16, 129, torch.float32, "size 129 is larger than 128"),
}


@on_kernels
@pytest.mark.parametrize(("head_dim", "offsets", "dtype", "message"), REFUSALS.values(), ids=REFUSALS)
def test_refusals_name_the_reason(head_dim, offsets, dtype, message):
    case = Case((1, 1), (2, 2, 2), head_dim, Window(1, 0), Window(offsets - 1, 0))
    tensors = case.tensors(dtype, DEVICE)
    assert message in triton_unavailable(tensors[0], case.second)
    with pytest.raises(ValueError, match=f"The Triton path cannot serve this call: .*{message}"):
        triton_path(*tensors, None, **case.options)


@on_kernels
def test_inputs_of_different_types_are_refused():
    case = CASES["causal"]
    query, *others = case.tensors(torch.float32, DEVICE)
    with pytest.raises(ValueError, match="inputs differ in dtype: .*torch.float16, torch.float32"):
        triton_path(query.half(), *others, None, **case.options)


@pytest.mark.skipif(IS_INTERPRETED, reason="is in the interpreter")
def test_a_cpu_is_refused_where_nothing_interprets():
    pytest.importorskip("triton", reason="Triton is not installed")
    case = Case((1, 1), (2, 2, 2), 16, Window(1, 0), Window(1, 0))
    tensors = [tensor.cpu() for tensor in case.tensors(torch.float32, DEVICE)]
    with pytest.raises(ValueError, match="query.device='cpu' is not a CUDA device"):
        triton_path(*tensors, None, **case.options)


@pytest.mark.skipif(IS_INTERPRETED or DEVICE == "cuda", reason="is in the interpreter, or ran on the GPU")
def test_the_kernels_in_the_interpreter():
    """Every test above that is skipped here."""
    triton = pytest.importorskip("triton", reason="Triton is not installed")
    if Version(triton.__version__) < Version("3.7") and Version(numpy.__version__) >= Version("2.4"):
        pytest.skip("the interpreter of Triton before 3.7 loops over no range with NumPy 2.4")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", str(Path(__file__))]
    environment = os.environ | INTERPRETER | {"CUDA_VISIBLE_DEVICES": ""}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]
    passed = int(run.stdout.split(" passed")[0].split()[-1])
    assert passed > len(CASES), run.stdout

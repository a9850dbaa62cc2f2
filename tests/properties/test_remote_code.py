"""Whatever model is drawn: a process without trine loads it as remote code, and it computes the same there."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from support import forks
from support.random_configs import PROMPT, SHAPES
from support.random_models import HEADS, build, can_write, inputs_of, sharpen
from support.random_outputs import outputs_of
from support.tally import TALLY, Refused, budget

import trine


PROGRAM = Path(__file__).parents[1] / "support/remote_process.py"
DRAWS = st.sampled_from(sorted(SHAPES)).flatmap(
    lambda shape: st.tuples(st.just(shape), st.sampled_from(HEADS[shape]), SHAPES[shape], st.integers(2, PROMPT))
)


def prepare(folder: Path, shape: str, head: str, values: dict, length: int) -> dict:
    """Saves a model with its code and inputs.

    Returns:
        What the other process is told of it.

    Raises:
        Refused: The config is refused by an error that names a field.
    """
    torch.manual_seed(0)
    model = sharpen(build(shape, getattr(trine, head), values | {"export_code": True})).eval()
    model.save_pretrained(folder)
    save_file(
        {name: ids.contiguous() for name, ids in inputs_of(model, length).items()}, folder / "inputs.safetensors"
    )
    auto_class = next(name for name, own in model.config.hub_auto_map.items() if own == head)
    return {"folder": str(folder), "auto_class": auto_class, "writes": can_write(model)}


def compare(job: dict | Refused, shape: str, head: str, *drawn) -> None:
    """Raises an AssertionError unless the other process has computed what the package does."""
    if isinstance(job, Refused):
        raise job
    folder = Path(job["folder"])
    error = folder / "error.txt"
    assert not error.exists(), error.read_text()
    model = getattr(trine, head).from_pretrained(folder, experts_implementation="eager").eval()
    expected = outputs_of(model, load_file(folder / "inputs.safetensors"), job["writes"])
    actual = load_file(folder / "outputs.safetensors")
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(actual[name], tensor, rtol=1e-9, atol=1e-9, equal_nan=False)


@pytest.mark.slow
def test_remote_code_computes_the_same(tmp_path, monkeypatch):
    draws, jobs = [], []

    @budget(12, 150)
    @given(DRAWS)
    def draw(values):
        draws.append(values)

    draw()
    for number, values in enumerate(draws):
        try:
            jobs.append(prepare(tmp_path / str(number) / "model", *values))
        except Refused as refusal:
            jobs.append(refusal)
    (tmp_path / "jobs.json").write_text(json.dumps([job for job in jobs if isinstance(job, dict)]))
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    result = forks.run([str(PROGRAM), str(tmp_path / "jobs.json")], tmp_path)
    assert result.returncode == 0, result.stderr
    for job, values in zip(jobs, draws, strict=True):
        TALLY.run(f"remote code: {values[0]}", compare, job, *values)
    for shape in SHAPES:
        TALLY.close(f"remote code: {shape}")

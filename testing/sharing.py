"""Checks of checkpoints: a model is the same after it was saved and loaded, with the package and without it."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from .decoding import generate
from .layers import tensors_of
from .results import Difference, DoesNotApply, require_equal, require_same_tokens
from .subjects import Subject, output_of, random_ids


# What a stranger does, in a process in which `import trine` fails.
STRANGER = """
import json, sys
sys.modules[sys.argv[2]] = None
import torch
torch.set_num_threads(int(sys.argv[3]))
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM
for folder, is_causal in json.loads(sys.argv[1]):
    load = AutoModelForCausalLM if is_causal else AutoModel
    model = load.from_pretrained(folder, trust_remote_code=True, dtype="auto", experts_implementation="eager")
    ids = load_file(f"{folder}/ids.safetensors")["ids"]
    with torch.no_grad():
        outputs = model(ids, use_cache=False)
    found = {"output": outputs.logits if is_causal else outputs.last_hidden_state}
    if is_causal:
        found["tokens"] = model.generate(ids, max_new_tokens=5, do_sample=False, eos_token_id=None, pad_token_id=0)
    save_file({name: tensor.contiguous() for name, tensor in found.items()}, f"{folder}/found.safetensors")
"""


def check_saving(subject: Subject) -> None:
    """A loaded model has the weights, buffers and output of the saved one."""
    ids = random_ids(2, 9)
    for what, fields in subject.cases():
        model = subject.model(**fields)
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            loaded = type(model).from_pretrained(folder, dtype="auto", experts_implementation="eager")
        copies = tensors_of(loaded)
        for name, tensor in tensors_of(model).items():
            require_equal(copies[name].double(), tensor.double(), f"{what}: {name} after loading", 0.0)
        with torch.no_grad():
            expected, actual = (output_of(each(ids, use_cache=False)) for each in (model, loaded.eval()))
        require_equal(actual, expected, f"{what}: the output after loading", 1e-12)


def check_sharing(subject: Subject) -> None:
    """A process in which the package cannot be imported loads the checkpoint, with equal output and equal tokens."""
    if not subject.shareable:
        raise DoesNotApply("checkpoints do not take it along: it has no file, or is registered with shareable=False")
    ids = random_ids(2, 9)
    with tempfile.TemporaryDirectory() as place:
        jobs, expected = [], []
        for index, (what, fields) in enumerate([*subject.cases()][-1::-1]):
            if index and fields["is_causal"] == jobs[-1][1]:
                continue  # one of each shape
            model, folder = subject.model(**fields), Path(place, str(index))
            model.save_pretrained(folder)
            save_file({"ids": ids}, folder / "ids.safetensors")
            jobs.append((str(folder), fields["is_causal"]))
            with torch.no_grad():
                output = output_of(model(ids, use_cache=False))
            expected.append((what, output, generate(model, ids) if fields["is_causal"] else None))
        start_stranger(jobs, place)
        for (folder, _), (what, output, tokens) in zip(jobs, expected, strict=True):
            found = load_file(Path(folder, "found.safetensors"))
            require_equal(found["output"], output, f"{what}: the output without the package", 1e-11)
            if tokens is not None:
                require_same_tokens(found["tokens"], tokens, f"{what}: the tokens without the package")


def start_stranger(jobs: list[tuple[str, bool]], place: str) -> None:
    """Raises a `Difference` with the last line of what the process said if it fails."""
    program = [sys.executable, "-c", STRANGER, json.dumps(jobs), __name__.split(".")[0], str(torch.get_num_threads())]
    offline = {
        "HF_MODULES_CACHE": str(Path(place, "modules")),
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
    }
    result = subprocess.run(program, cwd=place, env={**os.environ, **offline}, capture_output=True, text=True)
    if result.returncode:
        lines = result.stderr.strip().splitlines() or [f"it ended with status {result.returncode}"]
        raise Difference(f"without the package: {lines[-1]}")

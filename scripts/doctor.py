"""Tell what this machine has for Trine: versions, extras, devices, threads, half precision; and what is amiss."""

import json
import os
import platform
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any

import torch
from huggingface_hub import constants
from packaging.requirements import Requirement

from trine.scripts.arguments.parsing import parse_arguments
from trine.training.run.precision import bfloat16_instructions, choose_precision


@dataclass
class DoctorArguments:
    """Options of `trine doctor`."""

    json: bool = field(default=False, metadata={"help": "Print JSON, for a report of a fault."})


def main(argv: Sequence[str] | None = None) -> int:
    """Run `trine doctor` with these arguments, by default the process's."""
    (arguments,) = parse_arguments([DoctorArguments], argv, command="doctor", description=__doc__)
    facts = find_facts()
    print(json.dumps(facts, indent=2) if arguments.json else describe(facts))
    return 1 if facts["amiss"] else 0


def find_facts() -> dict[str, Any]:
    """Facts about this machine by subject; `amiss` lists what Trine needs and cannot find."""
    needed = [Requirement(text) for text in requires("trine") or ()]
    required = [requirement for requirement in needed if requirement.marker is None]
    amiss = [f"{each.name} {_installed(each.name) or 'is missing'}: needs {each}" for each in required if _bad(each)]
    return {
        "versions": {
            "trine": version("trine"),
            "python": platform.python_version(),
            **{requirement.name: _installed(requirement.name) or "missing" for requirement in required},
        },
        "extras": {extra: _lacks(needed, extra) for extra in sorted(_extras(needed))},
        "device": _devices(),
        "threads": {
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "torch": torch.get_num_threads(),
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
        },
        "half precision": _half_precision(),
        "hub": {"folder": constants.HF_HUB_CACHE, "offline": constants.is_offline_mode()},
        "amiss": amiss,
    }


def describe(facts: dict[str, Any]) -> str:
    """The facts as lines, a subject each."""
    lines = []
    for subject, found in facts.items():
        if subject == "extras":
            shown = [
                f"{extra}: {'complete' if not lacks else 'lacks ' + ', '.join(lacks)}"
                for extra, lacks in found.items()
            ]
        elif isinstance(found, dict):
            shown = [f"{name} {'not set' if value is None else value}" for name, value in found.items()]
        else:
            shown = found or ["nothing"]
        lines += [f"{subject}:", *(f"  {line}" for line in shown)]
    if any(facts["extras"].values()):
        lines.append("An extra is completed by: pip install 'trine[NAME]'")
    return "\n".join(lines)


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _bad(requirement: Requirement) -> bool:
    found = _installed(requirement.name)
    return found is None or not requirement.specifier.contains(found, prereleases=True)


def _extras(needed: Iterable[Requirement]) -> set[str]:
    """The extras that users have a use for: not those of who develops Trine."""
    named = {str(each.marker).partition('extra == "')[2].partition('"')[0] for each in needed if each.marker}
    return named - {"", "consumers", "dev", "docs", "test"}


def _lacks(needed: Iterable[Requirement], extra: str) -> list[str]:
    """The packages of an extra that are not there, or too old."""
    mine = [each for each in needed if each.marker and each.marker.evaluate({"extra": extra}) and not _always(each)]
    return [each.name for each in mine if _bad(each)]


def _always(requirement: Requirement) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": ""})


def _devices() -> dict[str, str]:
    found = {
        f"cuda:{index}": f"{torch.cuda.get_device_name(index)}, "
        f"{torch.cuda.get_device_properties(index).total_memory / 2**30:.0f} GiB"
        for index in range(torch.cuda.device_count())
    }
    if torch.backends.mps.is_available():
        found["mps"] = "Apple's GPU"
    return {"cpu": f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}", **found}


def _half_precision() -> dict[str, str]:
    having = bfloat16_instructions()
    found = {"cpu": f"bfloat16 by {', '.join(having)}" if having else "bfloat16 without instructions for it: slow"}
    if torch.cuda.is_available():
        found["cuda"] = "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    device = str(getattr(torch.accelerator.current_accelerator(), "type", "cpu"))
    return {**found, "--precision auto": f"trains in {choose_precision(device)}"}


if __name__ == "__main__":
    sys.exit(main())

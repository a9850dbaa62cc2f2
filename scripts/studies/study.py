"""The frame of a study: arguments, runs that are kept, means with their spread, and its part of the report."""

import json
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trine.scripts.arguments.parsing import INPUT_ERRORS, parse_arguments
from trine.scripts.reports.markdown import write_part


@dataclass(frozen=True)
class Study:
    """Models that are trained in the same way on the same data, over several seeds.

    Attributes:
        command: The sub-command that runs it.
        heading: Heading of its part of the report.
        introduction: Text below the heading.
        output_dir: Default folder of the finished runs.
        experiments: Classes by name. Each has a `title`, a `description` and the names of its `models`, is made from
            (folder of the data, folder for output, factor on the steps), and has `run(model, seed)`, which returns
            "parameters", "steps", "metrics" and, where there are any, "samples". Its `conclude(runs)`, if it has one,
            says what follows from the finished runs: sentences below the table.
        draw: Draws pictures of all finished runs into a folder, if there are any to draw.
    """

    command: str
    heading: str
    introduction: str
    output_dir: str
    experiments: Mapping[str, Any]
    draw: Callable[[list[dict], Path], None] | None = None


def arguments_of(study: Study) -> type:
    """The dataclass of the study's arguments."""
    names = list(study.experiments)
    all_models = list(dict.fromkeys(model for experiment in study.experiments.values() for model in experiment.models))

    @dataclass
    class StudyArguments:
        data_dir: str = field(default="data", metadata={"help": "Folder that `trine data fetch` filled."})
        output_dir: str = field(
            default=study.output_dir, metadata={"help": "Folder of the finished runs, which are kept."}
        )
        report: str = field(
            default="docs/measurements/results.md",
            metadata={"help": "Markdown file that gets the tables; the parts of other studies stay in it."},
        )
        experiments: list[str] = field(
            default_factory=names.copy, metadata={"help": f"Which of {', '.join(names)} to run."}
        )
        models: list[str] = field(
            default_factory=all_models.copy, metadata={"help": f"Which of {'; '.join(all_models)} to run."}
        )
        seeds: int = field(default=3, metadata={"help": "Runs of each model, with seeds in a row."})
        first_seed: int = field(
            default=0, metadata={"help": "The first of them: processes can share the runs and one output_dir."}
        )
        scale: float = field(
            default=1.0, metadata={"help": "Factor on the number of steps of every run: below 1 to try."}
        )

        def __post_init__(self):
            for argument, choices in (("experiments", names), ("models", all_models)):
                unknown = [name for name in getattr(self, argument) if name not in choices]
                if unknown:
                    raise ValueError(f"{argument}={unknown} are not among {choices}.")
            if self.seeds < 1:
                raise ValueError(f"seeds={self.seeds} must be at least 1.")
            if self.first_seed < 0:
                raise ValueError(f"first_seed={self.first_seed} must be at least 0.")
            if self.scale <= 0:
                raise ValueError(f"scale={self.scale} must be above 0.")

    return StudyArguments


def run_study(study: Study, argv: Sequence[str] | None = None, *, description: str | None) -> None:
    """Runs the experiments that are not yet in the folder of finished runs, and writes the part of the report."""
    (arguments,) = parse_arguments([arguments_of(study)], argv, command=study.command, description=description)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    output = Path(arguments.output_dir)
    path = output / "runs.jsonl"
    for name in arguments.experiments:
        try:
            experiment = study.experiments[name](Path(arguments.data_dir), output, arguments.scale)
        except INPUT_ERRORS as error:
            sys.exit(f"trine {study.command}: {error}")
        output.mkdir(parents=True, exist_ok=True)
        for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
            for model in (model for model in experiment.models if model in arguments.models):
                done = {(run["experiment"], run["model"], run["seed"]) for run in read_runs(path)}
                if (name, model, seed) in done:
                    print(f"{name}, {model}, seed {seed}: already in '{path}'")
                    continue
                print(f"{name}, {model}, seed {seed}", flush=True)
                start = time.process_time()
                run = {"experiment": name, "model": model, "seed": seed, **experiment.run(model, seed)}
                run["seconds"] = time.process_time() - start  # of the CPU: a busy machine tells nothing of a model
                with path.open("ab", buffering=0) as file:  # at once, since other processes may write, too
                    file.write((json.dumps(run, ensure_ascii=False) + "\n").encode())
                print(run["metrics"], flush=True)
    runs = read_runs(path)
    if study.draw is not None:
        study.draw(runs, output)
    text = describe_runs(study, runs)
    write_part(Path(arguments.report), text)
    print(text)


def read(folder: Path, name: str, split: str) -> list[dict]:
    """Reads the records of a data set's split."""
    path = folder / name / f"{split}.jsonl"
    if not path.exists():
        raise FileNotFoundError(f"'{path}' does not exist; build it with: trine data fetch --output_dir {folder}")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def read_runs(path: Path) -> list[dict]:
    """Reads the finished runs of a file; none if it does not exist."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def describe_runs(study: Study, runs: list[dict]) -> str:
    """The study's part of the report: a table per experiment, a row per model, mean and spread over the seeds."""
    parts = [f"# {study.heading}", study.introduction]
    for name, experiment in study.experiments.items():
        found = [run for run in runs if run["experiment"] == name]
        if not found:
            continue
        metrics = list(found[0]["metrics"])
        rows = [f"| model | parameters | seeds | steps | {' | '.join(metrics)} | seconds |"]
        rows.append("|---" * (len(metrics) + 5) + "|")
        for model in dict.fromkeys(run["model"] for run in found):
            of_model = [run for run in found if run["model"] == model]
            cells = [spread([run["metrics"][metric] for run in of_model]) for metric in metrics]
            seconds = statistics.mean(run["seconds"] for run in of_model)
            first = of_model[0]
            rows.append(
                f"| {model} | {first['parameters']:,} | {len(of_model)} | {first['steps']:,} | {' | '.join(cells)} "
                f"| {seconds:.0f} |"
            )
        parts += [f"## {experiment.title}", experiment.description, "\n".join(rows)]
        if hasattr(experiment, "conclude") and (told := experiment.conclude(found)):
            parts.append(told)
        last = found[-1]
        if "samples" in last:
            parts.append(f"Samples of {last['model']}, seed {last['seed']}:")
            parts.append("\n".join(f"* {sample}" for sample in last["samples"]))
    return "\n\n".join(parts) + "\n"


def spread(values: Sequence[float]) -> str:
    """The mean, the least and the greatest value, or "-" if there is a NaN."""
    if any(map(math.isnan, values)):
        return "-"
    return f"{statistics.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"

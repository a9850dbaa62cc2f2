"""Compare what encoders, recurrent models and Transformers learn from real data, over several seeds."""

import json
import math
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from trine.scripts.arguments import parse_arguments
from trine.scripts.shape_experiments import EXPERIMENTS


@dataclass
class StudyArguments:
    data_dir: str = field(default="data", metadata={"help": "Folder that `trine fetch-data` filled."})
    output_dir: str = field(
        default="outputs/shapes", metadata={"help": "Folder of the finished runs, which are kept."}
    )
    report: str = field(default="docs/results.md", metadata={"help": "Markdown file that gets the tables."})
    experiments: list[str] = field(
        default_factory=lambda: list(EXPERIMENTS), metadata={"help": f"Which of {', '.join(EXPERIMENTS)} to run."}
    )
    seeds: int = field(default=3, metadata={"help": "Runs of each model, with seeds from 0."})
    scale: float = field(default=1.0, metadata={"help": "Factor on the number of steps of every run: below 1 to try."})

    def __post_init__(self):
        unknown = [name for name in self.experiments if name not in EXPERIMENTS]
        if unknown:
            raise ValueError(f"experiments={unknown} are not among {list(EXPERIMENTS)}.")
        if self.seeds < 1:
            raise ValueError(f"seeds={self.seeds} must be at least 1.")
        if self.scale <= 0:
            raise ValueError(f"scale={self.scale} must be above 0.")


def read_runs(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def report(runs: list[dict], arguments: StudyArguments) -> str:
    """The tables: one an experiment, one row a model, mean and spread over the seeds."""
    parts = [
        "# Results",
        "What small models learn from real data in minutes on one CPU thread each. Made by `trine study-shapes` from "
        "the sets that `trine fetch-data` builds. Numbers are means over seeds, with the smallest and the largest.",
    ]
    for name, experiment in EXPERIMENTS.items():
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
        last = found[-1]
        if "samples" in last:
            parts.append(f"Samples of {last['model']}, seed {last['seed']}:")
            parts.append("\n".join(f"* {sample}" for sample in last["samples"]))
    return "\n\n".join(parts) + "\n"


def spread(values: Sequence[float]) -> str:
    if any(map(math.isnan, values)):
        return "-"
    return f"{statistics.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def main(argv: Sequence[str] | None = None) -> None:
    (arguments,) = parse_arguments([StudyArguments], argv, command="study-shapes", description=__doc__)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    output = Path(arguments.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    path = output / "runs.jsonl"
    for name in arguments.experiments:
        experiment = EXPERIMENTS[name](Path(arguments.data_dir), output, arguments.scale)
        for seed in range(arguments.seeds):
            for model in experiment.models:
                done = {(run["experiment"], run["model"], run["seed"]) for run in read_runs(path)}
                if (name, model, seed) in done:
                    print(f"{name}, {model}, seed {seed}: already in '{path}'")
                    continue
                print(f"{name}, {model}, seed {seed}", flush=True)
                start = time.perf_counter()
                run = {"experiment": name, "model": model, "seed": seed, **experiment.run(model, seed)}
                run["seconds"] = time.perf_counter() - start
                with path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(run, ensure_ascii=False) + "\n")
                print(run["metrics"], flush=True)
    text = report(read_runs(path), arguments)
    Path(arguments.report).parent.mkdir(parents=True, exist_ok=True)
    Path(arguments.report).write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()

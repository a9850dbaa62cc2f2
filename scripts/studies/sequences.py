"""Compare a fixed vector with attention, and true tokens with the model's own in training, over several seeds."""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import set_seed

from trine import TrineRecurrentConfig, TrineRecurrentForConditionalGeneration
from trine.modeling.checks.ids import IGNORE_INDEX
from trine.scripts.studies.claims import Claim, judge_all
from trine.scripts.studies.comparison import Batch, train
from trine.scripts.studies.sequence_tasks import (
    BEGIN,
    END,
    LONGEST,
    PADDING,
    VOCABULARY,
    collate,
    cut_texts,
    decode,
    distance,
)
from trine.scripts.studies.study import Study, read, run_study
from trine.training.measures.intervals import resampled_interval
from trine.training.run.trainers import SCHEDULES, mix_inputs


FIXED, ATTENTION, SAMPLED = MODELS = ("fixed vector", "attention", "attention, scheduled sampling")
SCHEDULE = "inverse_sigmoid"
BORDERS = (0, 8, 16, LONGEST)  # of the classes of lengths
CLASSES = {"all": (0, LONGEST)} | {f"{low + 1} to {high}": (low, high) for low, high in pairwise(BORDERS)}

# In edits of a text.
CLAIMS = (
    Claim(ATTENTION, FIXED, "Attention writes with fewer faults than a fixed vector"),
    Claim(SAMPLED, ATTENTION, "Scheduled sampling writes with fewer faults, for it has learnt to go on after its own"),
)


class Vowels:
    """Real text whose vowels are to be written: local, so that long texts are no harder than short ones."""

    title = "Writing the vowels of package descriptions"
    description = (
        f"The beginnings of one-line descriptions (Debian), at most {LONGEST} characters, without their vowels; what "
        "is written is the whole text, character by character. Long texts are no harder than short ones, but for what "
        "has to be kept in mind. One LSTM layer of width 128 on each side, batches of 64, Adam at 0.01. `all` is the "
        "edit distance between the text by greedy search and the true one, in % of its characters, on 1,000 texts of "
        "the test split; next to it that of texts of so many characters. `true tokens` is the % of characters that "
        "the model does not think likeliest after the true ones; `loss` is in nats per character, after true ones, "
        f"too. With scheduled sampling (`{SCHEDULE}`) 40 % of the characters that are read in training are drawn from "
        "the model in the end."
    )
    models = MODELS
    full_steps, batch_size, learning_rate, held_out = 500, 64, 1e-2, 1000

    def __init__(self, data: Path, output: Path, scale: float):
        self.steps = max(1, int(self.full_steps * scale))
        self.texts, others = (
            [row["short"] for row in read(data, "package-descriptions", split)] for split in ("train", "test")
        )
        self.unseen = cut_texts(others[: self.held_out], np.random.default_rng(9))

    def batches(self, model: Any, seed: int, schedule: Callable[[float], float]) -> Iterator[Batch]:
        """Yields batches of texts, alike for all models; of what the decoder reads, some is drawn from the model."""
        generator = np.random.default_rng(100 + seed)
        for step in range(self.steps):
            drawn = generator.choice(len(self.texts), self.batch_size)
            batch: dict[str, Any] = collate(cut_texts([self.texts[index] for index in drawn], generator))
            if (truth := schedule(step / self.steps)) < 1:
                batch["decoder_input_ids"] = mix_inputs(model, batch, truth)
            yield batch

    def run(self, name: str, seed: int) -> dict:
        """Trains and judges a model with one seed."""
        set_seed(seed)
        ids: dict[str, Any] = {"pad_token_id": PADDING, "bos_token_id": BEGIN, "eos_token_id": END}
        layer: dict[str, Any] = {"vocab_size": VOCABULARY, "hidden_size": 128, "num_hidden_layers": 1}
        attention = "none" if name == FIXED else "dot"
        model = TrineRecurrentForConditionalGeneration(TrineRecurrentConfig(**layer, attention=attention, **ids))
        schedule = SCHEDULES[SCHEDULE if name == SAMPLED else "none"]
        train(model, self.batches(model, seed, schedule), steps=self.steps, learning_rate=self.learning_rate)
        written, found = self.judge(model.eval())
        edits = [distance(*pair) for pair in zip(written, self.unseen, strict=True)]
        sizes = np.array([len(text) for text in self.unseen])
        metrics = {name: error(edits, sizes, *ends) for name, ends in CLASSES.items()} | found
        samples = [f"{text} → {guess}" for text, guess in zip(self.unseen[:8], written, strict=False)]
        return {
            "parameters": model.num_parameters(),
            "steps": self.steps,
            "metrics": metrics,
            "samples": samples,
            "edits": edits,
            "sizes": sizes.tolist(),
        }

    @torch.no_grad()
    def judge(self, model: Any) -> tuple[list[str], dict[str, float]]:
        """Writes the unseen texts by greedy search; returns them, and the errors after true characters."""
        written, wrong, loss, count = [], 0, 0.0, 0
        for start in range(0, len(self.unseen), 100):
            batch = collate(self.unseen[start : start + 100])
            outputs = model(**batch)
            real = batch["labels"] != IGNORE_INDEX
            wrong += int((outputs.logits.argmax(-1) != batch["labels"])[real].sum())
            loss, count = loss + float(outputs.loss) * int(real.sum()), count + int(real.sum())
            labels = batch.pop("labels")
            written += decode(model.generate(**batch, max_new_tokens=labels.shape[1] + 8, do_sample=False))
        return written, {"true tokens": 100 * wrong / count, "loss": loss / count}

    @staticmethod
    def conclude(runs: Sequence[dict]) -> str:
        """Differences of models, means over their common seeds, with intervals of the paired bootstrap over texts."""
        edits = {
            name: {run["seed"]: np.array(run["edits"]) for run in runs if run["model"] == name} for name in MODELS
        }
        sizes = np.array(runs[0]["sizes"])
        lines = [f"| difference | {' | '.join(CLASSES)} |", "|---" * (len(CLASSES) + 1) + "|"]
        for one, other in ((claim.better, claim.worse) for claim in CLAIMS):
            if seeds := edits[one].keys() & edits[other].keys():
                gain = np.mean([edits[one][seed] - edits[other][seed] for seed in seeds], axis=0)
                cells = [with_interval(gain, sizes, *ends) for ends in CLASSES.values()]
                lines.append(f"| {one}, beside {other} | {' | '.join(cells)} |")
        told = judge_all(CLAIMS, [{**run, "losses": run["edits"]} for run in runs])
        return "\n".join(lines) + f"\n\n{told}".rstrip()


def error(edits: Any, sizes: np.ndarray, low: int, high: int, counts: Any = 1) -> float:
    """Edits (N,) in % of the characters of the texts that are so long, each of which counts as often as told."""
    weights = counts * ((sizes > low) & (sizes <= high))
    return float(100 * (weights * edits).sum() / max((weights * sizes).sum(), 1))


def with_interval(gain: np.ndarray, sizes: np.ndarray, low: int, high: int) -> str:
    """A difference of edits (N,) as `error`, with its interval."""
    ends = resampled_interval(lambda counts: error(gain, sizes, low, high, counts), len(gain))
    return f"{error(gain, sizes, low, high):+.1f} ({ends[0]:+.1f} to {ends[1]:+.1f})"


EXPERIMENTS: dict[str, Any] = {"vowels": Vowels}


STUDY = Study(
    command="study sequences",
    heading="Attention against a fixed vector, and reading one's own text",
    introduction=(
        "What small recurrent encoder-decoders learn in equally many steps on the same batches, on one CPU thread. "
        "Made by `trine study sequences` from the descriptions that `trine data fetch` builds. Numbers are means over "
        "seeds, with the smallest and the largest; intervals of differences are 95 %, by the paired bootstrap over "
        "texts."
    ),
    output_dir="outputs/sequences",
    experiments=EXPERIMENTS,
)


def main(argv: Sequence[str] | None = None) -> None:
    """Run `trine study sequences` with these arguments, by default the process's."""
    run_study(STUDY, argv, description=__doc__)


if __name__ == "__main__":
    main()

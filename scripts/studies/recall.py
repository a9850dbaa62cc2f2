"""Compare what models of each attention kind find again far back in a text, and copy, over several seeds."""

import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import torch
from transformers import PreTrainedModel, set_seed

from trine import TrineConfig, TrineForCausalLM
from trine.modeling.attention.table import ATTENTIONS
from trine.modeling.checks.ids import IGNORE_INDEX
from trine.scripts.reports.plots import draw_curves
from trine.scripts.studies.comparison import Batch, Comparison, train
from trine.scripts.studies.recall_tasks import (
    KEYS,
    NEEDLES,
    SYMBOLS,
    VALUES,
    VOCABULARY,
    Recall,
    copy,
    needle,
)
from trine.scripts.studies.study import Study, run_study


LENGTH = 256
WINDOW = 32  # tokens that a layer with windows, chunks or blocks sees, about
HYBRIDS = ("sliding, full", "linear, sliding")
# The attention types of each model, repeated over its layers.
MODELS = (*ATTENTIONS, *(hybrid for hybrid in HYBRIDS if set(hybrid.split(", ")) <= set(ATTENTIONS)))
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": LENGTH,
    "initializer": "xavier",
    "initializer_range": 64**-0.5,
    "scale_embedding": True,
    "sliding_window": WINDOW,
    "attention_chunk_size": WINDOW,
    "simplicial_window": WINDOW,
    "simplicial_second_window": 4,
    "bigbird_block_size": 8,
    "bigbird_num_global_blocks": 1,
    "bigbird_num_window_blocks": 2,
    "bigbird_num_random_blocks": 1,
    "lsh_chunk_length": 16,
    "lsh_num_hashes": 2,
}
TOKENS = 2048  # of a training step
POINTS = 50  # of a learning curve
BINS = 8  # of distances


class RecallExperiment(Comparison):
    """A task whose every batch is new, judged on texts that are the same for all runs."""

    models = MODELS
    head = TrineForCausalLM
    sizes = SIZES
    draw: ClassVar[Callable[[int, int, torch.Generator], Recall]]
    stages: ClassVar[tuple[int, ...]]  # the lengths of texts, each for as many steps
    learning_rate, held_out = 3e-3, 512

    def batches(self, seed: int) -> Iterator[Batch]:
        """New texts for each step, longer from stage to stage."""
        generator = torch.Generator().manual_seed(100 + seed)
        for step in range(self.steps):
            length = self.stages[step * len(self.stages) // self.steps]
            batch = type(self).draw(TOKENS // length, length, generator)
            yield {"input_ids": batch.input_ids, "labels": batch.labels}

    def config(self, name: str, width: int) -> TrineConfig:
        """The config of a model whose layers are all of one kind."""
        return TrineConfig(**{**self.sizes, "attention_types": name, "intermediate_size": width})

    def build(self, name: str) -> PreTrainedModel:
        """Builds a model; all have feed-forwards of the same width."""
        return self.head(self.config(name, self.sizes["intermediate_size"]))

    @torch.no_grad()
    def judge(self, model: PreTrainedModel) -> tuple[torch.Tensor, torch.Tensor]:
        """For each answer, whether the model's likeliest token is right, and how far back the original is."""
        held_out, rights = type(self).draw(self.held_out, LENGTH, torch.Generator().manual_seed(9)), []
        for ids, labels in zip(held_out.input_ids.split(64), held_out.labels.split(64), strict=True):
            guesses, answers = model(input_ids=ids, use_cache=False).logits[:, :-1].argmax(-1), labels[:, 1:]
            rights.append((guesses == answers)[answers != IGNORE_INDEX])
        return torch.cat(rights), held_out.distances.flatten()

    def metrics(self, rights: torch.Tensor, distances: torch.Tensor) -> dict[str, float]:
        """The accuracy of all answers."""
        return {"accuracy": float(rights.float().mean())}

    def run(self, name: str, seed: int) -> dict:
        """Trains and judges a model with one seed."""
        set_seed(seed)
        model = self.build(name)
        losses = train(model, self.batches(seed), steps=self.steps, learning_rate=self.learning_rate)
        rights, distances = self.judge(model.eval())
        return {
            "parameters": model.num_parameters(),
            "steps": self.steps,
            "metrics": self.metrics(rights, distances) | {"mean training loss": statistics.mean(losses)},
            "curve": thin(losses),
            "by distance": by_distance(rights, distances),
        }


def thin(losses: list[float]) -> dict[int, float]:
    """Means over stretches of equal length, by the last step of each."""
    size = max(1, len(losses) // POINTS)
    return {end: statistics.mean(losses[end - size : end]) for end in range(size, len(losses) + 1, size)}


def by_distance(rights: torch.Tensor, distances: torch.Tensor) -> dict[int, float]:
    """The share of right answers by the middle of each eighth of a text's length that has any distances."""
    size = LENGTH // BINS
    bins = distances // size
    found = [number for number in range(BINS) if bool((bins == number).any())]
    return {number * size + size // 2: float(rights[bins == number].float().mean()) for number in found}


def draw_runs(runs: list[dict], folder: Path) -> None:
    """Pictures of each task: mean learning curves, and the mean accuracy by distance where it varies."""
    pictures = {
        "curve": ("optimizer step", "training loss [nats an answer]"),
        "by distance": ("tokens back", "accuracy"),
    }
    for name in EXPERIMENTS:
        for key, (xlabel, ylabel) in pictures.items():
            curves = {}
            for model in MODELS:
                found = [run[key] for run in runs if (run["experiment"], run["model"]) == (name, model)]
                steps = [point for point in (found[0] if found else {}) if all(point in run for run in found)]
                curves[model] = {float(step): statistics.mean(run[step] for run in found) for step in steps}
            curves = {model: points for model, points in curves.items() if points}
            if max(map(len, curves.values()), default=0) > 1:
                path = folder / f"{name}-{key.replace(' ', '-')}.png"
                draw_curves(curves, path, xlabel=xlabel, ylabel=ylabel)


class Needle(RecallExperiment):
    """Multi-query associative recall among fillers."""

    title = "Needles in a haystack"
    description = (
        f"{LENGTH} tokens: fillers with {NEEDLES} needles at random places, then questions. A needle is a token that "
        f"says one of {KEYS} keys and one of {VALUES} values; a question is a key, and the answer its value. This is "
        "multi-query associative recall, but that key and value share a token. (In two tokens, one after the other, "
        "full attention was hardly better than chance among the values of its text after 600 steps of 4,096 tokens.) "
        f"Texts grow from 32 tokens by doubling, for a sixth of the steps each, with {TOKENS} tokens in every step. "
        f"`accuracy` is that of all answers on 512 texts, whose needles are 1 to {LENGTH - 2} tokens back; chance is "
        f"{1 / VALUES}. `near` counts answers at most {WINDOW} tokens back, which a window reaches, `far` all others."
    )
    draw = staticmethod(needle)
    full_steps = 450
    stages = (32, 64, 128, LENGTH, LENGTH, LENGTH)

    def metrics(self, rights: torch.Tensor, distances: torch.Tensor) -> dict[str, float]:
        """The accuracy of all answers, and of those near and far."""
        parts = {"near": rights[distances <= WINDOW], "far": rights[distances > WINDOW]}
        return super().metrics(rights, distances) | {name: float(part.float().mean()) for name, part in parts.items()}


class Copy(RecallExperiment):
    """Copying of random tokens."""

    title = "Copying"
    description = (
        f"{(LENGTH - 1) // 2} random tokens out of {SYMBOLS}, a separator, and the same tokens again, with {TOKENS} "
        f"tokens in every step. `accuracy` is that of the copied tokens of 512 texts, each {(LENGTH - 1) // 2} tokens "
        f"behind its original; chance is {1 / SYMBOLS:.3f}."
    )
    draw = staticmethod(copy)
    full_steps = 400
    stages = (LENGTH,)


EXPERIMENTS = {"needle": Needle, "copy": Copy}


STUDY = Study(
    command="study recall",
    heading="What each attention kind recalls",
    introduction=(
        "Small decoders that differ in the attention of their 2 layers only (hidden size 64, 2 heads, rotary "
        "positions); rows with two kinds have one in each layer. All see the same batches, no text twice, for equally "
        f"many steps at the same learning rate. Texts have {LENGTH} tokens; windows and chunks have {WINDOW}, so "
        "that two layers of windows reach less than half of the distance of a copy; blocks (8 tokens: a global, two "
        "window and a random one) and hashed chunks (two of 16, 2 hashes) see about as much at a time. Time is not "
        "equal: see the seconds, on one CPU thread. The mean training loss, in nats an answer, is over all steps. "
        "Made by `trine study recall`, which also draws learning curves and accuracies by distance. Numbers are means "
        "over seeds, with the smallest and the largest."
    ),
    output_dir="outputs/recall",
    experiments=EXPERIMENTS,
    draw=draw_runs,
)


def main(argv: Sequence[str] | None = None) -> None:
    """Run `trine study recall` with these arguments, by default the process's."""
    run_study(STUDY, argv, description=__doc__)


if __name__ == "__main__":
    main()

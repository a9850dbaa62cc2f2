"""Test claims about the parts of a decoder: activations, experts, and norms in a stack of 100 layers."""

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from transformers import PreTrainedModel, set_seed

from trine import TrineConfig
from trine.scripts.reports.plots import draw_curves
from trine.scripts.studies.claims import Claim, judge_all
from trine.scripts.studies.comparison import train
from trine.scripts.studies.recall import thin
from trine.scripts.studies.simplicial import RealText, token_losses
from trine.scripts.studies.study import Study, run_study


class Parts(RealText):
    """Decoders that differ in one part, on the same batches of real text."""

    options: ClassVar[dict[str, dict[str, Any]]]  # fields of each model's config
    claims: ClassVar[tuple[Claim, ...]]

    def build(self, name: str) -> PreTrainedModel:
        """Builds a model from its fields."""
        return self.head(TrineConfig(**{**self.sizes, **self.options[name]}))

    def run(self, name: str, seed: int) -> dict:
        """Trains and evaluates a model with one seed."""
        set_seed(seed)
        model = self.build(name)
        losses = self.train(name, model, seed)
        with torch.no_grad():
            rows = self.validation_ids.split(64)
            of_tokens = torch.cat([token_losses(model.eval(), ids)[0] for ids in rows])
        return {
            "parameters": model.num_parameters(),
            "steps": self.steps,
            "metrics": {"loss": float(of_tokens.mean())},
            "losses": [round(loss, 4) for loss in of_tokens.mean(dim=1).tolist()],
            "curve": thin(losses),
        }

    def train(self, name: str, model: PreTrainedModel, seed: int) -> list[float]:
        """Trains in place; returns all losses."""
        return train(model, self.batches(seed), steps=self.steps, learning_rate=self.learning_rate)

    @classmethod
    def conclude(cls, runs: Sequence[dict]) -> str:
        """The verdict on each claim."""
        return judge_all(cls.claims, runs)


class FeedForwards(Parts):
    """Activations, gates and experts."""

    title = "Feed-forwards: activations, gates and experts"
    description = (
        "Debian's package descriptions (English) in subwords of a vocabulary of 512, 64 at a time, 512 tokens in a "
        "step. Decoders of 2 layers, 64 wide, which see no text twice; the loss is that of 512 rows of the validation "
        "split, in nats per token. Plain feed-forwards are 256 wide, the gated one is 172, which makes as many "
        "parameters. `experts` are 8 of width 128 with GELU, of which a token visits 2: they compute as much for a "
        "token as the plain ones, but for the router, and have as many parameters as one that is four times as wide. "
        "The loss that balances them is trained, but not counted. The order of ReLU and GELU hangs on the "
        "initialisation, which was changed after a first look: with weights of 0.02 and a rate of 4e-3 (one seed) "
        "ReLU had 3.958, GELU 4.025 and SwiGLU 4.709."
    )
    options: ClassVar[dict[str, dict[str, Any]]] = {
        "ReLU": {"hidden_act": "relu"},
        "GELU": {"hidden_act": "gelu"},
        "SwiGLU": {"hidden_act": "silu", "gated_mlp": True, "intermediate_size": 172},
        "experts": {"mlp_layer_types": "sparse", "moe_intermediate_size": 128},
        "GELU, four times as wide": {"intermediate_size": 1024},
    }
    models = tuple(options)
    length, vocab_size, held_out = 64, 512, 512
    sizes: dict[str, Any] = {
        "hidden_size": 64,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "hidden_act": "gelu",
        "gated_mlp": False,
        "max_position_embeddings": length,
        # With 0.02 everywhere a gate's product is tiny at first, and the gated model learns much later.
        "initializer": "xavier",
        "initializer_range": 64**-0.5,
        "scale_embedding": True,
    }
    full_steps, batch_size, learning_rate = 300, 8, 3e-3
    claims = (
        Claim("GELU", "ReLU", "GELU is better than ReLU, at equal parameters and tokens"),
        Claim("SwiGLU", "GELU", "A gated feed-forward is better than a plain one, at equal parameters and tokens"),
        Claim("experts", "GELU", "Experts are better than a dense feed-forward that computes as much for a token"),
        Claim(
            "GELU, four times as wide",
            "experts",
            "A dense feed-forward with as many parameters as all experts together, which computes four times as much, "
            "is better than experts",
        ),
    )


class Depth(Parts):
    """Where the norm stands in 100 layers."""

    title = "Pre-norm and post-norm at 100 layers"
    description = (
        "The same texts in subwords of a vocabulary of 320, 32 at a time, 256 tokens in a step. Decoders of 100 "
        "layers, 32 wide (LayerNorm, GELU, learned positions, Xavier's initialisation), with Adam at 0.002 from the "
        "first step, or after a warm-up over a tenth of the steps, then cosine decay; gradients are clipped at 1. A "
        "new model of Trine divides what projects into the residual stream by the root of the number of sub-layers, "
        "here 14; `undivided` does not, as in the first Transformers. `below frequencies` is by how many nats the "
        "loss is below that of the frequencies of the tokens in the training split: a model that is not below has "
        "learnt nothing of the context."
    )
    options: ClassVar[dict[str, dict[str, Any]]] = {
        f"{norm}-norm{size}{warmup}": {"norm_position": norm}
        for norm, sizes in (("pre", ("",)), ("post", ("", ", undivided")))
        for size in sizes
        for warmup in (", warm-up", "")
    }
    models = tuple(options)
    length, vocab_size, held_out = 32, 320, 256
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 128,
        "num_hidden_layers": 100,
        "num_attention_heads": 2,
        "norm_type": "layernorm",
        "hidden_act": "gelu",
        "gated_mlp": False,
        "initializer": "xavier",
        "scale_embedding": True,
        "initializer_range": 32**-0.5,
        "position_type": "learned",
        "attn_implementation": "eager",  # in so short texts the quickest
        "max_position_embeddings": length,
    }
    full_steps, batch_size, learning_rate = 60, 8, 2e-3
    claims = (
        Claim("pre-norm", "post-norm, undivided", "Pre-norm is better than undivided post-norm, without warm-up"),
        Claim(
            "pre-norm, warm-up",
            "post-norm, undivided, warm-up",
            "Pre-norm is better than undivided post-norm, with warm-up",
        ),
        Claim("post-norm, undivided, warm-up", "post-norm, undivided", "Warm-up helps undivided post-norm"),
        Claim("post-norm", "post-norm, undivided", "Divided projections help post-norm, without warm-up"),
        Claim("pre-norm", "post-norm", "Pre-norm is better than divided post-norm, without warm-up"),
    )

    @classmethod
    def conclude(cls, runs: Sequence[dict]) -> str:
        """Which models have learnt from the context, and the verdict on each claim."""
        behind = {run["model"] for run in runs if run["metrics"]["below frequencies"] <= 0}
        ahead = [name for name in cls.models if name in {run["model"] for run in runs} - behind]
        told = ", ".join(f"`{name}`" for name in ahead) or "none, so that which of them train at all is undecided"
        return f"* Below the frequencies with every seed: {told}.\n{super().conclude(runs)}"

    def prepare(self, data: Path) -> None:
        """Reads and encodes the texts, and finds the loss of a model that knows frequencies only."""
        super().prepare(data)
        counts = self.train_ids.flatten().bincount(minlength=len(self.tokenizer)) + 1.0
        self.frequency_loss = -float((counts / counts.sum()).log()[self.validation_ids[:, 1:]].mean())

    def run(self, name: str, seed: int) -> dict:
        """Trains and evaluates a model with one seed."""
        run = super().run(name, seed)
        run["metrics"]["below frequencies"] = self.frequency_loss - run["metrics"]["loss"]
        return run

    def build(self, name: str) -> PreTrainedModel:
        """Builds a model, perhaps with projections into the residual stream that are as large as the others."""
        model = super().build(name)
        if "undivided" in name:
            undivide(model)
        return model

    def train(self, name: str, model: PreTrainedModel, seed: int) -> list[float]:
        """Trains in place, with or without warm-up; returns all losses."""
        options = {"steps": self.steps, "learning_rate": self.learning_rate}
        return train(model, self.batches(seed), **options, has_warmup=name.endswith("warm-up"))


def undivide(model: PreTrainedModel) -> None:
    """Undoes the division of what projects into the residual stream by the root of the number of sub-layers."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                weight *= math.sqrt(2 * model.config.num_hidden_layers)


EXPERIMENTS: dict[str, Any] = {"feed-forwards": FeedForwards, "depth": Depth}


def draw_runs(runs: list[dict], folder: Path) -> None:
    """A picture of each experiment: learning curves, means over the seeds."""
    for name, experiment in EXPERIMENTS.items():
        curves = {}
        for model in experiment.models:
            found = [run["curve"] for run in runs if (run["experiment"], run["model"]) == (name, model)]
            steps = [step for step in (found[0] if found else {}) if all(step in run for run in found)]
            curves[model] = {float(step): statistics.mean(run[step] for run in found) for step in steps}
        curves = {model: points for model, points in curves.items() if len(points) > 1}
        if curves:
            draw_curves(
                curves, folder / f"{name}-curve.png", xlabel="optimizer step", ylabel="training loss [nats a token]"
            )


STUDY = Study(
    command="study parts",
    heading="The parts of a decoder",
    introduction=(
        "Claims about the parts of a decoder, at sizes that train in seconds on one CPU thread. Within a table all "
        "models see the same batches for the same number of steps at the same peak of the learning rate. Numbers are "
        "means over seeds, with the smallest and the largest; seconds are those of the CPU, on a busy machine. A "
        "claim is kept where the loss is lower for each seed, and the bootstrap's 95 % interval of the difference "
        "over the held-out texts, each a mean over seeds, is wholly below 0; refuted where all that is above 0. What "
        "holds for larger models and longer training is another question. Made by `trine study parts` from the set "
        "`package-descriptions` that `trine data fetch` builds."
    ),
    output_dir="outputs/parts",
    experiments=EXPERIMENTS,
    draw=draw_runs,
)


def main(argv: Sequence[str] | None = None) -> None:
    """Run `trine study parts` with these arguments, by default the process's."""
    run_study(STUDY, argv, description=__doc__)


if __name__ == "__main__":
    main()

"""Claims that one model is better than another: kept, refuted or undecided, by the losses of held-out texts."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trine.training.measures.intervals import bootstrap_interval


@dataclass(frozen=True)
class Claim:
    """That `better` has lower losses than `worse`.

    Attributes:
        better: Name of a model.
        worse: Name of the other.
        says: The claim in words.
    """

    better: str
    worse: str
    says: str

    def judge(self, runs: Sequence[dict]) -> str | None:
        """A sentence, or None where no seed has both models.

        Each run has "losses", one for each held-out text. The interval is that of the mean difference over texts, each
        loss a mean over seeds. The claim is kept where it lies below 0 and so does the difference of every seed.
        """
        found = {name: {run["seed"]: run["losses"] for run in runs if run["model"] == name} for name in self.models}
        seeds = [seed for seed in found[self.better] if seed in found[self.worse]]
        if not seeds:
            return None
        better, worse = (np.array([found[name][seed] for seed in seeds]) for name in self.models)
        differences = better - worse
        low, high = bootstrap_interval(differences.mean(axis=0))
        each = differences.mean(axis=1)
        verdict = "undecided"
        if max(high, each.max()) < 0:
            verdict = "kept"
        elif min(low, each.min()) > 0:
            verdict = "refuted"
        alone = " by one seed only" if len(seeds) == 1 else ""
        return (
            f"* {self.says}: **{verdict}**{alone}. {self.better} less {self.worse}: {differences.mean():+.3f} "
            f"({low:+.3f} to {high:+.3f} over texts, {each.min():+.3f} to {each.max():+.3f} over seeds: {len(seeds)})."
        )

    @property
    def models(self) -> tuple[str, str]:
        """The names of both models."""
        return self.better, self.worse


def judge_all(claims: Sequence[Claim], runs: Sequence[dict]) -> str:
    """The sentences of all claims on models that have been trained."""
    return "\n".join(sentence for claim in claims if (sentence := claim.judge(runs)) is not None)

"""Compare dot-product with 2-simplicial attention, at equal parameters and tokens, over several seeds."""

import math
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from trine import TrineForCausalLM, TrineForSequenceClassification, TrineForTokenClassification
from trine.modeling.checks.ids import IGNORE_INDEX
from trine.scripts.studies.comparison import MODELS, Batch, Comparison, train
from trine.scripts.studies.simplicial_tasks import (
    COMPOSITION_VOCABULARY,
    DOMAIN,
    MODULUS,
    SET_SIZE,
    composition,
    gym_problems,
    match3,
)
from trine.scripts.studies.study import Study, read, run_study
from trine.tokenization.byte_level_bpe import train_byte_level_bpe


SLOWEST = "2-simplicial"
EQUAL_TIME = ", equal time"  # ends the name of a model that trains for as long as the slowest one


def windows(first: int, second: int | None = None) -> dict[str, int]:
    """Fields for the sizes of both windows; the second is as large as the first unless given."""
    return {"simplicial_window": first, "simplicial_second_window": second or first}


class Generated(Comparison):
    """A task whose every batch is new, judged on 4,096 examples that are the same for all runs."""

    draw: ClassVar[Callable[[int, torch.Generator], Batch]]
    held_out = 4096

    def batches(self, seed: int) -> Iterator[Batch]:
        """New examples for each step."""
        generator = torch.Generator().manual_seed(100 + seed)
        while True:
            yield type(self).draw(self.batch_size, generator)

    def evaluate(self, model: PreTrainedModel) -> dict[str, float]:
        """The accuracy on examples that are the same for all runs."""
        batch = type(self).draw(self.held_out, torch.Generator().manual_seed(9))
        labels = batch.pop("labels")
        return {"accuracy": float((model(**batch).logits.argmax(-1) == labels).float().mean())}


# The order of the tokens says nothing in either task, so there are no positions. Embeddings and projections keep the
# variance of 1, without which attention to pairs takes many times the steps to begin to learn.
SMALL = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "position_type": "none",
    "simplicial_offset_bias": False,
    "initializer": "xavier",
    "initializer_range": 64**-0.5,
    "scale_embedding": True,
    "max_position_embeddings": 32,
}


class Match3(Generated):
    """Match3: three numbers of a set that sum to zero."""

    title = "Match3: three numbers of a set that sum to zero"
    description = (
        "Eight numbers modulo 29 in no order; of each, whether there are two in the set (itself included) with which "
        "it sums to zero. Encoders of 2 layers, new sets in every step; accuracy on 4,096 sets, of whose labels "
        "72.5 % are yes."
    )
    head = TrineForTokenClassification
    sizes: dict[str, Any] = {
        **SMALL,
        "vocab_size": MODULUS,
        "num_labels": 2,
        "is_causal": False,
        **windows(2 * SET_SIZE - 1),
    }
    full_steps, batch_size, learning_rate = 600, 128, 3e-3
    draw = staticmethod(match3)


class Composition(Generated):
    """Composition of two functions given in the context."""

    title = "Composing two functions that are given in the context"
    description = (
        "The eight pairs of a permutation g, the eight of a function f, both in random order, and a query q, each a "
        "token; the answer is f(g(q)). Decoders of 2 layers, new functions in every step; accuracy on 4,096 queries. "
        "Chance is 0.125, and guessing the value that f takes most often gives about 0.33."
    )
    head = TrineForSequenceClassification
    sizes: dict[str, Any] = {
        **SMALL,
        "vocab_size": COMPOSITION_VOCABULARY,
        "num_labels": DOMAIN,
        **windows(2 * DOMAIN + 1),
    }
    full_steps, batch_size, learning_rate = 1000, 64, 3e-3
    draw = staticmethod(composition)


# Language models on subwords, with rotary positions.
LANGUAGE_MODEL = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 2}


def token_losses(model: PreTrainedModel, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Losses in nats of all tokens of (B, N) but the first, and whether each is the most likely one: (B, N - 1)."""
    logits, targets = model(input_ids=ids).logits[:, :-1], ids[:, 1:]
    losses = cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view_as(targets)
    return losses, logits.argmax(-1) == targets


class Problems(Comparison):
    """Questions of reasoning-gym with their answers.

    Attributes:
        task: Its name there.
        longest: Tokens of a problem; longer ones are left out.
        held_out: Other problems, for evaluation.
        learns_questions: Whether the loss is also that of the questions.
    """

    head = TrineForCausalLM
    task: ClassVar[str]
    longest: ClassVar[int]
    vocab_size: ClassVar[int]
    held_out, learns_questions = 1000, True

    def prepare(self, data: Path) -> None:
        """Draws and encodes problems to train on, and others to hold out."""
        held_out = gym_problems(self.task, self.held_out, seed=0)
        questions = {question for question, _ in held_out}
        # More than are seen, as long ones are left out: about one in five.
        problems = gym_problems(self.task, 2 * self.steps * self.batch_size, seed=1, without=questions)
        texts = (question for question, _ in problems[:10_000])
        self.tokenizer = train_byte_level_bpe(texts, self.vocab_size, show_progress=False)
        self.sizes = {**self.sizes, "vocab_size": len(self.tokenizer)}
        self.problems, self.held_out_problems = self.encode(problems), self.encode(held_out)

    def encode(self, problems: Sequence[tuple[str, str]]) -> list[tuple[list[int], list[int]]]:
        """The tokens of each question, and of its answer with the token that ends it."""
        questions = self.tokenizer([f"{question}\n" for question, _ in problems])["input_ids"]
        answers = self.tokenizer([answer for _, answer in problems])["input_ids"]
        end = [self.tokenizer.eos_token_id]
        pairs = ((question, [*answer, *end]) for question, answer in zip(questions, answers, strict=True))
        return [pair for pair in pairs if len(pair[0]) + len(pair[1]) <= self.longest]

    def collate(self, problems: Sequence[tuple[list[int], list[int]]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids, padded on the right, which a decoder's tokens do not see, and which of them are answers: (B, N)."""
        width = max(len(question) + len(answer) for question, answer in problems)
        ids = torch.full((len(problems), width), IGNORE_INDEX)
        is_answer = torch.zeros_like(ids, dtype=torch.bool)
        for row, (question, answer) in enumerate(problems):
            ids[row, : len(question) + len(answer)] = torch.tensor(question + answer)
            is_answer[row, len(question) : len(question) + len(answer)] = True
        return ids, is_answer

    def batches(self, seed: int) -> Iterator[Batch]:
        """Problems of similar length together, in random order; all of them before any comes again."""
        order, chosen = random.Random(seed), list(self.problems)
        while True:
            order.shuffle(chosen)
            pools = [
                chosen[start : start + 16 * self.batch_size] for start in range(0, len(chosen), 16 * self.batch_size)
            ]
            for pool in pools:
                pool.sort(key=lambda problem: len(problem[0]) + len(problem[1]))
                cuts = list(range(0, len(pool), self.batch_size))
                order.shuffle(cuts)
                for start in cuts:
                    ids, is_answer = self.collate(pool[start : start + self.batch_size])
                    labels = ids if self.learns_questions else ids.where(is_answer, IGNORE_INDEX)
                    yield {"input_ids": ids.clamp(min=0), "labels": labels}

    def evaluate(self, model: PreTrainedModel) -> dict[str, float]:
        """Accuracy of greedy search, and the loss of the answers.

        Greedy search finds the answer where each of its tokens is the most likely one after those before it.
        """
        right, total, count = 0, 0.0, 0
        problems = sorted(self.held_out_problems, key=lambda problem: len(problem[0]))
        for start in range(0, len(problems), self.batch_size):
            ids, is_answer = self.collate(problems[start : start + self.batch_size])
            losses, is_likeliest = token_losses(model, ids.clamp(min=0))
            is_answer = is_answer[:, 1:]
            total, count = total + float(losses[is_answer].sum()), count + int(is_answer.sum())
            right += int((is_likeliest | ~is_answer).all(dim=1).sum())
        return {"exact match": right / len(problems), "answer loss": total / count}


class WordProblems(Problems):
    """Word problems in the manner of GSM8K."""

    title = "Word problems in the manner of GSM8K"
    description = (
        "Questions made from the 100 templates of reasoning-gym's `gsm_symbolic`, each followed by the number that "
        "answers it, in at most 96 subwords (numbers in digits). Language models of 2 layers, which see no problem "
        "twice. On 1,000 other problems from the same templates, less the longer ones: the share whose answer greedy "
        "search gets right, and the loss of the answer, in nats per token. 2-simplicial layers see all first keys and "
        "the last 32 second keys.\n\n"
        "A blog claims that 2-simplicial attention gains 12.8 % on GSM8K. The paper (Roy et al. 2025, arXiv "
        "2507.02754, table 2) reports negative log-likelihoods, where lower is better, that change by +0.79 %, "
        "-1.51 % and -2.27 % on GSM8K at 1, 2 and 3.5 billion active parameters, from one run each. The figures here "
        "are those of models thousands of times smaller, trained for minutes on made-up problems; they can neither "
        "confirm nor refute either."
    )
    task, longest, vocab_size = "gsm_symbolic", 96, 1024
    sizes: dict[str, Any] = {**LANGUAGE_MODEL, "max_position_embeddings": longest, **windows(longest, 32)}
    full_steps, batch_size, learning_rate = 800, 16, 3e-3


class ChainSums(Problems):
    """Sums and differences of digits, which models also learn for as long as the 2-simplicial one does."""

    title = "Sums and differences"
    description = (
        "Problems of reasoning-gym's `chain_sum` such as `4-6+9=`: two to four digits, each a token, as are signs. "
        "Language models of 2 layers that learn the answers only. On 1,000 other problems, of which 5.5 % have the "
        "most frequent answer: the share that greedy search gets right, and the loss of the answer, in nats per "
        "token. `equal time` trains on as many more batches as fit into the CPU time of the 2-simplicial model, by "
        "the pace of both. Seconds are those of the CPU, on a busy machine; intervals are 95 % over the problems."
    )
    models = (*MODELS, *(f"{name}{EQUAL_TIME}" for name in MODELS if name != SLOWEST))
    task, longest, vocab_size, learns_questions = "chain_sum", 16, 258, False
    sizes: dict[str, Any] = {**SMALL, "position_type": "rope", **windows(longest)}
    full_steps, batch_size, learning_rate = 400, 64, 3e-3

    def build(self, name: str) -> PreTrainedModel:
        """Builds a model, the same for either number of steps."""
        return super().build(name.removesuffix(EQUAL_TIME))

    def steps_of(self, name: str) -> int:
        """As many steps as fit into the CPU time of the 2-simplicial model, where the name says so."""
        if not name.endswith(EQUAL_TIME):
            return self.steps
        return round(self.steps * self.pace(SLOWEST) / self.pace(name))

    @cache  # noqa: B019 an experiment lives as long as the process
    def pace(self, name: str) -> float:
        """CPU seconds of 8 training steps, after 2 to warm up."""
        model, batches = self.build(name), self.batches(0)
        train(model, batches, steps=2, learning_rate=self.learning_rate)
        start = time.process_time()
        train(model, batches, steps=8, learning_rate=self.learning_rate)
        return time.process_time() - start

    @classmethod
    def conclude(cls, runs: Sequence[dict]) -> str:
        """Verdicts on the claims that 2-simplicial attention solves more in as many steps, and in as much time."""
        shares = {run["model"]: [] for run in runs}
        for run in runs:
            shares[run["model"]].append(run["metrics"]["exact match"])
        lines = []
        for model, budget in (("dot product", "steps"), (f"dot product{EQUAL_TIME}", "CPU time")):
            if SLOWEST in shares and model in shares:
                means = [statistics.mean(shares[name]) for name in (SLOWEST, model)]
                gain = means[0] - means[1]
                error = 1.96 * math.sqrt(sum(mean * (1 - mean) for mean in means) / cls.held_out)
                verdict = "undecided" if abs(gain) <= error else "kept" if gain > 0 else "refuted"
                alone = " by one seed only" if len(shares[model]) == 1 else ""
                lines.append(
                    f"* 2-simplicial attention solves more than dot products in equal {budget}: **{verdict}**{alone}. "
                    f"{gain:+.3f} ({gain - error:+.3f} to {gain + error:+.3f}), seeds: {len(shares[model])}."
                )
        return "\n".join(lines)


class RealText(Comparison):
    """Language modelling of real text."""

    title = "Language modelling of real text"
    description = (
        "Debian's package descriptions (English) in subwords, 256 at a time. Language models of 2 layers, which see "
        "no text twice; loss on the validation split, in nats per token and in nats per byte. 2-simplicial layers see "
        "128 first and 16 second keys, layers of dot-product attention all tokens."
    )
    head = TrineForCausalLM
    length, vocab_size = 256, 2048
    sizes: dict[str, Any] = {**LANGUAGE_MODEL, "max_position_embeddings": length, **windows(128, 16)}
    full_steps, batch_size, learning_rate = 500, 8, 3e-3
    held_out = 256  # rows of the validation split

    def prepare(self, data: Path) -> None:
        """Reads and encodes the texts of both splits."""
        texts = {
            name: [row["long"] for row in read(data, "package-descriptions", name)] for name in ("train", "validation")
        }
        self.tokenizer = train_byte_level_bpe(texts["train"][:10_000], self.vocab_size, show_progress=False)
        self.sizes = {**self.sizes, "vocab_size": len(self.tokenizer)}
        tokens = 2 * self.steps * self.batch_size * self.length  # no need to tokenize much more than is seen
        self.train_ids = self.encode(texts["train"], tokens)
        self.validation_ids = self.encode(texts["validation"], self.held_out * self.length)

    def encode(self, texts: list[str], tokens: int) -> torch.Tensor:
        """The first `tokens` tokens of the texts, or fewer, as rows (B, 256); each text has a token that ends it."""
        ids: list[int] = []
        for start in range(0, len(texts), 1000):
            for text in self.tokenizer(texts[start : start + 1000])["input_ids"]:
                ids += [*text, self.tokenizer.eos_token_id]
            if len(ids) >= tokens:
                break
        count = min(len(ids), tokens) // self.length
        return torch.tensor(ids[: count * self.length]).view(count, self.length)

    def batches(self, seed: int) -> Iterator[Batch]:
        """Rows of the training split in random order, again and again."""
        generator = torch.Generator().manual_seed(seed)
        while True:
            for rows in torch.randperm(len(self.train_ids), generator=generator).split(self.batch_size):
                yield {"input_ids": self.train_ids[rows], "labels": self.train_ids[rows]}

    def evaluate(self, model: PreTrainedModel) -> dict[str, float]:
        """The loss on the validation split, in nats per token and per byte."""
        total = sum(float(token_losses(model, ids)[0].sum()) for ids in self.validation_ids.split(self.batch_size))
        targets = self.validation_ids[:, 1:].flatten().tolist()
        # A character of a token stands for a byte. What ends a text is as one byte, such as a line's end.
        tokens = self.tokenizer.convert_ids_to_tokens(targets)
        size = sum(1 if token == self.tokenizer.eos_token else len(token) for token in tokens)
        return {"loss": total / len(targets), "nats per byte": total / size}


EXPERIMENTS: dict[str, Any] = {
    "match3": Match3,
    "composition": Composition,
    "word-problems": WordProblems,
    "sums": ChainSums,
    "real-text": RealText,
}


STUDY = Study(
    command="study simplicial",
    heading="2-simplicial attention",
    introduction=(
        "Does attention to pairs of tokens help? Small models with dot-product attention, with 2-simplicial attention "
        "and with layers of both in turn (hybrid; dot-product attention first). Within a table all see the same "
        "batches for the same number of steps at the same learning rate, and have the same number of parameters: "
        "feed-forwards are widened where there are fewer projections. Time is not equal but where a name says so: see "
        "the seconds, on one CPU thread. The mean training loss, in nats, is over all steps, each on a batch that had "
        "not been seen before: "
        "the faster a model learns, the lower. Made by `trine study simplicial`. Numbers are means over seeds, with "
        "the smallest and the largest."
    ),
    output_dir="outputs/simplicial",
    experiments=EXPERIMENTS,
)


def main(argv: Sequence[str] | None = None) -> None:
    """Run `trine study simplicial` with these arguments, by default the process's."""
    run_study(STUDY, argv, description=__doc__)


if __name__ == "__main__":
    main()

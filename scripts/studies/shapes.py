"""Compare what encoders, recurrent models and Transformers learn from real data, over several seeds."""

from collections.abc import Callable, Sequence
from itertools import starmap
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import (
    DataCollatorForLanguageModeling,
    DataCollatorForSeq2Seq,
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    PreTrainedModel,
    Trainer,
    TrainingArguments,
    set_seed,
)

from trine import (
    TrineConfig,
    TrineForConditionalGeneration,
    TrineForPreTraining,
    TrineForSequenceClassification,
    TrineForTokenClassification,
    TrineRecurrentConfig,
    TrineRecurrentForConditionalGeneration,
    TrineSeq2SeqConfig,
)
from trine.modeling.checks.ids import IGNORE_INDEX
from trine.scripts.datasets.parsers import TOPICS
from trine.scripts.studies.study import Study, read, run_study
from trine.tokenization.text_files import Piece
from trine.tokenization.unigram import train_unigram
from trine.tokenization.wordpiece import train_wordpiece
from trine.training.data.padding_free import PaddingFreeCollator
from trine.training.data.token_store import read_tokens, write_tokens
from trine.training.data.word_cache import TokenEncoder
from trine.training.objectives.masked_text import MaskedPairs, sentence_pieces


# A small BERT with rotary positions.
ENCODER = {
    "hidden_size": 128,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "is_causal": False,
    "type_vocab_size": 2,
    "norm_type": "layernorm",
    "embedding_norm": True,
    "hidden_act": "gelu",
    "gated_mlp": False,
    "mlp_bias": True,
    "attention_bias": True,
    "hidden_dropout": 0.1,
    "max_position_embeddings": 512,
}


def train(
    model: PreTrainedModel,
    data: Sequence[dict] | Dataset,
    collator: Callable,
    output: Path,
    *,
    steps: int,
    learning_rate: float,
    batch_size: int = 32,
    seed: int,
) -> None:
    """Trains in place, with warm-up and cosine decay, gradients clipped at 1."""
    arguments = TrainingArguments(
        output_dir=str(output),
        max_steps=steps,
        per_device_train_batch_size=batch_size,
        learning_rate=learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=0.1,
        weight_decay=0.01,
        adam_beta2=0.98,  # Vaswani et al. 2017, section 5.3: short runs cannot wait for 1,000 steps
        logging_steps=max(1, steps // 10),
        save_strategy="no",
        report_to="none",
        seed=seed,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )
    Trainer(model=model, args=arguments, train_dataset=data, data_collator=collator).train()  # pyright: ignore[reportArgumentType] a list is a dataset


def batches(data: Sequence[dict], collator: Callable, size: int = 64):
    """Yields batches of the data, in order."""
    for start in range(0, len(data), size):
        yield collator(data[start : start + size])


class Pretraining:
    """Does pretraining help? A pretrained encoder, and its twin with random weights, learn to classify."""

    title = "Pretraining an encoder with masked tokens and next sentences"
    description = (
        "Debian's package descriptions (English) of 14 topical sections: a 2-layer encoder pretrained on the texts "
        "of the training split, then fine-tuned to tell the section from the one-line summary, of which 300 have "
        "labels. The other begins at random. Both are fine-tuned equally, in the last 200 steps. Accuracy is that on "
        "the validation and test splits; `masked loss` is that of the pretrained model on pairs of the validation "
        "split, with 15 % of the tokens masked, in nats per token, and includes that of telling whether the second "
        "segment follows."
    )
    models = ("pretrained", "random")
    sections = TOPICS
    longest = 64  # tokens of a pair
    labelled_rows = 300

    def __init__(self, data: Path, output: Path, scale: float):
        self.output, self.steps = output, max(1, int(3500 * scale))
        self.tuning_steps = max(1, int(200 * scale))
        rows = {split: read(data, "package-descriptions", split) for split in ("train", "validation", "test")}
        self.rows = {split: [row for row in rows[split] if row["section"] in self.sections] for split in rows}
        self.tokenizer = train_wordpiece(self.texts("train"), 3000, show_progress=False)
        self.labelled = self.classification_set(self.rows["train"][: self.labelled_rows])
        self.unseen = self.classification_set([*self.rows["validation"], *self.rows["test"]])

    def texts(self, split: str) -> list[str]:
        """The texts of a split."""
        return [f"{row['short']}\n{row['long']}" for row in self.rows[split]]

    def pairs(self, split: str, seed: int) -> MaskedPairs:
        """Pairs of segments of a split, for pretraining."""
        pieces = sentence_pieces(starmap(Piece, enumerate(self.texts(split))))
        with TemporaryDirectory(dir=self.output, ignore_cleanup_errors=True) as folder:
            write_tokens(Path(folder), pieces, TokenEncoder(self.tokenizer))
            return MaskedPairs(read_tokens(Path(folder)), self.tokenizer, self.longest, seed=seed)

    def classification_set(self, rows: Sequence[dict]) -> list[dict]:
        """Encoded short texts with the section of each as label."""
        ids = self.tokenizer([row["short"] for row in rows], truncation=True, max_length=self.longest)
        labels = [self.sections.index(row["section"]) for row in rows]
        return [{**{k: v[i] for k, v in ids.items()}, "labels": label} for i, label in enumerate(labels)]

    def masking(self, probability: float) -> PaddingFreeCollator:
        """A collator that masks this share of tokens: more than BERT's 15 % teaches more (arXiv 2202.08005)."""
        return PaddingFreeCollator(DataCollatorForLanguageModeling(self.tokenizer, mlm_probability=probability))

    def run(self, name: str, seed: int) -> dict:
        """Trains and evaluates a classifier, after pretraining or without."""
        set_seed(seed)
        tokenizer = self.tokenizer
        config = TrineConfig(
            **{**ENCODER, "num_hidden_layers": 2},
            vocab_size=len(tokenizer),
            pad_token_id=tokenizer.pad_token_id,  # pyright: ignore[reportArgumentType] one token
            id2label=dict(enumerate(self.sections)),
            classifier_pooling="mean",
        )
        model, masked_loss = TrineForSequenceClassification(config), float("nan")
        if name == "pretrained":
            pretrained = TrineForPreTraining(config)
            data = self.pairs("train", seed)
            train(pretrained, data, self.masking(0.3), self.output, steps=self.steps, learning_rate=3e-3, seed=seed)
            masked_loss = self.masked_loss(pretrained.eval())
            state = {k: v for k, v in pretrained.model.state_dict().items() if not k.startswith("pooler")}
            model.model.load_state_dict(state)
        packed = PaddingFreeCollator(DataCollatorWithPadding(tokenizer))  # pyright: ignore[reportArgumentType] takes lists
        train(model, self.labelled, packed, self.output, steps=self.tuning_steps, learning_rate=1e-3, seed=seed)
        right = 0
        with torch.no_grad():
            for batch in batches(self.unseen, packed):
                labels = batch.pop("labels")
                right += int((model.eval()(**batch).logits.argmax(-1) == labels).sum())
        metrics = {"accuracy": right / len(self.unseen), "masked loss": masked_loss}
        steps = self.tuning_steps + (self.steps if name == "pretrained" else 0)
        return {"parameters": model.num_parameters(), "steps": steps, "metrics": metrics}

    @torch.no_grad()
    def masked_loss(self, model: TrineForPreTraining) -> float:
        """The loss of masked tokens on the validation split, in nats."""
        torch.manual_seed(0)
        total, count = 0.0, 0
        pairs = self.pairs("validation", seed=0)
        for batch in batches([pairs[index] for index in range(len(pairs))], self.masking(0.15)):
            targets = int((batch["labels"] != IGNORE_INDEX).sum())
            total, count = total + model(**batch).loss.item() * targets, count + targets
        return total / count


class Tagging:
    """Named entities of Chinese news, a label per character."""

    title = "Named entities in Chinese news"
    description = (
        "People's Daily of January 1998, a tag for each character; a 4-layer encoder from random weights. F1 of whole "
        "entities (persons, places, organisations) on the test split, by seqeval."
    )
    models = ("encoder",)

    def __init__(self, data: Path, output: Path, scale: float):
        self.output, self.steps = output, max(1, int(1500 * scale))
        self.splits = {split: read(data, "zh-ner", split) for split in ("train", "test")}
        self.tags = sorted({tag for row in self.splits["train"] for tag in row["tags"]})
        texts = ("".join(row["tokens"]) for row in self.splits["train"])
        self.tokenizer = train_wordpiece(texts, 16000, show_progress=False)
        self.vocabulary = self.tokenizer.get_vocab()

    def encode(self, row: dict) -> dict:
        """Encodes a row with one id per character, so that the tags are aligned."""
        unknown = self.tokenizer.unk_token_id
        ids = [self.vocabulary.get(token.lower(), unknown) for token in row["tokens"][:256]]
        labels = [self.tags.index(tag) for tag in row["tags"][:256]]
        return {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels}

    def run(self, name: str, seed: int) -> dict:
        """Trains and evaluates a tagger."""
        from seqeval.metrics import f1_score

        set_seed(seed)
        tokenizer = self.tokenizer
        sizes = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
        labels = {"id2label": dict(enumerate(self.tags))}
        model = TrineForTokenClassification(TrineConfig(**{**ENCODER, **sizes, **labels, "type_vocab_size": 0}))
        collator = PaddingFreeCollator(DataCollatorForTokenClassification(tokenizer))
        data = [self.encode(row) for row in self.splits["train"]]
        train(model, data, collator, self.output, steps=self.steps, learning_rate=1e-3, seed=seed)
        predicted, expected = [], []
        with torch.no_grad():
            for row in map(self.encode, self.splits["test"]):
                logits = model.eval()(input_ids=torch.tensor([row["input_ids"]])).logits[0]
                predicted.append([self.tags[tag] for tag in logits.argmax(-1).tolist()])
                expected.append([self.tags[tag] for tag in row["labels"]])
        metrics = {"F1": float(f1_score(expected, predicted))}  # pyright: ignore[reportArgumentType] a number unless asked
        return {"parameters": model.num_parameters(), "steps": self.steps, "metrics": metrics}


class Translation:
    """Chinese to English, by a fixed vector, by attention over an LSTM's states, and by a Transformer."""

    title = "Translating short sentences from Chinese to English"
    description = (
        "Sentences of at most 8 English words (office help and a game), one vocabulary of 3,000 pieces, equal "
        "numbers of parameters, batches and steps. BLEU and chrF (sacrebleu) are those of greedy search on 500 test "
        "sentences; `loss` is that of all test sentences, in nats per token. A BLEU near 1 counts chance matches of "
        "common words: between models that weak, the loss tells more."
    )
    models = ("LSTM, fixed vector", "LSTM, attention", "Transformer")

    def __init__(self, data: Path, output: Path, scale: float):
        self.output, self.steps = output, max(1, int(2000 * scale))
        short = lambda rows: [row for row in rows if len(row["en"].split()) <= 8]  # noqa: E731
        self.splits = {split: short(read(data, "zh-en", split)) for split in ("train", "test")}
        texts = (text for row in self.splits["train"] for text in (row["zh"], row["en"]))
        self.tokenizer = train_unigram(texts, 3000, character_coverage=0.999, show_progress=False)

    def build(self, name: str) -> PreTrainedModel:
        """Builds a model; the recurrent ones are so wide that they have as many parameters as the Transformer."""
        tokenizer = self.tokenizer
        shared: dict[str, Any] = {
            "vocab_size": len(tokenizer),
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "hidden_dropout": 0.1,
        }
        stack = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
        options = {"norm_position": "pre", "initializer": "normal"}
        config = TrineSeq2SeqConfig.from_preset("transformer-base", **stack, **options, **shared)
        if name == "Transformer":
            return TrineForConditionalGeneration(config)
        with torch.device("meta"):
            target = TrineForConditionalGeneration(config).num_parameters()

        def recurrent(width: int) -> TrineRecurrentConfig:
            attention = {"LSTM, fixed vector": "none", "LSTM, attention": "dot"}[name]
            return TrineRecurrentConfig(hidden_size=width, num_hidden_layers=1, attention=attention, **shared)

        def distance(width: int) -> int:
            with torch.device("meta"):
                return abs(TrineRecurrentForConditionalGeneration(recurrent(width)).num_parameters() - target)

        return TrineRecurrentForConditionalGeneration(recurrent(min(range(64, 257, 2), key=distance)))

    def encode(self, rows: Sequence[dict]) -> list[dict]:
        """Encodes Chinese sources and English targets."""
        sources = self.tokenizer([row["zh"] for row in rows], truncation=True, max_length=64)["input_ids"]
        targets = self.tokenizer([row["en"] for row in rows], truncation=True, max_length=64)["input_ids"]
        return [{"input_ids": s, "labels": t} for s, t in zip(sources, targets, strict=True)]

    def run(self, name: str, seed: int) -> dict:
        """Trains and evaluates a translator."""
        from sacrebleu.metrics.bleu import BLEU
        from sacrebleu.metrics.chrf import CHRF

        set_seed(seed)
        model = self.build(name)
        collator = DataCollatorForSeq2Seq(self.tokenizer, model=model)
        data = self.encode(self.splits["train"])
        train(model, data, collator, self.output, steps=self.steps, learning_rate=2e-3, seed=seed)
        total, count = 0.0, 0
        with torch.no_grad():
            for batch in batches(self.encode(self.splits["test"]), collator):
                targets = int((batch["labels"] != IGNORE_INDEX).sum())
                total, count = total + model.eval()(**batch).loss.item() * targets, count + targets
        rows = self.splits["test"][:500]
        outputs = []
        for batch in batches(self.encode(rows), collator):
            inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
            tokens = model.generate(**inputs, max_new_tokens=40, do_sample=False)  # pyright: ignore[reportCallIssue]
            texts = self.tokenizer.batch_decode(tokens, skip_special_tokens=True)
            outputs += [text.strip() for text in texts]
        references = [[row["en"] for row in rows]]
        metrics = {
            "BLEU": BLEU().corpus_score(outputs, references).score,
            "chrF": CHRF().corpus_score(outputs, references).score,
            "loss": total / count,
        }
        samples = [
            f"{row['zh']} → {output} (reference: {row['en']})"
            for row, output in zip(rows, outputs, strict=True)
            if row["source"] == "libreoffice-help"
        ]
        return {"parameters": model.num_parameters(), "steps": self.steps, "metrics": metrics, "samples": samples[:8]}


EXPERIMENTS: dict[str, Any] = {"pretraining": Pretraining, "tagging": Tagging, "translation": Translation}


STUDY = Study(
    command="study shapes",
    heading="Encoders, recurrent models and Transformers",
    introduction=(
        "What small models learn from real data in minutes on one CPU thread each. Made by `trine study shapes` from "
        "the sets that `trine data fetch` builds. Numbers are means over seeds, with the smallest and the largest."
    ),
    output_dir="outputs/shapes",
    experiments=EXPERIMENTS,
)


def main(argv: Sequence[str] | None = None) -> None:
    """Run `trine study shapes` with these arguments, by default the process's."""
    run_study(STUDY, argv, description=__doc__)


if __name__ == "__main__":
    main()

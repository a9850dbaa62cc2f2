"""Arguments of training on pairs of texts: translators and summarizers."""

from dataclasses import dataclass, field

from transformers import Seq2SeqTrainingArguments

from trine.generation.translation.metrics import check_metrics
from trine.generation.translation.post_processing import check_language
from trine.scripts.arguments.parsing import RECORDS_HELP, unknown_name
from trine.scripts.arguments.trainer import MuonTraining, trainer_default
from trine.training.run.trainers import SCHEDULES


OBJECTIVES = ("next_token", "masked")


@dataclass
class PairArguments:
    """Options of training on pairs of texts: data and model."""

    _argument_group_name = "data and model"

    files: list[str] = field(metadata={"help": RECORDS_HELP})
    validation_files: list[str] = field(
        default_factory=list, metadata={"help": "Records to validate with. By default some of 'files' are held out."}
    )
    source_field: str = field(default="source", metadata={"help": "Name of the text that is read."})
    target_field: str = field(default="target", metadata={"help": "Name of the text that is written."})
    target_language_field: str | None = field(
        default=None,
        metadata={
            "help": "Name of the field that tells the language of the target, such as zh: one model then learns "
            "several, and its tag, <2zh>, stands before the text that is read."
        },
    )
    language: str | None = field(
        default=None,
        metadata={
            "help": "Language that is written, for the words of scores and the rules of post-processing: en, zh."
        },
    )
    skip_bad_records: bool = field(
        default=False, metadata={"help": "Leave out records that cannot be used, with a warning, instead of stopping."}
    )
    model: str | None = field(
        default=None,
        metadata={
            "help": "Folder or Hub id of one of Trine's encoder-decoders to go on from, with its tokenizers; a "
            "converted or lifted one, too. By default the model is new."
        },
    )
    encoder: str | None = field(
        default=None,
        metadata={
            "help": "Folder or Hub id of one of Trine's encoders that a new model reads with, its weights and its "
            "tokenizer; the decoder is of the preset, and begins with random weights."
        },
    )
    encoder_layers: int | None = field(
        default=None, metadata={"help": "Layers of this encoder that are kept, the first ones. Default: all."}
    )
    tokenizer: str | None = field(
        default=None,
        metadata={
            "help": "Folder or Hub id of a tokenizer. By default that of the model or encoder, or one is "
            "trained on both texts."
        },
    )
    vocab_size: int = field(default=8192, metadata={"help": "Number of tokens of the tokenizer that is trained."})
    target_tokenizer: str | None = field(
        default=None,
        metadata={
            "help": "Folder or Hub id of a second tokenizer, for what is written, so that --tokenizer is for what is "
            "read. Both are saved. By default the model's, if it has two."
        },
    )
    target_vocab_size: int | None = field(
        default=None, metadata={"help": "Or the number of tokens of a second one that is trained on what is written."}
    )
    preset: str | None = field(
        default=None, metadata={"help": "Named size that a new model starts from. Default: transformer-base."}
    )
    config_overrides: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Fields of TrineSeq2SeqConfig, or of both stacks, as key=value: num_hidden_layers=2; of a given "
            "model such as leave its weights, hidden_dropout=0.2. In a recipe a mapping, to which the command line "
            "adds.",
            "action": "extend",
        },
    )
    cache_encoder: bool = field(
        default=False,
        metadata={
            "help": "Compute the states of the encoder once and keep them on disk in 16 bits, so that no step costs "
            "an encoder. Needs --freeze encoder. Without dropout on the source."
        },
    )
    cache_dir: str | None = field(
        default=None, metadata={"help": "Folder of these states. Default: one in the cache of Hugging Face."}
    )
    max_length: int = field(default=128, metadata={"help": "Tokens after which a text is cut off."})
    validation_pairs: int = field(
        default=1000, metadata={"help": "Pairs, drawn at random, that are held out, or used of 'validation_files'."}
    )
    scheduled_sampling: str = field(
        default="none",
        metadata={
            "help": f"How the share of true tokens falls that the decoder reads in training: {', '.join(SCHEDULES)}; "
            "the others are drawn from its own predictions."
        },
    )
    objective: str = field(
        default="next_token",
        metadata={
            "help": "next_token, or masked: the decoder restores masked tokens and reads both sides of them, and then "
            "writes by mask-predict, all tokens at once. Positions should be learned or sinusoidal."
        },
    )
    iterations: int = field(default=10, metadata={"help": "Passes in which mask-predict writes what is printed."})
    early_stopping_patience: int = field(
        default=0,
        metadata={
            "help": "Evaluations in a row without an improvement after which training ends; 0 never ends it. Needs "
            "--load_best_model_at_end."
        },
    )
    samples: int = field(default=5, metadata={"help": "Held-out pairs that are written and printed in the end."})
    metrics: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Scores of what is written in the end (greedy, or --generation_num_beams): bleu, chrf, meteor, "
            "rouge. None by default."
        },
    )
    score_pairs: int = field(default=500, metadata={"help": "Held-out pairs that are scored."})

    def __post_init__(self):
        least_values = {"max_length": 2, "validation_pairs": 1, "early_stopping_patience": 0, "samples": 0}
        for name, least in {**least_values, "score_pairs": 1, "iterations": 1}.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)} must be at least {least}.")
        if self.model is not None and self.preset is not None:
            raise ValueError(f"preset='{self.preset}' is the size of a new model: leave it out with --model.")
        if self.model is not None and self.encoder is not None:
            raise ValueError(f"encoder='{self.encoder}' is read with by a new model: leave it out with --model.")
        if self.encoder_layers is not None and self.encoder is None:
            raise ValueError(f"encoder_layers={self.encoder_layers} are those of an --encoder, which is not given.")
        if self.target_tokenizer is not None and self.target_vocab_size is not None:
            raise ValueError(
                f"target_tokenizer='{self.target_tokenizer}' and target_vocab_size={self.target_vocab_size}: give one."
            )
        if self.scheduled_sampling not in SCHEDULES:
            raise ValueError(unknown_name("scheduled_sampling", self.scheduled_sampling, SCHEDULES))
        if self.objective not in OBJECTIVES:
            raise ValueError(unknown_name("objective", self.objective, OBJECTIVES))
        if self.objective == "masked" and self.scheduled_sampling != "none":
            raise ValueError(
                f"scheduled_sampling='{self.scheduled_sampling}' is for the objective 'next_token', not for 'masked'."
            )
        check_language(self.language)
        check_metrics(self.metrics)


@dataclass
class PairTrainingArguments(MuonTraining, Seq2SeqTrainingArguments):
    """The trainer's arguments with the usual values for a small encoder-decoder."""

    _argument_group_name = "training (transformers.Seq2SeqTrainingArguments)"

    num_train_epochs: float = trainer_default("num_train_epochs", 10.0)
    per_device_train_batch_size: int = trainer_default("per_device_train_batch_size", 32)
    learning_rate: float = trainer_default("learning_rate", 1e-3)
    adam_beta2: float = trainer_default("adam_beta2", 0.98)
    label_smoothing_factor: float = trainer_default("label_smoothing_factor", 0.1)
    logging_steps: float = trainer_default("logging_steps", 50)
    remove_unused_columns: bool = trainer_default("remove_unused_columns", False)

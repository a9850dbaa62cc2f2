"""Arguments of pretraining: what to train on, which model, and the trainer's own with other defaults."""

from dataclasses import dataclass, field
from typing import Any

from transformers import TrainingArguments

from trine.scripts.arguments.recipe_yaml import load_yaml
from trine.scripts.arguments.trainer import UsualTraining, trainer_default


@dataclass
class PretrainArguments:
    """Data and model."""

    _argument_group_name = "data and model"

    files: list[str] = field(
        metadata={
            "help": "Text files (.txt, .md, .rst), records (.jsonl, .csv, both also .gz, .parquet, .json), folders of "
            "them, read at any depth, folders written by `Dataset.save_to_disk`, and data sets for `load_dataset`: "
            "hf:NAME, hf:NAME:SPLIT or hf:NAME:CONFIG:SPLIT."
        }
    )
    objective: str = field(
        default="causal",
        metadata={
            "help": "What is learned: 'causal', a decoder tells the next token; 'masked', an encoder restores masked "
            "tokens; 'masked_next_sentence', and also tells whether two segments belong together, as BERT; "
            "'span_corruption', an encoder-decoder writes the spans that are left out of a text, as T5."
        },
    )
    text_field: str = field(default="text", metadata={"help": "Name of the text in a record."})
    skip_bad_records: bool = field(
        default=False, metadata={"help": "Leave out records without a text, and report them, instead of stopping."}
    )
    cache_dir: str | None = field(
        default=None,
        metadata={
            "help": "Folder of tokenizers and tokens, which later runs on the same files find again. "
            "Default: trine in the folder of Hugging Face's caches (HF_HOME)."
        },
    )
    preprocessing_num_workers: int | None = field(
        default=None, metadata={"help": "Processes that tokenise a long text. Default: one for each core."}
    )
    tokenizer: str | None = field(
        default=None, metadata={"help": "Folder or Hub id of a tokenizer. By default one is trained on the text."}
    )
    vocab_size: int = field(default=8192, metadata={"help": "Number of tokens of the tokenizer that is trained."})
    preset: str = field(default="tiny", metadata={"help": "Named size that the model starts from."})
    config_overrides: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Fields of TrineConfig as key=value: num_hidden_layers=6 'attention_types=sliding*3, full'. "
            "In a recipe a mapping, to which the command line adds.",
            "action": "extend",
        },
    )
    block_length: int = field(
        default=512, metadata={"help": "Tokens in one training sequence; masked ones may be shorter."}
    )
    document_boundaries: bool = field(
        default=False, metadata={"help": "Keep the documents of a block apart: none sees the one before it."}
    )
    mlm_probability: float = field(
        default=0.3, metadata={"help": "Share of the tokens, or of the words, that is masked (arXiv 2202.08005)."}
    )
    whole_words: str | None = field(
        default=None,
        metadata={"help": "Mask whole words: those of the 'tokenizer', or in Chinese those that 'jieba' finds."},
    )
    noise_density: float = field(
        default=0.15, metadata={"help": "Share of the tokens that span corruption leaves out."}
    )
    mean_span_length: float = field(default=3.0, metadata={"help": "Tokens of such a span, on average."})
    validation_fraction: float = field(
        default=0.05, metadata={"help": "Share of the text, in whole documents, that is held out."}
    )
    energy_country: str | None = field(
        default=None,
        metadata={
            "help": "Measure energy and CO2 with codecarbon, offline, for this country's electricity (DEU, USA, ...)."
        },
    )
    baselines: bool = field(default=True, metadata={"help": "Compare with unigram and bigram models of the tokens."})

    def __post_init__(self):
        if self.preprocessing_num_workers is not None and self.preprocessing_num_workers < 1:
            raise ValueError(f"preprocessing_num_workers={self.preprocessing_num_workers} must be at least 1.")


@dataclass
class PretrainTrainingArguments(UsualTraining, TrainingArguments):
    """The trainer's arguments with the usual values for pretraining a small decoder."""

    _argument_group_name = "training (transformers.TrainingArguments)"

    output_dir: str = trainer_default("output_dir", "outputs/pretrain")
    num_train_epochs: float = trainer_default("num_train_epochs", 1.0)
    learning_rate: float = trainer_default("learning_rate", 1e-3)
    weight_decay: float = trainer_default("weight_decay", 0.1)
    adam_beta2: float = trainer_default("adam_beta2", 0.95)
    remove_unused_columns: bool = trainer_default("remove_unused_columns", False)
    include_num_input_tokens_seen: str = trainer_default("include_num_input_tokens_seen", "non_padding")


def parse_overrides(overrides: list[str]) -> dict[str, Any]:
    """`key=value` texts as a dictionary; values are YAML (numbers, lists, true, null, text), and the last one counts.

    Raises:
        ValueError: a text without `=`, or a value that is not YAML.
    """
    import yaml

    parsed = {}
    for text in overrides:
        key, sign, value = text.partition("=")
        if not sign or not key:
            raise ValueError(f"config_overrides has {text!r}, which is not key=value.")
        try:
            parsed[key.strip()] = load_yaml(value)
        except yaml.YAMLError as error:
            raise ValueError(f"config_overrides has {text!r}, whose value is not YAML: {error}") from error
    return parsed

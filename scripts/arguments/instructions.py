"""Arguments of instruction tuning: what to learn from, which model, and the trainer's own with other defaults."""

from dataclasses import dataclass, field

from transformers import TrainingArguments

from trine.configuration.patterns import check_choice
from trine.scripts.arguments.chat_template import CHAT_TEMPLATE
from trine.scripts.arguments.finetuning import FinetuneArguments
from trine.scripts.arguments.trainer import UsualTraining, trainer_default
from trine.scripts.jobs.answers import check_answer_metrics


DTYPES = ("float32", "bfloat16", "float16", "auto")
FORMATS = ("messages", "completion")  # `finetune_lora.READERS` reads them


@dataclass
class InstructionArguments(FinetuneArguments):
    """Options of `trine finetune-lora`: data and model."""

    validation_fraction: float = field(default=0.05, metadata={"help": "Share of the records that is held out."})
    max_length: int = field(default=512, metadata={"help": "Tokens after which an example is cut off."})
    format: str = field(
        default="messages",
        metadata={
            "help": "What a record is: 'messages', a list of {role, content}, which the tokenizer's chat template "
            "writes as text; or 'completion', a prompt and its completion."
        },
    )
    chat_template: str | None = CHAT_TEMPLATE
    messages_field: str = field(default="messages", metadata={"help": "Name of the list of messages."})
    prompt_field: str = field(default="prompt", metadata={"help": "Name of the text that is given."})
    completion_field: str = field(default="completion", metadata={"help": "Name of the text that is learned."})
    prompt_template: str = field(
        default="{prompt}", metadata={"help": "How a prompt is written; {prompt} stands for its text."}
    )
    prefix_lm: bool = field(
        default=False,
        metadata={
            "help": "Let the decoder read each prompt both ways, up to the first answer; the config remembers it, and "
            "`generate` does so, too. With --merge or --full."
        },
    )
    full: bool = field(default=False, metadata={"help": "Train all weights, instead of adapters."})
    dtype: str = field(
        default="float32", metadata={"help": f"Type of the loaded weights, one of {', '.join(DTYPES)}."}
    )
    samples: int = field(default=3, metadata={"help": "Held-out records that are answered and printed in the end."})
    metrics: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Scores of all answers to held-out records (greedy): exact, how many of 100 are as the target; "
            "ended, how many end by themselves; bleu, chrf, meteor, rouge. They go to answers.jsonl. None by default."
        },
    )
    score_records: int = field(default=500, metadata={"help": "Held-out records that are scored."})

    def __post_init__(self):
        super().__post_init__()
        check_choice("format", self.format, FORMATS)
        check_choice("dtype", self.dtype, DTYPES)
        if "{prompt}" not in self.prompt_template:
            raise ValueError(f"prompt_template={self.prompt_template!r} does not say where the {{prompt}} stands.")
        for name, least in (("samples", 0), ("score_records", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)} must be at least {least}.")
        check_answer_metrics(self.metrics)


@dataclass
class InstructionTrainingArguments(UsualTraining, TrainingArguments):
    """The trainer's arguments with the usual values for adapters."""

    _argument_group_name = "training (transformers.TrainingArguments)"

    output_dir: str = trainer_default("output_dir", "outputs/finetune-lora")
    num_train_epochs: float = trainer_default("num_train_epochs", 3.0)
    per_device_train_batch_size: int = trainer_default("per_device_train_batch_size", 16)
    per_device_eval_batch_size: int = trainer_default("per_device_eval_batch_size", 16)
    learning_rate: float = trainer_default("learning_rate", 2e-4)
    prediction_loss_only: bool = trainer_default("prediction_loss_only", True)
    remove_unused_columns: bool = trainer_default("remove_unused_columns", False)

    def __post_init__(self):
        super().__post_init__()
        if self.label_smoothing_factor:  # transformers' drops router losses
            raise ValueError(f"label_smoothing_factor={self.label_smoothing_factor} must be 0 for instruction tuning.")

"""Arguments shared by the fine-tuning of classifiers and of taggers."""

from dataclasses import dataclass, field

from transformers import TrainingArguments

from trine.scripts.arguments.parsing import RECORDS_HELP
from trine.scripts.arguments.trainer import UsualTraining, trainer_default


@dataclass
class FinetuneArguments:
    """Options of fine-tuning: data and model."""

    _argument_group_name = "data and model"

    model: str = field(metadata={"help": "Folder or Hub id of a pretrained model with its tokenizer."})
    files: list[str] = field(metadata={"help": RECORDS_HELP})
    validation_files: list[str] = field(
        default_factory=list, metadata={"help": "Records to validate with. By default some of 'files' are held out."}
    )
    validation_fraction: float = field(default=0.1, metadata={"help": "Share of the records that is held out."})
    max_length: int = field(default=256, metadata={"help": "Tokens after which a text is cut off."})
    skip_bad_records: bool = field(
        default=False, metadata={"help": "Leave out records that cannot be used, with a warning, instead of stopping."}
    )
    early_stopping_patience: int = field(
        default=3,
        metadata={
            "help": "Evaluations in a row without an improvement of --metric_for_best_model after which training "
            "ends; 0 never ends it. A resumed run keeps that of its checkpoint."
        },
    )
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Run the code that a checkpoint from the Hub brings. Trine's needs none."}
    )

    def __post_init__(self):
        if not 0 < self.validation_fraction < 1:
            raise ValueError(f"validation_fraction={self.validation_fraction} must be between 0 and 1.")
        for name, least in (("max_length", 4), ("early_stopping_patience", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)} must be at least {least}.")


@dataclass
class FinetuneTrainingArguments(UsualTraining, TrainingArguments):
    """The trainer's arguments with the usual values for fine-tuning; the best checkpoint is kept."""

    _argument_group_name = "training (transformers.TrainingArguments)"

    per_device_train_batch_size: int = trainer_default("per_device_train_batch_size", 32)
    per_device_eval_batch_size: int = trainer_default("per_device_eval_batch_size", 64)
    learning_rate: float = trainer_default("learning_rate", 5e-5)
    lr_scheduler_type: str = trainer_default("lr_scheduler_type", "linear")
    warmup_steps: float = trainer_default("warmup_steps", 0.1)
    weight_decay: float = trainer_default("weight_decay", 0.01)
    eval_strategy: str = trainer_default("eval_strategy", "epoch")
    save_strategy: str = trainer_default("save_strategy", "epoch")
    load_best_model_at_end: bool = trainer_default("load_best_model_at_end", True)
    restore_callback_states_from_checkpoint: bool = trainer_default("restore_callback_states_from_checkpoint", True)

    def __post_init__(self):
        super().__post_init__()
        if self.label_smoothing_factor:  # transformers' drops router losses, and grows with gradient accumulation
            raise ValueError(f"label_smoothing_factor={self.label_smoothing_factor} must be 0 for classifiers.")
        if self.metric_for_best_model in ("rmse", "mae", "eval_rmse", "eval_mae"):
            self.greater_is_better = False  # by transformers' rule only what ends in "loss" is an error

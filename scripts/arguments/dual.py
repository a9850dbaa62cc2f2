"""Arguments of the training of dual encoders."""

from dataclasses import dataclass, field

from trine.scripts.arguments.finetuning import FinetuneTrainingArguments
from trine.scripts.arguments.parsing import unknown_name
from trine.scripts.arguments.trainer import trainer_default
from trine.scripts.train_images import AUGMENTATIONS


@dataclass
class DualArguments:
    """Options of `trine train-dual`: data and model."""

    _argument_group_name = "data and model"

    files: list[str] = field(
        metadata={
            "help": "Records (.jsonl, .csv, .parquet, .json) whose image is a path from the folder of the file; "
            "folders written by `Dataset.save_to_disk`."
        }
    )
    validation_files: list[str] = field(
        default_factory=list, metadata={"help": "Records to validate with. By default some of 'files' are held out."}
    )
    validation_fraction: float = field(default=0.1, metadata={"help": "Share of the records that is held out."})
    image_field: str = field(default="image", metadata={"help": "Name of the picture in a record."})
    captions: list[str] = field(
        default_factory=lambda: ["{text}"],
        metadata={
            "help": "What captions are made of, with fields of a record in braces: '{name}' '{category}: {name}'. "
            "Training draws one of them each time; scores are about the first."
        },
    )
    label_field: str | None = field(
        default=None, metadata={"help": "Name of a class in a record, which is found by the captions of each class."}
    )
    model: str | None = field(
        default=None, metadata={"help": "Folder or Hub id of a dual encoder to go on with. By default a new one."}
    )
    text_model: str | None = field(
        default=None,
        metadata={
            "help": "Folder or Hub id of a Trine encoder with its tokenizer, for a new model's texts. By default new."
        },
    )
    freeze_text: bool = field(
        default=False, metadata={"help": "Leave the stack that reads texts as it is; its projection is trained."}
    )
    vocab_size: int = field(default=1500, metadata={"help": "Tokens of a new tokenizer, made of the captions."})
    max_length: int = field(default=64, metadata={"help": "Tokens after which a caption is cut off."})
    image_size: int = field(default=32, metadata={"help": "Height and width of the pictures of a new model."})
    patch_size: int = field(default=8, metadata={"help": "Height and width of a patch of a new model."})
    config_overrides: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Fields of TrineDualEncoderConfig of a new model as key=value, those of its stacks with their "
            "names: contrastive_loss=sigmoid text.num_hidden_layers=1 vision.attention_types=linear. In a recipe a "
            "mapping, to which the command line adds.",
            "action": "extend",
        },
    )
    augmentation: str = field(
        default="light",
        metadata={"help": f"How training pictures are changed, one of {[*AUGMENTATIONS]}: light mirrors them, too."},
    )
    queries: list[str] = field(
        default_factory=list,
        metadata={"help": "Texts whose nearest held-out pictures are drawn in found.png. By default some captions."},
    )
    skip_bad_records: bool = field(
        default=False, metadata={"help": "Leave out records that cannot be used, with a warning, instead of stopping."}
    )
    early_stopping_patience: int = field(
        default=0, metadata={"help": "Evaluations without a lower loss after which training ends; 0 never ends it."}
    )
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Run the code that a checkpoint from the Hub brings. Trine's needs none."}
    )

    def __post_init__(self):
        if self.augmentation not in AUGMENTATIONS:
            raise ValueError(unknown_name("augmentation", self.augmentation, AUGMENTATIONS))
        if not 0 < self.validation_fraction < 1:
            raise ValueError(f"validation_fraction={self.validation_fraction} must be between 0 and 1.")
        if self.max_length < 4:
            raise ValueError(f"max_length={self.max_length} must be at least 4.")
        for name in ("config_overrides", "text_model"):
            if self.model is not None and getattr(self, name):
                raise ValueError(f"{name}={getattr(self, name)!r} is of a new model, but model='{self.model}'.")


@dataclass
class DualTrainingArguments(FinetuneTrainingArguments):
    """The trainer's arguments with the usual values for pairs of pictures and texts."""

    output_dir: str = trainer_default("output_dir", "outputs/dual")
    per_device_train_batch_size: int = trainer_default("per_device_train_batch_size", 128)
    per_device_eval_batch_size: int = trainer_default("per_device_eval_batch_size", 128)
    learning_rate: float = trainer_default("learning_rate", 1e-3)
    lr_scheduler_type: str = trainer_default("lr_scheduler_type", "cosine")
    weight_decay: float = trainer_default("weight_decay", 0.1)
    adam_beta2: float = trainer_default("adam_beta2", 0.98)
    eval_strategy: str = trainer_default("eval_strategy", "no")
    save_strategy: str = trainer_default("save_strategy", "no")
    load_best_model_at_end: bool = trainer_default("load_best_model_at_end", False)
    remove_unused_columns: bool = trainer_default("remove_unused_columns", False)
    dataloader_drop_last: bool = trainer_default("dataloader_drop_last", True)

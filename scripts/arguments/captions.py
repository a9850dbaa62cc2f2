"""Arguments of the training of captioners."""

from dataclasses import dataclass, field

from trine.scripts.arguments.dual import DualTrainingArguments
from trine.scripts.arguments.parsing import unknown_name
from trine.scripts.arguments.trainer import trainer_default
from trine.scripts.train_images import AUGMENTATIONS


@dataclass
class CaptionArguments:
    """Options of `trine train-captions`: data and model."""

    _argument_group_name = "data and model"

    files: list[str] = field(
        metadata={
            "help": "Records (.jsonl, .csv, .parquet, .json) whose image is a path from the folder of the file; "
            "folders written by `Dataset.save_to_disk`."
        }
    )
    validation_files: list[str] = field(
        default_factory=list, metadata={"help": "Records to score with. By default some of 'files' are held out."}
    )
    validation_fraction: float = field(default=0.1, metadata={"help": "Share of the records that is held out."})
    image_field: str = field(default="image", metadata={"help": "Name of the picture in a record."})
    captions: list[str] = field(
        default_factory=lambda: ["{text}"],
        metadata={
            "help": "What captions are made of, with fields of a record in braces: '{name}'. Training draws one of "
            "them each time; scores are about the first."
        },
    )
    model: str | None = field(
        default=None,
        metadata={"help": "Folder or Hub id of a captioner of Trine to go on with. By default a new one."},
    )
    text_model: str | None = field(
        default=None,
        metadata={"help": "Folder or Hub id of a Trine decoder with its tokenizer, for a new model. By default new."},
    )
    vocab_size: int = field(default=1000, metadata={"help": "Tokens of a new tokenizer, made of the captions."})
    max_length: int = field(default=32, metadata={"help": "Tokens after which a caption is cut off."})
    image_size: int = field(default=32, metadata={"help": "Height and width of the pictures of a new model."})
    patch_size: int = field(default=8, metadata={"help": "Height and width of a patch of a new model."})
    config_overrides: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Fields of TrineImageTextConfig of a new model as key=value, those of its stacks with their "
            "names: text.num_hidden_layers=1 vision.attention_types=linear. In a recipe a mapping, to which the "
            "command line adds.",
            "action": "extend",
        },
    )
    augmentation: str = field(
        default="light",
        metadata={"help": f"How training pictures are changed, one of {[*AUGMENTATIONS]}: light mirrors them, too."},
    )
    skip_bad_records: bool = field(
        default=False, metadata={"help": "Leave out records that cannot be used, with a warning, instead of stopping."}
    )
    early_stopping_patience: int = field(
        default=0, metadata={"help": "Evaluations without a lower loss after which training ends; 0 never ends it."}
    )

    def __post_init__(self):
        if self.augmentation not in AUGMENTATIONS:
            raise ValueError(unknown_name("augmentation", self.augmentation, AUGMENTATIONS))
        if not 0 < self.validation_fraction < 1:
            raise ValueError(f"validation_fraction={self.validation_fraction} must be between 0 and 1.")
        if self.max_length < 2:
            raise ValueError(f"max_length={self.max_length} must be at least 2: a token, and that of the end.")
        for name in ("config_overrides", "text_model"):
            if self.model is not None and getattr(self, name):
                raise ValueError(f"{name}={getattr(self, name)!r} is of a new model, but model='{self.model}'.")


@dataclass
class CaptionTrainingArguments(DualTrainingArguments):
    """The trainer's arguments with the usual values for pictures and what is to be written of them."""

    output_dir: str = trainer_default("output_dir", "outputs/captions")
    per_device_train_batch_size: int = trainer_default("per_device_train_batch_size", 64)
    dataloader_drop_last: bool = trainer_default("dataloader_drop_last", False)

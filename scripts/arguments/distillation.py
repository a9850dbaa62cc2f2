"""Arguments of distillation: teacher, student and data, and the trainer's own with other defaults."""

from dataclasses import dataclass, field

from transformers import TrainingArguments

from trine.configuration.patterns import check_choice
from trine.scripts.arguments.parsing import RECORDS_HELP
from trine.scripts.arguments.trainer import UsualTraining, trainer_default
from trine.training.objectives.distillation.base import DistillationOptions, split_names
from trine.training.objectives.distillation.embeddings import POOLINGS


TEACHER_DTYPES = ("auto", "float32", "bfloat16")


@dataclass
class DistillArguments(DistillationOptions):
    """Options of `trine distill`: teacher, student, data, and what is learned."""

    _argument_group_name = "teacher, student, data and objectives"

    teacher: str = field(
        kw_only=True,
        metadata={
            "help": "Folder or Hub id of the model to learn from: a Trine checkpoint, or for 'embeddings' any of "
            "sentence-transformers, for 'sequences' any encoder-decoder of transformers."
        },
    )
    files: list[str] = field(kw_only=True, metadata={"help": f"Texts: .txt, .md, .rst. {RECORDS_HELP}"})
    student_layers: int | None = field(
        default=None, metadata={"help": "Layers of a student that begins with some of its teacher's."}
    )
    student: str | None = field(
        default=None,
        metadata={
            "help": "In place of student_layers: a checkpoint to train on, or a config, as a folder without weights "
            "or a file, for a new model."
        },
    )
    take_layers: str | None = field(
        default=None,
        metadata={
            "help": "Layers of the teacher that the student's begin with: 'every second' (evenly spread), 'first', "
            "'last', numbers such as '0,3,5', or 'none' for random weights. Default: 'every second' with "
            "student_layers, 'none' with a config."
        },
    )
    stack: str | None = field(
        default=None,
        metadata={"help": "Which stack of an encoder-decoder has fewer layers: encoder or decoder. Default: both."},
    )
    student_config_overrides: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Fields of the student's config as key=value, such as other kinds: attention_types=linear "
            "attention_dropout=0.",
            "action": "extend",
        },
    )
    text_field: list[str] = field(
        default_factory=lambda: ["text"],
        metadata={"help": "Names of the fields of a record that are texts; each is a text of its own."},
    )
    source_field: str | None = field(
        default=None, metadata={"help": "For an encoder-decoder: name of what it reads, with target_field."}
    )
    target_field: str | None = field(
        default=None, metadata={"help": "Name of what it writes; with 'sequences' the teacher writes it."}
    )
    num_beams: int = field(default=5, metadata={"help": "Beams by which the teacher writes for 'sequences'."})
    prefix: str = field(default="", metadata={"help": "What each text begins with, such as 'query: ' for E5."})
    validation_files: list[str] = field(
        default_factory=list, metadata={"help": "Texts to validate with. By default some of 'files' are held out."}
    )
    validation_fraction: float = field(default=0.05, metadata={"help": "Share of the texts that is held out."})
    max_length: int = field(
        default=128,
        metadata={"help": "Tokens of a text; longer ones are cut off, and those of a language model into several."},
    )
    mlm_probability: float = field(
        default=0.15, metadata={"help": "Share of the tokens that is masked for 'logits' of an encoder."}
    )
    pooling: str | None = field(
        default=None,
        metadata={
            "help": f"What a student's vector is for 'embeddings': {', '.join(POOLINGS)}. Default: as the teacher's."
        },
    )
    teacher_dtype: str = field(
        default="auto",
        metadata={
            "help": f"What the teacher computes in, one of {', '.join(TEACHER_DTYPES)}. 'auto' is bfloat16 where the "
            "device computes in it."
        },
    )
    cache_dir: str | None = field(
        default=None,
        metadata={
            "help": "Folder of the teacher's vectors and of what it wrote, which later runs on the same texts find "
            "again."
        },
    )
    skip_bad_records: bool = field(
        default=False, metadata={"help": "Leave out records that cannot be used, with a warning, instead of stopping."}
    )
    energy_country: str | None = field(
        default=None,
        metadata={
            "help": "Measure energy and CO2 with codecarbon, offline, for this country's electricity (DEU, USA, ...)."
        },
    )
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Run the code that a teacher from the Hub brings. Trine's needs none."}
    )

    def __post_init__(self):
        super().__post_init__()
        self.text_field = split_names(self.text_field)
        if (self.student is None) == (self.student_layers is None):
            raise ValueError(
                f"student_layers={self.student_layers} and student={self.student!r}: give one of them, a number of "
                "layers or a checkpoint or config."
            )
        if self.pooling is not None:
            check_choice("pooling", self.pooling, POOLINGS)
        check_choice("teacher_dtype", self.teacher_dtype, TEACHER_DTYPES)
        self.check_pairs()
        if not self.text_field:
            raise ValueError("text_field=[] names no field.")
        for name in ("validation_fraction", "mlm_probability"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be between 0 and 1.")
        if self.max_length < 4:
            raise ValueError(f"max_length={self.max_length} must be at least 4.")
        if "embeddings" in self.objective and len(self.objective) > 1:
            raise ValueError(
                f"objective={self.objective}: 'embeddings' stands alone, as its teacher gives vectors of texts only."
            )

    def check_pairs(self) -> None:
        """Raises a ValueError unless the fields of pairs, and beams, suit the objective."""
        fields = f"source_field={self.source_field!r} and target_field={self.target_field!r}"
        if "sequences" in self.objective:
            if self.source_field is None or self.target_field is not None:
                raise ValueError(
                    f"{fields}: 'sequences' takes the source_field alone, as the teacher writes the targets."
                )
        elif (self.source_field is None) != (self.target_field is None):
            raise ValueError(f"{fields}: give both, or none.")
        if self.num_beams < 1:
            raise ValueError(f"num_beams={self.num_beams} must be at least 1.")


@dataclass
class DistillTrainingArguments(UsualTraining, TrainingArguments):
    """The trainer's arguments with the usual values for distillation."""

    _argument_group_name = "training (transformers.TrainingArguments)"

    output_dir: str = trainer_default("output_dir", "outputs/distill")
    num_train_epochs: float = trainer_default("num_train_epochs", 1.0)
    per_device_train_batch_size: int = trainer_default("per_device_train_batch_size", 32)
    per_device_eval_batch_size: int = trainer_default("per_device_eval_batch_size", 64)
    learning_rate: float = trainer_default("learning_rate", 5e-4)
    weight_decay: float = trainer_default("weight_decay", 0.01)
    include_num_input_tokens_seen: str = trainer_default("include_num_input_tokens_seen", "non_padding")
    remove_unused_columns: bool = trainer_default("remove_unused_columns", False)

"""Teachers and students of `trine distill`, and the vectors of a sentence encoder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer

from trine import TrineForConditionalGeneration, TrineModel
from trine.conversion.inside import read_fields
from trine.conversion.lifts.checkpoint import load_checkpoint
from trine.conversion.lifts.student import (
    NO_LAYERS,
    Student,
    change_fields,
    describe_student,
    shrink,
    take_by_config,
)
from trine.conversion.plan import CONFIGS
from trine.generation.translation.translator import Translator
from trine.scripts.arguments.distillation import DistillArguments
from trine.scripts.arguments.pretraining import parse_overrides
from trine.scripts.jobs.encoders import load_encoder
from trine.tokenization.loading import fit_inputs, load_target_tokenizer, load_tokenizer
from trine.training.data.cache_folders import DEFAULT_CACHE, checksum_of, find_or_make
from trine.training.objectives.distillation.base import TAUGHT_BEFORE
from trine.training.objectives.distillation.embeddings import POOLINGS
from trine.training.run.precision import has_fast_bfloat16


WEIGHTS = "*.safetensors"


class Models(NamedTuple):
    """Teacher, student and tokenizers.

    Attributes:
        teacher: A Trine model, the sentence encoder whose vectors are learned, or the translator that writes.
        student: The model to train.
        tokenizers: As `make_features` takes them.
        lines: What to tell of the student.
        figures: Likewise, for metrics.json.
    """

    teacher: Any
    student: Any
    tokenizers: dict[str, Any]
    lines: list[str]
    figures: dict[str, Any]


def load_models(arguments: DistillArguments, device: torch.device) -> Models:
    """The teacher, and a student that begins as the arguments say.

    Raises:
        OSError: A model cannot be read.
        ValueError: The two do not fit together, or a config is wrong.
    """
    teacher, model = load_teacher(arguments, device)
    source, student = make_student(model, arguments)
    tokenizer = load_tokenizer(source, writes=student.model.can_generate())
    check_tokenizer(tokenizer, source, student.model, arguments.max_length)
    tokenizers = {"student": tokenizer, "target": load_target_tokenizer(source) or tokenizer}
    if not {*arguments.objective} <= {*TAUGHT_BEFORE}:
        other = load_tokenizer(arguments.teacher, writes=student.model.can_generate())
        if tokenizer.get_vocab() != other.get_vocab():
            if arguments.objective != ["relations"]:
                raise ValueError(
                    f"student='{source}' has another vocabulary than teacher='{arguments.teacher}': objective="
                    f"{arguments.objective} compares what models make of the same tokens. Choose 'embeddings' or "
                    "'sequences', or 'relations' where both cut texts alike."
                )
            tokenizers["teacher"] = other
    lines = describe_student(model, student) if isinstance(model, type(student.model)) else []
    figures = {
        "parameters": sum(each.numel() for each in student.model.parameters()),
        "teacher_parameters": sum(each.numel() for each in model.parameters()),
        "taken_parameters": student.taken,
        "taken_layers": student.layers,
        "random_parameters": student.random,
    }
    set_dtype(teacher if "embeddings" in arguments.objective else model, arguments.teacher_dtype, device)
    return Models(teacher, student.model.float(), tokenizers, lines, figures)


def load_teacher(arguments: DistillArguments, device: torch.device) -> tuple[Any, Any]:
    """The teacher, and the model of transformers in it, or None; errors name the teacher."""
    if "sequences" in arguments.objective:
        limits = {"max_length": arguments.max_length, "trust_remote_code": arguments.trust_remote_code}
        try:
            writer = Translator.from_pretrained(arguments.teacher, device=device, **limits)
        except (OSError, ValueError) as error:
            raise type(error)(f"teacher='{arguments.teacher}': {error}") from error
        return writer, writer.model.float()
    if "embeddings" not in arguments.objective:
        model = load_trine(arguments.teacher, "teacher")[1]
        return model, model
    try:
        teacher = load_encoder(arguments.teacher, trust_remote_code=arguments.trust_remote_code)
    except OSError as error:
        raise OSError(str(error).replace("model=", "teacher=", 1)) from error
    return teacher, teacher.transformers_model


def load_trine(source: str, role: str) -> tuple[Path, Any]:
    """The folder and the model of a Trine checkpoint, in float32; errors name its role."""
    try:
        folder, model = load_checkpoint(source)
    except (OSError, ValueError) as error:
        raise type(error)(f"{role}='{source}': {error}") from error
    return folder, model.float().eval()


def make_student(model: Any, arguments: DistillArguments) -> tuple[str, Student]:
    """Where the student's tokenizer is, and the student: of its teacher's layers, a checkpoint, or a new model."""
    overrides = parse_overrides(arguments.student_config_overrides)
    if arguments.student_layers is not None:
        if model is None or model.config.model_type not in CONFIGS:
            kind = "no transformer" if model is None else f"a {type(model).__name__}"
            raise ValueError(
                f"student_layers={arguments.student_layers} takes layers of a Trine checkpoint, and "
                f"teacher='{arguments.teacher}' is {kind}: `trine convert` makes one of it, or name a --student."
            )
        take = arguments.take_layers or "every second"
        student = shrink(model.float(), arguments.student_layers, take, arguments.stack, overrides)
        return arguments.teacher, student
    assert arguments.student is not None
    if arguments.stack is not None:
        raise ValueError(f"stack='{arguments.stack}' goes with student_layers, not with student.")
    place = Path(arguments.student)
    if place.is_file() or (place.is_dir() and not [*place.glob(WEIGHTS)]):
        config = read_config(place, overrides)
        if model is None or model.config.model_type not in CONFIGS:
            if arguments.take_layers not in (None, NO_LAYERS):
                raise ValueError(
                    f"take_layers='{arguments.take_layers}' takes layers of a Trine checkpoint, and "
                    f"teacher='{arguments.teacher}' is none."
                )
            model_class = TrineForConditionalGeneration if config.is_encoder_decoder else TrineModel
            return tokenizer_source(place, arguments), Student(model_class(config), {}, 0, ["all"])
        student = take_by_config(model.float(), config, arguments.take_layers or NO_LAYERS)
        return tokenizer_source(place, arguments), student
    for name in ("take_layers", "student_config_overrides"):
        if value := getattr(arguments, name):
            raise ValueError(f"{name}={value!r} goes with a new student; student='{place}' has its own weights.")
    folder, student = load_trine(arguments.student, "student")
    if "embeddings" in arguments.objective and not isinstance(student, TrineModel):
        student = student.model
    return str(folder), Student(student, {}, 0, [])


def tokenizer_source(place: Path, arguments: DistillArguments) -> str:
    """Where the tokenizer of a new student is: beside its config, or else with the teacher."""
    folder = place if place.is_dir() else place.parent
    has_own = place.is_dir() and any(folder.glob("tokenizer*"))
    return str(folder) if has_own else arguments.teacher


def read_config(place: Path, overrides: dict[str, Any]) -> Any:
    """The config in a folder or a file, with other values of some fields."""
    path = place / "config.json" if place.is_dir() else place
    if not path.is_file():
        raise OSError(f"student='{place}' has neither weights nor a config.json.")
    fields = read_fields(path)
    model_type = fields.get("model_type")
    if model_type not in CONFIGS:
        raise ValueError(f"student='{place}' has model_type={model_type!r}, which is not one of {[*CONFIGS]}.")
    return change_fields(CONFIGS[model_type], fields, overrides)


def check_tokenizer(tokenizer: Any, source: str, model: Any, max_length: int) -> None:
    """Gives a tokenizer padding; raises a ValueError where it has more tokens or longer texts than the model."""
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise ValueError(f"The tokenizer of '{source}' has no token for padding, nor for the end.")
        tokenizer.pad_token = tokenizer.eos_token
    fit_inputs(tokenizer, model.config)
    reader = getattr(model.config, "encoder", model.config)
    if len(tokenizer) > reader.vocab_size:
        raise ValueError(f"vocab_size={reader.vocab_size} is below the {len(tokenizer)} tokens of '{source}'.")
    if max_length > reader.max_position_embeddings:
        raise ValueError(f"max_length={max_length} is above max_position_embeddings={reader.max_position_embeddings}.")


def set_dtype(model: Any, wanted: str, device: torch.device) -> None:
    """Sets what a teacher computes in."""
    chosen = "bfloat16" if wanted == "auto" and has_fast_bfloat16(device.type) else wanted
    if chosen == "bfloat16":
        model.to(torch.bfloat16)


def teacher_vectors(
    teacher: SentenceTransformer, texts: Sequence[str], arguments: DistillArguments, batch_size: int
) -> torch.Tensor:
    """The teacher's vectors (texts, size) in float32; those of an earlier run, where nothing has changed since."""
    teacher.max_seq_length = min(arguments.max_length, teacher.max_seq_length or arguments.max_length)

    def make(folder: Path) -> None:
        vectors = teacher.encode(list(texts), batch_size=batch_size, convert_to_tensor=True, show_progress_bar=False)
        np.save(folder / "vectors.npy", vectors.float().cpu().numpy())

    key = {
        "vectors of": arguments.teacher,
        "files": files_of(arguments.teacher),
        "dtype": str(next(teacher.parameters()).dtype),
        "max_length": teacher.max_seq_length,
        "texts": list(texts),
    }
    made = find_or_make(Path(arguments.cache_dir or DEFAULT_CACHE), key, make)
    return torch.from_numpy(np.load(made / "vectors.npy"))


def files_of(teacher: str) -> list[tuple[str, int]]:
    """The files of a teacher's folder with their checksums, for the key of what it gave; none for one on the Hub."""
    folder = Path(teacher)
    if not folder.is_dir():
        return []
    files = sorted(file for pattern in (WEIGHTS, "*.json") for file in folder.rglob(pattern))
    return [(file.relative_to(folder).as_posix(), checksum_of(file)) for file in files]


def pooling_of(teacher: SentenceTransformer, wanted: str | None) -> str:
    """How the student pools: as is wanted, or as the teacher does.

    Raises:
        ValueError: The teacher pools in a way that a student does not know, or not at all.
    """
    if wanted is not None:
        return wanted
    modes = [module.pooling_mode for module in teacher.children() if isinstance(module, Pooling)]
    if len(modes) != 1 or modes[0] not in POOLINGS:
        raise ValueError(f"The teacher's poolings are {modes}: choose the student's, --pooling one of {[*POOLINGS]}.")
    return str(modes[0])


def save_encoder(folder: Path, teacher: SentenceTransformer, pooling: str, projection: Any, max_length: int) -> None:
    """Makes the folder of a student one of sentence-transformers: pooling, projection, and norm as the teacher's."""
    transformer = Transformer(str(folder), max_seq_length=max_length)
    width = transformer.get_embedding_dimension()
    mode: Any = pooling  # a name among those that Pooling lists
    modules: list[Any] = [transformer, Pooling(width, mode)]
    if projection is not None:
        dense = Dense(width, projection.weight.shape[0], bias=False, activation_function=torch.nn.Identity())
        dense.linear.load_state_dict({"weight": projection.weight.detach().float().cpu()})
        modules.append(dense)
    if any(isinstance(module, Normalize) for module in teacher.children()):
        modules.append(Normalize())
    SentenceTransformer(modules=modules, device="cpu").save_pretrained(str(folder), create_model_card=False)

"""A vocabulary without the tokens that some texts do not need."""

from array import array
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from ...modeling.modeling_trine import TrineModel
from ...tokenization.loading import TARGET_TOKENIZER
from ...tokenization.record_files import ending_of
from ...tokenization.text_files import PLAIN, find_text_sources, iterate_text_files
from ..companions import TOKENIZER_FILES, copy_companions, has_tokenizer
from ..equivalence import compare_outputs, random_inputs
from ..pieces import encode_all, find_kept, shrink
from .base import Lift
from .change import evaluating
from .checks import check_model
from .weights import rebuild


LISTS = ("suppress_tokens", "begin_suppress_tokens")  # settings of generation that are lists of tokens
WORDS = ("bad_words_ids", "force_words_ids", "sequence_bias")  # those that are texts in tokens


@dataclass
class SmallerVocabularyLift(Lift):
    """Leaves tokens out that some texts do not need: of the tokenizer, the embeddings and the heads, tied or not.

    The texts are cut as before, and their states are equal to the last bit. Special and added tokens stay, those of
    bytes, and single characters of ASCII.
    Source: Abdaoui et al. 2020, Load What You Need, arXiv 2010.05609.
    """

    kind = "smaller_vocabulary"
    becomes = "the tokenizer, the embeddings and the heads lose the tokens that given texts do not have"
    stays = "for all texts whose tokens are kept"
    source = "Abdaoui et al. 2020, arXiv 2010.05609"

    files: list[str] = field(
        default_factory=list, metadata={"help": "Text files or records, as of trine pretrain, whose tokens are kept."}
    )
    text_fields: list[str] = field(
        default_factory=lambda: ["text"], metadata={"help": "Names of the texts in a record: zh en."}
    )
    texts: list[str] = field(default_factory=list, metadata={"help": "Texts themselves, besides those of files."})
    tokenizer: PreTrainedTokenizerBase | str | None = field(
        default=None, metadata={"help": "The model's tokenizer, or its folder. Default for a folder: that in it."}
    )

    def __post_init__(self):
        self.kept: list[int] = []  # the old ids of the new tokens
        self.smaller: Any = None  # the new tokenizer

    def apply(self, model: Any) -> Any:
        """Makes the model with fewer rows, and the tokenizer `smaller`.

        Raises:
            ValueError: There is no text or no tokenizer, or tokenizer or settings cannot be made smaller.
        """
        tokenizer, texts = self.load_tokenizer(), self.read_texts()
        check_vocabulary(model, tokenizer)
        self.kept, rows = find_kept(tokenizer, texts, special_ids(model))
        self.smaller = shrink(tokenizer, self.kept)
        check_cuts(self.smaller, self.kept, texts, rows)
        config = deepcopy(model.config)
        for part in (config, *stacks_of(config)):
            part.vocab_size = len(self.kept)
            renumber_settings(part, self.kept)
        lifted = rebuild(model, config, {})
        if lifted.can_generate():
            renumber_settings(lifted.generation_config, self.kept)
        cut_rows(model, lifted, self.kept)
        return lifted

    def load_tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's tokenizer."""
        if self.tokenizer is None:
            raise ValueError("tokenizer=None: the lift 'smaller_vocabulary' needs the model's tokenizer.")
        return AutoTokenizer.from_pretrained(self.tokenizer) if isinstance(self.tokenizer, str) else self.tokenizer

    def read_texts(self) -> list[str]:
        """All texts, each once; those of plain files also line by line, as they may be read so."""
        found = dict.fromkeys(self.texts)
        for source in find_text_sources(self.files) if self.files else []:
            is_plain = isinstance(source, Path) and ending_of(source) in PLAIN
            for name in self.text_fields[:1] if is_plain else self.text_fields:
                for text in iterate_text_files([source], name):
                    found |= dict.fromkeys([text, *(text.splitlines() if is_plain else ())])
        texts = [text for text in found if text.strip()]
        if not texts:
            raise ValueError(f"files={self.files} have no text whose tokens could be kept.")
        return texts

    def read_companions(self, folder: Path) -> None:
        """Takes the tokenizer from the source.

        Raises:
            ValueError: There are two.
        """
        if (folder / TARGET_TOKENIZER).is_dir():
            raise ValueError(
                f"'{folder}' has a second tokenizer, '{TARGET_TOKENIZER}': make the vocabulary of its encoder smaller "
                "before it gets a decoder."
            )
        if self.tokenizer is None and has_tokenizer(folder):
            self.tokenizer = str(folder)

    def write_companions(self, source: Path, target: Path) -> None:
        """Copies the source's files, with the smaller tokenizer in place of its own."""
        copy_companions(source, target, generates=False)
        for pattern in TOKENIZER_FILES:
            for path in target.glob(pattern):
                path.unlink()
        self.smaller.save_pretrained(target)

    def measure(self, model: Any, lifted: Any, inputs: dict[str, torch.Tensor] | None, length: int) -> float:
        """The largest change of outputs for the same tokens, by default random ones of those that are kept."""
        kept = torch.tensor(self.kept)
        if inputs is None:
            inputs = random_inputs(lifted.config, type(lifted).__name__, length)
            before = {name: kept[ids] if name.endswith("input_ids") else ids for name, ids in inputs.items()}
        else:
            before = inputs
            inputs = {name: self.renumber(ids) if name.endswith("input_ids") else ids for name, ids in before.items()}
        with torch.no_grad(), evaluating(model, lifted):
            expected, actual = model(**before, use_cache=False), lifted(**inputs, use_cache=False)
        for name, tensor in expected.items():
            if isinstance(tensor, torch.Tensor) and tensor.shape[-1:] != actual[name].shape[-1:]:
                expected[name] = tensor[..., kept]
        return compare_outputs(expected, actual, inputs)[0]

    def renumber(self, ids: torch.Tensor) -> torch.Tensor:
        """The new ids of kept tokens; a `ValueError` if one is not kept."""
        new = {old: token for token, old in enumerate(self.kept)}
        if lost := {*ids.flatten().tolist()} - new.keys():
            raise ValueError(f"The tokens {sorted(lost)[:5]} of a text are not kept, so that its states would differ.")
        return ids.clone().apply_(lambda token: new[token])

    def describe(self, model: Any, lifted: Any) -> Iterator[str]:
        """How many tokens and parameters there were and are."""
        for name, sizes in {
            "Tokens": [each.config.vocab_size for each in (model, lifted)],
            "Parameters": [each.num_parameters() for each in (model, lifted)],
        }.items():
            yield f"{name}: {sizes[0]:,} before, {sizes[1]:,} now"


def settings_of(model: Any) -> list[Any]:
    """The configs of a model and of its stacks, and the settings of generation."""
    return [model.config, *stacks_of(model.config), *([model.generation_config] if model.can_generate() else [])]


def stacks_of(config: Any) -> list[Any]:
    """The configs of both stacks, if there are two."""
    return [getattr(config, side) for side in ("encoder", "decoder") if hasattr(config, side)]


def tokens_in(settings: Any) -> dict[str, Any]:
    """The fields that name tokens, by id or as lists of ids."""
    found = {
        name: value
        for name, value in vars(settings).items()
        if name.endswith(("_token_id", "_token_ids")) or name in LISTS
    }
    return {name: value for name, value in found.items() if value is not None}


def special_ids(model: Any) -> set[int]:
    """The ids of all tokens that settings of a model name; suppressed ones need not stay."""
    values = [value for part in settings_of(model) for name, value in tokens_in(part).items() if name not in LISTS]
    return {token for value in values for token in (value if isinstance(value, list) else [value]) if token >= 0}


def renumber_settings(settings: Any, kept: Sequence[int]) -> None:
    """Gives the fields that name tokens their new ids.

    Raises:
        ValueError: A setting of generation is of texts in tokens, which may be cut otherwise.
    """
    new = {old: token for token, old in enumerate(kept)}
    for name in WORDS:
        if getattr(settings, name, None):
            raise ValueError(f"{name}={getattr(settings, name)} of the generation config has tokens that may go.")
    for name, value in tokens_in(settings).items():
        if isinstance(value, list):
            setattr(settings, name, [new[token] for token in value if token in new])
        else:
            setattr(settings, name, new.get(value, value))


def check_vocabulary(model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises a `ValueError` where the tokenizer is not that of the whole model."""
    sizes = {part.config.vocab_size for part in model.modules() if isinstance(part, TrineModel)}
    largest = max(tokenizer.get_vocab().values())
    if len(sizes) > 1 or largest >= min(sizes):
        raise ValueError(
            f"The tokenizer has ids up to {largest:,}, and the model vocab_size={sorted(sizes)}: each stack has to "
            "have a row for each of them."
        )


def check_cuts(smaller: Any, kept: Sequence[int], texts: Sequence[str], rows: Sequence[Sequence[int]]) -> None:
    """Raises a `ValueError` that names a text which the smaller tokenizer cuts otherwise than into these old ids."""
    old_ids = array("q", kept)
    for text, old, new in zip(texts, rows, encode_all(smaller, texts), strict=True):
        if old != array("q", map(old_ids.__getitem__, new)):
            raise ValueError(
                f"{type(smaller).__name__} cuts the text {text[:60]!r} otherwise with the kept tokens: this tokenizer "
                "cannot be made smaller so."
            )


@torch.no_grad()
def cut_rows(old: Any, new: Any, kept: Sequence[int]) -> None:
    """Fills all tensors that have another number of rows: embeddings, and weights and biases of heads."""
    saved, rows = old.state_dict(), torch.tensor(kept)
    frozen = {name for name, tensor in old.named_parameters() if not tensor.requires_grad}
    for name, tensor in [*new.named_parameters(), *new.named_buffers()]:
        if name in saved and saved[name].shape != tensor.shape:
            tensor.data = saved[name][rows.to(saved[name].device)].to(tensor.device)
            if isinstance(tensor, torch.nn.Parameter):
                tensor.requires_grad_(name not in frozen)


def smaller_vocabulary(model: Any, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> tuple[Any, Any]:
    """The lift `smaller_vocabulary` in memory: the model and its tokenizer, with the tokens that these texts need.

    Errors are those of `SmallerVocabularyLift.apply` and of `lift`.
    """
    check_model(model)
    made = SmallerVocabularyLift(tokenizer=tokenizer, texts=list(texts))
    return made.apply(model), made.smaller

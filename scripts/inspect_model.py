"""Show what a model looks at: attention head by head, alignments and experts, as pictures and as one page."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM, AutoTokenizer

import trine  # noqa: F401 - registers the models of this package with the Auto classes
from trine.inspection.attention import NoWeights, WeightMap, alignment, attention_maps, read
from trine.inspection.copies import copy_map
from trine.inspection.expert_routing import expert_maps, experts_by_tag
from trine.inspection.page import write_page
from trine.inspection.pictures import draw_map, file_name, fonts_for, title_of
from trine.scripts.arguments.parsing import INPUT_ERRORS, parse_arguments
from trine.scripts.arguments.text import read_standard_input, text_field
from trine.tokenization.loading import check_target_tokenizer, load_target_tokenizer
from trine.tokenization.records import BadRecords
from trine.training.run.resuming import check_writable


FEWEST_TOKENS = 4
Records = list[tuple[list[str], list[str]]]


@dataclass
class InspectArguments:
    """Options of `trine inspect`."""

    model: str = field(metadata={"help": "Folder or Hub id of one of Trine's models, with its tokenizer."})
    text: str | None = text_field(
        "What the model reads, in place of --tagged or beside it; for a translator, the source.", default=None
    )
    target: str | None = field(
        default=None, metadata={"help": "What an encoder-decoder writes. By default it writes what it likes."}
    )
    tagged: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Records of words and their tags, such as parts of speech, as finetune-tagger reads them: which "
            "experts do the words of each tag visit?"
        },
    )
    words_field: str = field(default="tokens", metadata={"help": "Name of the list of words in a record."})
    tags_field: str = field(default="tags", metadata={"help": "Name of the list of tags, one a word."})
    tagged_records: int = field(default=2000, metadata={"help": "Most records of 'tagged' that are read; 0 is all."})
    layers: list[int] = field(default_factory=list, metadata={"help": "Layers that are shown, from 0. Default: all."})
    max_length: int = field(
        default=128,
        metadata={"help": "Most tokens of text and of target, and of a record, which is cut off there."},
    )
    output_dir: str = field(default="outputs/inspection", metadata={"help": "Folder of the page and the pictures."})

    def __post_init__(self):
        if self.target is not None and self.text is None and self.tagged:
            raise ValueError(f"target='{self.target}' needs a text that it is the target of.")
        for name, least in (("tagged_records", 0), ("max_length", 2)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)} must be at least {least}.")


def main(argv: Sequence[str] | None = None) -> int:
    """Run `trine inspect` with these arguments, by default the process's."""
    (arguments,) = parse_arguments([InspectArguments], argv, command="inspect", description=__doc__)
    if arguments.text is None and not arguments.tagged:
        arguments.text = read_standard_input("a text")
    folder = Path(arguments.output_dir)
    try:
        check_writable(folder)
        records = read_records(arguments) if arguments.tagged else []
        model, tokenizer = load(arguments)
        maps, notes = [], []
        if arguments.text is not None:
            maps, notes = look(model, tokenizer, arguments, load_second(model, arguments.model))
        if records:
            maps += tabulate(model, tokenizer, records, arguments)
    except INPUT_ERRORS as error:
        sys.exit(f"trine: {error}")
    print(*notes, sep="\n")
    folder.mkdir(parents=True, exist_ok=True)
    draw(maps, folder)
    page = folder / "inspection.html"
    write_page(maps, f"{arguments.model}: {type(model).__name__}", notes, page)
    print(f"Page: {page}")
    return 0


def read_records(arguments: InspectArguments) -> Records:
    """Reads the words and tags of the files `tagged`; a ValueError if there are none."""
    from trine.scripts.finetune_tagger import read_tagged  # which brings the trainer

    bad = BadRecords()
    records = read_tagged(arguments, arguments.tagged, bad)  # pyright: ignore[reportArgumentType] it has both names
    bad.check()
    if not records:
        raise ValueError(f"tagged={arguments.tagged} holds no records.")
    kept = records[: arguments.tagged_records or None]
    print(f"{len(kept):,} of {len(records):,} tagged records are read.")
    return [*kept]


def load(arguments: InspectArguments) -> tuple[Any, Any]:
    """The model, on a path that returns weights, and its tokenizer.

    Raises:
        ValueError: An encoder-decoder has no head to generate with, and there is no target.
    """
    config = AutoConfig.from_pretrained(arguments.model)
    parts: list[Any] = [config, getattr(config, "encoder", None), getattr(config, "decoder", None)]
    for part in parts:
        if hasattr(part, "simplicial_backend"):
            part.simplicial_backend = "eager"  # all backends compute the same; this one tells the weights
    generates = config.is_encoder_decoder and arguments.text is not None and arguments.target is None
    copies = getattr(config, "has_pointer", False)  # by its head
    auto_class: Any = AutoModelForSeq2SeqLM if generates or copies else AutoModel
    options = {"config": config, "attn_implementation": "eager", "dtype": "float32", "output_loading_info": True}
    model, info = auto_class.from_pretrained(arguments.model, **options)
    if generates and info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise ValueError(f"model='{arguments.model}' cannot generate, as it lacks {missing}: give a target.")
    return model, AutoTokenizer.from_pretrained(arguments.model)


def load_second(model: Any, source: str) -> Any:
    """The tokenizer of what an encoder-decoder writes, if it is not that of what it reads, else None.

    Raises:
        ValueError: The model needs one, and there is none.
    """
    if not model.config.is_encoder_decoder:
        return None
    target_tokenizer = load_target_tokenizer(source)
    check_target_tokenizer(model.config, target_tokenizer)
    return target_tokenizer


def look(
    model: Any, tokenizer: Any, arguments: InspectArguments, target_tokenizer: Any = None
) -> tuple[list[WeightMap], list[str]]:
    """The maps of the text, and notes about them."""
    texts = arguments.text or "", arguments.target
    reading = read(model, tokenizer, *texts, arguments.max_length, target_tokenizer)
    layers = arguments.layers or None
    notes = [f"Text, {len(reading.source)} tokens: {arguments.text}"]
    if len(reading.source) < FEWEST_TOKENS:
        notes.append(f"Warning: with fewer than {FEWEST_TOKENS} tokens, weights say little. Take a longer text.")
    if reading.predicted:
        origin = "as given" if arguments.target is not None else "as generated"
        spoken = arguments.target or (target_tokenizer or tokenizer).decode(
            reading.predicted_ids, skip_special_tokens=True
        )
        notes.append(f"Target {origin}, {len(reading.predicted)} tokens: {spoken}")
    others = expert_maps(model, reading, layers)
    if getattr(model, "pointer", None) is not None:
        copies, shares = copy_map(model, reading)
        others.append(copies)
        copied = [row.token for row in shares if row.copied > 0.5]
        notes.append(f"Copied, by more than half of their probability: {' '.join(copied) or 'no token'}")
    try:
        maps = attention_maps(model, reading, layers)
    except NoWeights as error:
        if not others:
            raise
        return others, [*notes, str(error)]
    if reading.predicted:
        maps.append(alignment(maps, reading.predicted))
    return maps + others, notes


def tabulate(model: Any, tokenizer: Any, records: Records, arguments: InspectArguments) -> list[WeightMap]:
    """The maps of experts by tag, which are printed, too. The name of a row has its number of pieces."""
    options = {"layers": arguments.layers or None, "max_length": arguments.max_length}
    maps, pieces = experts_by_tag(model, tokenizer, records, **options)
    for item in maps:
        print(f"\n{title_of(item)}: shares of the visits in percent, {item.columns[0]} to {item.columns[-1]}")
        for row, shares in zip(item.rows, item.weights[0].tolist(), strict=True):
            print(f"{row:>14} {pieces[row]:9,} pieces " + " ".join(f"{100 * share:5.1f}" for share in shares))
    return [item._replace(rows=[f"{row} ({pieces[row]:,})" for row in item.rows]) for item in maps]


def draw(maps: Sequence[WeightMap], folder: Path) -> None:
    """Draws every map into the folder."""
    fonts = fonts_for({label for item in maps for label in (*item.rows, *item.columns)})
    for item in maps:
        draw_map(item, folder / file_name(item), fonts)
    print(f"{len(maps)} pictures: {', '.join(file_name(item) for item in maps[:3])}, ...")


if __name__ == "__main__":
    sys.exit(main())

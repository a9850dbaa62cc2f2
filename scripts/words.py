"""Ask a model for words: sums of them, neighbours, analogies, similarity, and one word in several sentences."""

import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from trine.inspection.pictures import fonts_for
from trine.inspection.word_lookup import Expression, parse_equation, parse_expression
from trine.inspection.word_map import WordMap, draw_words, write_word_page
from trine.inspection.word_pieces import Spelling
from trine.inspection.words import SENTENCE, layer_index, trunk_of
from trine.scripts.arguments.devices import check_device
from trine.scripts.arguments.parsing import INPUT_ERRORS, parse_arguments
from trine.scripts.jobs.word_reports import tell_analogies, tell_nearest, tell_similarity, tell_sum, tell_uses
from trine.scripts.jobs.word_sources import Source, file_source, load_model, model_source, read_words
from trine.scripts.jobs.word_tests import ANALOGIES, SIMILARITIES, file_of, judgements, questions, words_of
from trine.training.run.resuming import check_writable


MOST_WORDS = 20_000  # that pass a model by default
MOST_WORDS_IN_ALL_LAYERS = 5_000


@dataclass
class WordsArguments:
    """Options of `trine words`."""

    model: str | None = field(
        default=None,
        metadata={"help": "Folder or Hub id of a model with its tokenizer, which may stand first, without the name."},
    )
    expression: str = field(
        default="",
        metadata={
            "help": "A sum of words, 'king - man + woman', or an equation, 'table - chair = mouse - keyboard'; with "
            "--context one word. It may stand second, without the name."
        },
    )
    nearest: list[str] = field(
        default_factory=list, metadata={"help": "Words whose neighbours are shown.", "action": "extend"}
    )
    analogies: str | None = field(
        default=None, metadata={"help": f"File of questions, or {', '.join(ANALOGIES)}, which comes with gensim."}
    )
    similarity: str | None = field(
        default=None, metadata={"help": f"File of judged pairs, or one of gensim's, {', '.join(SIMILARITIES)}."}
    )
    context: list[str] = field(
        default_factory=list,
        metadata={"help": "A sentence that holds the word; give two or more.", "action": "extend"},
    )
    compare: list[str] = field(
        default_factory=list,
        metadata={"help": "Words that the word in each --context is compared with.", "action": "extend"},
    )
    layer: str | None = field(
        default=None,
        metadata={
            "help": "0: input embeddings, the default. n: the states of the n-th layer, -1 the last. sentence: what "
            "sentence-transformers makes of a word. With --context: the layer of the picture, by default the last."
        },
    )
    k: int = field(default=10, metadata={"help": "Neighbours that are shown.", "aliases": ["-k"]})
    words: str | None = field(
        default=None, metadata={"help": "File of the words that can be found, one a line; else those of one token."}
    )
    most_words: int | None = field(
        default=None,
        metadata={
            "help": "Words that can be found, the first of the vocabulary; 0 is all, as for layer 0. By default "
            f"{MOST_WORDS:,} in other layers, with --context {MOST_WORDS_IN_ALL_LAYERS:,}."
        },
    )
    pieces: bool = field(
        default=False,
        metadata={"help": "Let words of several tokens be asked for and found in --analogies and --similarity."},
    )
    vectors: str | None = field(
        default=None,
        metadata={"help": "Vectors to look at beside the model or alone: word2vec's or GloVe's file, or a folder."},
    )
    map_dir: str | None = field(default=None, metadata={"help": "Folder of a map of the words, as PNG and as page."})
    batch_size: int = field(default=64, metadata={"help": "Words that pass the model at a time."})
    device: str | None = field(default=None, metadata={"help": "Such as cpu or cuda:1. By default the accelerator."})
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Run code that comes with the model. Trine's own needs none."}
    )

    def __post_init__(self):
        check_device(self.device)
        asked = [self.expression, self.nearest, self.analogies, self.similarity]
        if self.context and (self.layer == SENTENCE or any(asked[1:]) or self.vectors):
            raise ValueError("context is asked alone: without nearest, analogies, similarity, vectors and sentences.")
        if not any(asked):
            raise ValueError(
                f"Nothing is asked of model={self.model!r}: give an expression, nearest, analogies or similarity."
            )
        if blank := [name for name in ("nearest", "compare") if not all(map(str.strip, getattr(self, name)))]:
            raise ValueError(f"{blank[0]}={getattr(self, blank[0])} holds an empty word.")
        if self.model is None and self.vectors is None:
            raise ValueError("model is missing: name a folder, or vectors of words.")
        if self.context and (len(self.context) < 2 or not self.expression or self.model is None):
            raise ValueError("context needs a model, a word and at least two sentences that hold it.")
        if self.compare and not self.context:
            raise ValueError("compare needs context, whose word it is compared with.")
        if self.map_dir and not (self.expression or self.nearest):
            raise ValueError("map_dir needs an expression, nearest or context: there is nothing to draw.")
        if self.layer not in (None, SENTENCE) and not re.fullmatch(r"-?\d+", self.layer or ""):
            raise ValueError(f"layer='{self.layer}' is neither a number nor '{SENTENCE}'.")
        for name, least in (("k", 1), ("batch_size", 1), ("most_words", 0)):
            if getattr(self, name) is not None and getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)} must be at least {least}.")

    @property
    def chosen_layer(self) -> int | str:
        """The layer of words that are read alone."""
        return self.layer if self.layer == SENTENCE else int(self.layer or 0)


def main(argv: Sequence[str] | None = None) -> None:
    """Run `trine words` with these arguments, by default the process's."""
    argv = model_first(list(sys.argv[1:] if argv is None else argv))
    (arguments,) = parse_arguments([WordsArguments], argv, command="words", description=__doc__)
    try:
        if arguments.map_dir:
            check_writable(Path(arguments.map_dir))
        maps = run(arguments)
        if arguments.map_dir:
            draw(maps, arguments)
    except (*INPUT_ERRORS, ImportError) as error:
        sys.exit(f"trine words: {error}")


def model_first(argv: list[str]) -> list[str]:
    """Lets the model and the expression stand first, without the names of their options."""
    count = next((n for n, word in enumerate(argv) if re.match(r"--?[a-zA-Z]", word)), len(argv))
    first, rest = argv[:count], argv[count:]
    alone = "--vectors" in rest and first and not Path(first[0]).exists()
    named = [] if alone or not first else ["--model", first.pop(0)]
    return [*named, *(["--expression", " ".join(first)] if first else []), *rest]


def run(arguments: WordsArguments) -> list[WordMap]:
    """Answers what is asked, and returns what a map can show."""
    if arguments.expression and not arguments.context and parse_equation(arguments.expression) is None:
        parse_expression(arguments.expression)  # what it refuses it refuses before anything is read
    files = files_asked(arguments)
    words = read_words(arguments.words) if arguments.words else None
    given = [file_source(arguments.vectors)] if arguments.vectors else []
    options = arguments.device, arguments.trust_remote_code
    loaded = load_model(arguments.model, arguments.chosen_layer, *options) if arguments.model else None
    if arguments.context and loaded:
        layer_index(trunk_of(loaded[0]), arguments.chosen_layer)  # of the picture
        most = MOST_WORDS_IN_ALL_LAYERS if arguments.most_words is None else arguments.most_words
        words = (words or Spelling(loaded[1]).known())[: most or None]
        return tell_uses(loaded, arguments.expression, arguments.context, arguments.compare, words, arguments.k)
    if loaded:
        layer, default = arguments.chosen_layer, 0 if arguments.chosen_layer == 0 else MOST_WORDS
        most = default if arguments.most_words is None else arguments.most_words
        given = [model_source(str(arguments.model), loaded, layer, words, most, arguments.batch_size), *given]
    maps: list[WordMap] = []
    for source in given:
        print(f"By {source.name}:")
        if arguments.expression:
            maps.append(tell_sum(source, arguments.expression, arguments.k))
        for word in arguments.nearest:
            maps.append(tell_nearest(source, Expression(source.look_up([word]), []), word, arguments.k))
        for path, (asked, tell) in files.items():
            source.add_all(asked if arguments.pieces else [])
            tell(source, path)
    return maps


def files_asked(arguments: WordsArguments) -> dict[Path, tuple[Sequence[str], Callable[[Source, Path], None]]]:
    """The files of tests, each with its words and what tells its scores."""
    files = {}
    if arguments.analogies:
        path = file_of(arguments.analogies, ANALOGIES, "analogies")
        files[path] = words_of(path, questions), tell_analogies
    if arguments.similarity:
        path = file_of(arguments.similarity, SIMILARITIES, "similarity")
        files[path] = words_of(path, judgements), tell_similarity
    return files


def draw(maps: Sequence[WordMap], arguments: WordsArguments) -> None:
    """Draws the maps, of contexts that of one layer, and writes the page of all."""
    folder = Path(str(arguments.map_dir))
    folder.mkdir(parents=True, exist_ok=True)
    layer = len(maps) - 1 if arguments.layer is None else arguments.chosen_layer
    shown = [maps[int(layer)]] if arguments.context else maps
    fonts = fonts_for({label for item in shown for label in (*item.labels, item.name)})
    for number, item in enumerate(shown, 1):
        draw_words(item, folder / f"words{f'-{number}' if len(shown) > 1 else ''}.png", fonts)
    notes = [f"{n}: {sentence}" for n, sentence in enumerate(arguments.context, 1)]
    title = " ".join(filter(None, [arguments.expression, *arguments.nearest]))
    write_word_page(maps, title, [*notes, f"By {arguments.model or arguments.vectors}."], folder / "words.html")
    print(f"Page: {folder / 'words.html'}")


if __name__ == "__main__":
    main()

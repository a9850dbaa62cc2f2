"""Make an index of documents for `trine search`, or bring one up to date: only what is new or changed is encoded."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from sentence_transformers import SentenceTransformer

from trine.configuration.atomic_saving import locked
from trine.configuration.patterns import check_choice
from trine.retrieval.computing import AUTO, DTYPE_HELP, DTYPES
from trine.retrieval.hybrid import LEXICAL, HybridSearch
from trine.retrieval.stores.base import Store
from trine.retrieval.stores.embedded import EmbeddedStore
from trine.retrieval.stores.index_folder import INDEX, index_size
from trine.retrieval.stores.passwords import without_password
from trine.retrieval.words import CHINESE
from trine.scripts.arguments.devices import check_device
from trine.scripts.arguments.parsing import INPUT_ERRORS, RECORDS_HELP, parse_arguments
from trine.scripts.cli import INTERRUPTED
from trine.scripts.jobs.document_stores import STORE_HELP, STORE_NAME_HELP, load_sparse_encoder, opened_store
from trine.scripts.jobs.encoders import load_encoder
from trine.scripts.jobs.picture_files import picture_path
from trine.tokenization.records import BadRecords, read_examples
from trine.training.run.resuming import check_writable


BLOCK, SECONDS = 256, 5.0  # documents that are encoded first, then twice as many, up to about so long
SAVING = 60.0  # seconds after which a folder is saved again; after ten times as long as saving takes, if that is more


@dataclass
class IndexArguments:
    """Options of `trine index`."""

    files: list[str] = field(metadata={"help": RECORDS_HELP})
    output_dir: str | None = field(
        default=None, metadata={"help": "Folder of the index; one that is there is brought up to date."}
    )
    store: str | None = field(default=None, metadata={"help": f"In place of a folder, {STORE_HELP}"})
    store_name: str = field(default="documents", metadata={"help": STORE_NAME_HELP})
    model: str | None = field(
        default=None,
        metadata={
            "help": "Folder or Hub id of a model of sentence-transformers, or of an encoder or decoder with its "
            "tokenizer. By default that of the index that is there."
        },
    )
    text_field: str = field(default="text", metadata={"help": "Name of the text in a record."})
    image_field: str | None = field(
        default=None,
        metadata={
            "help": "Name of a picture in a record, in place of a text: a path from the folder of the file. A model "
            "of texts and pictures encodes it, as trine train-dual makes; hits are paths."
        },
    )
    id_field: str | None = field(
        default=None,
        metadata={
            "help": "Name of what tells a record from the others, a text or a number. By default its place among all."
        },
    )
    remove_missing: bool = field(
        default=False, metadata={"help": "Remove documents of the index that are not in the files."}
    )
    approximate: bool = field(
        default=False,
        metadata={"help": "In a new index, walk a graph (HNSW) instead of comparing all vectors, whatever its size."},
    )
    chinese: str | None = field(
        default=None,
        metadata={
            "help": f"How BM25 splits Chinese and Japanese, one of {', '.join(CHINESE)}. By default as the index that "
            "is there, and bigrams in a new one."
        },
    )
    lexical: str | None = field(
        default=None,
        metadata={
            "help": f"What scores words, one of {', '.join(LEXICAL)}: `sparse` takes the weights that a model gives "
            "to tokens. By default as the index that is there, and bm25 in a new one."
        },
    )
    sparse_model: str | None = field(
        default=None,
        metadata={"help": "A SparseEncoder for them. By default the model itself, if it was trained to give them."},
    )
    late_chunking: bool = field(
        default=False,
        metadata={
            "help": "Cut documents into sentences, each embedded in the context of its document; hits are sentences, "
            "and name document and characters. An index that is there goes on as it was made."
        },
    )
    chunk_tokens: int | None = field(
        default=None, metadata={"help": "With 'late_chunking', cut after so many tokens in place of sentences."}
    )
    batch_size: int | None = field(
        default=None,
        metadata={"help": "Texts that are encoded at a time. By default 32, and on a CPU fewer of long ones."},
    )
    skip_bad_records: bool = field(
        default=False, metadata={"help": "Leave out records that cannot be used, with a warning, instead of stopping."}
    )
    device: str | None = field(default=None, metadata={"help": "Such as cpu or cuda:1. By default the accelerator."})
    dtype: str = field(default=AUTO, metadata={"help": DTYPE_HELP})
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Run code that comes with the model. Trine's own needs none."}
    )

    def __post_init__(self):
        check_device(self.device)
        check_choice("dtype", self.dtype, DTYPES)
        if self.batch_size is not None and self.batch_size < 1:
            raise ValueError(f"batch_size={self.batch_size} must be at least 1.")
        if self.chunk_tokens is not None and not (self.late_chunking and self.chunk_tokens >= 1):
            raise ValueError(f"chunk_tokens={self.chunk_tokens} must be at least 1, and needs late_chunking.")
        for name, choices in (("chinese", CHINESE), ("lexical", LEXICAL)):
            if getattr(self, name) is not None:
                check_choice(name, getattr(self, name), choices)
        if (self.output_dir is None) == (self.store is None):
            raise ValueError("Name either output_dir, a folder, or store, a database.")
        if self.output_dir is not None and not self.output_dir.strip():
            raise ValueError(f"output_dir={self.output_dir!r} names no folder.")


def main(argv: Sequence[str] | None = None) -> int:
    """Run `trine index` with these arguments, by default the process's."""
    (arguments,) = parse_arguments([IndexArguments], argv, command="index", description=__doc__)
    try:
        count, whole = index_folder(arguments) if arguments.store is None else index_store(arguments)
    except (*INPUT_ERRORS, ImportError) as error:
        sys.exit(f"trine: {error}")
    print(f"{count} in {described(arguments)}")
    return 0 if whole else INTERRUPTED


def counted(search: HybridSearch) -> str:
    """How many documents there are, and chunks of them."""
    if search.chunking is None:
        return f"{len(search):,} documents"
    return f"{len(search):,} chunks of {len(search.ids):,} documents"


def index_folder(arguments: IndexArguments) -> tuple[str, bool]:
    """Brings the index in a folder up to date; returns how many documents it has, and whether all files are in it."""
    folder = Path(str(arguments.output_dir))
    check_writable(folder)
    documents = read_documents(arguments, arguments.image_field)
    is_named = arguments.model is not None or not (folder / INDEX).exists()
    model = load_model(arguments) if is_named else None
    sparse_model = find_sparse_model(arguments)
    with one_at_a_time(folder):
        search = open_or_begin(arguments, folder, model, sparse_model)
        check_places(search, documents, arguments)
        whole = bring_up_to_date(search, documents, arguments.remove_missing, keep=partial(search.save, folder))
        search.save(folder)
    return counted(search), whole


def index_store(arguments: IndexArguments) -> tuple[str, bool]:
    """As `index_folder`, in a database, where every part is written at once."""
    documents = read_documents(arguments, arguments.image_field)
    options: Any = {"chinese": arguments.chinese, "exact": False if arguments.approximate else None}
    with opened_store(str(arguments.store), arguments.store_name, **options) as store:
        model = load_model(arguments, (store.encoder or {}).get("name"))
        search = begin(arguments, model, store, find_sparse_model(arguments))
        check_places(search, documents, arguments)
        whole = bring_up_to_date(search, documents, arguments.remove_missing)
        return counted(search), whole


def described(arguments: IndexArguments) -> str:
    """Where the documents are now."""
    if arguments.store is not None:
        return f"'{arguments.store_name}' of {without_password(arguments.store)}"
    size = index_size(Path(str(arguments.output_dir)))
    return f"{arguments.output_dir}, {size / 1e6:,.1f} MB"


def read_documents(arguments: Any, image_field: str | None = None) -> dict[str, str]:
    """Texts by their ids, or paths of pictures.

    Args:
        arguments: Their `files`, `text_field`, `id_field` and `skip_bad_records` are read.
        image_field: Name of a picture in a record, in place of a text.

    Raises:
        OSError: Files that cannot be read.
        ValueError: Records that cannot be used: an id that is there twice, or a text or id with nothing to see.
    """
    text_field = image_field or arguments.text_field
    fields: dict[str, Any] = {text_field: str}
    if arguments.id_field is not None:
        fields[arguments.id_field] = (str, int)
    documents: dict[str, str] = {}

    def read(record: Mapping[str, Any], file: str) -> None:
        id_ = str(len(documents) if arguments.id_field is None else record[arguments.id_field])
        for name, value in ((arguments.id_field, id_), (text_field, record[text_field])):
            if not any(character.isprintable() and not character.isspace() for character in value):
                raise ValueError(f"the field '{name}' is empty")
            if "\0" in value:
                raise ValueError(f"the field '{name}' holds the character of code 0, which is no text")
        if id_ in documents:
            raise ValueError(f"the field '{arguments.id_field}' holds {id_!r}, which an earlier record has")
        text = record[text_field]
        documents[id_] = text if image_field is None else picture_path(file, text_field, text)

    bad = BadRecords(arguments.skip_bad_records)
    for file in arguments.files:
        read_examples([file], fields, partial(read, file=file), bad)
    bad.check()
    if not documents:
        raise ValueError(f"files={arguments.files} hold no documents.")
    return documents


def load_model(arguments: IndexArguments, name: str | None = None) -> SentenceTransformer:
    """The model that is named, or else the one of this name."""
    name = arguments.model or name
    if name is None:
        place = f"output_dir='{arguments.output_dir}'"
        if arguments.store is not None:
            place = f"store_name={arguments.store_name!r} of store='{without_password(arguments.store)}'"
        raise ValueError(f"model: {place} holds no index yet, so name a model.")
    model = load_encoder(name, arguments.device, arguments.trust_remote_code, arguments.dtype)
    if arguments.image_field is not None and not model.supports("image"):
        raise ValueError(f"image_field={arguments.image_field!r} is a picture, but model='{name}' reads texts alone.")
    return model


def find_sparse_model(arguments: IndexArguments) -> Any:
    """The model of weights of tokens that is named, or what loads the one that an index names."""
    where: Any = {name: getattr(arguments, name) for name in ("device", "trust_remote_code", "dtype")}
    load = partial(load_sparse_encoder, **where)
    return load(arguments.sparse_model) if arguments.sparse_model else load


def begin(arguments: IndexArguments, model: SentenceTransformer, store: Store, sparse_model: Any) -> HybridSearch:
    """A search in a store, with these models."""
    options: Any = {"lexical": arguments.lexical, "sparse_model": sparse_model}
    options |= {"late_chunking": arguments.late_chunking or None, "chunk_size": arguments.chunk_tokens}
    return HybridSearch(model, store=store, batch_size=arguments.batch_size, **options)


def open_or_begin(
    arguments: IndexArguments, folder: Path, model: SentenceTransformer | None, sparse_model: Any
) -> HybridSearch:
    """The index that is there, or an empty one.

    Args:
        arguments: How.
        folder: Where.
        model: The model, unless the index that is there names it.
        sparse_model: That of weights of tokens, or what loads it.
    """
    exact = False if arguments.approximate else None
    if model is not None and not (folder / INDEX).exists():
        return begin(arguments, model, EmbeddedStore(exact, arguments.chinese or "bigrams"), sparse_model)
    options: Any = {"batch_size": arguments.batch_size, "sparse_model": sparse_model}
    options |= {"late_chunking": arguments.late_chunking or None, "chunk_size": arguments.chunk_tokens}
    search = HybridSearch.load(folder, model or partial(load_model, arguments), **options)
    there = {"chinese": search.store.words.chinese, "lexical": search.store.lexical}
    for name, value in there.items():
        if getattr(arguments, name) not in (None, value):
            raise ValueError(
                f"{name}={getattr(arguments, name)!r} differs from {name}={value!r} of the index in '{folder}'. Leave "
                "the option out, or make a new index."
            )
    return search


@contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Waits until no other `trine index` works on this folder."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / ".indexing"
    file.touch()
    with locked(file) as lock:
        if not lock.take():
            print(f"Another trine index works on '{folder}'; waiting.", file=sys.stderr)
            lock.take(wait=True)
        yield


def check_places(search: HybridSearch, documents: Mapping[str, str], arguments: IndexArguments) -> None:
    """Raises a `ValueError` where records without ids would take the places of other documents, or stand beside them.

    With `remove_missing` they may: the index becomes what the files are.
    """
    if arguments.id_field is not None or arguments.remove_missing or not len(search):
        return
    if named := [id_ for id_ in search.ids if not id_.isdigit()]:
        raise ValueError(
            f"id_field is not named, so that the places of records are their ids, but the index has ids such as "
            f"{named[0]!r}. Name the field of the ids."
        )
    others = [id_ for id_, text in search.texts(documents).items() if text != documents[id_]]
    if others:
        raise ValueError(
            f"id_field is not named, so that the places of records are their ids, and {len(others):,} documents of "
            f"the index would be replaced by others, the first at place {others[0]}. Name a field of ids, or make the "
            "index what these files are by remove_missing."
        )


def bring_up_to_date(
    search: HybridSearch,
    documents: Mapping[str, str],
    remove_missing: bool,
    keep: Callable[[], None] | None = None,
) -> bool:
    """Encodes what is new or changed, and tells how far it is; Ctrl-C ends it, and what is done is kept.

    Args:
        search: Where.
        documents: All texts by their ids.
        remove_missing: Whether other documents go.
        keep: Saves from time to time what a kill would lose.
    """
    items, changes, begun = [*documents.items()], [0, 0, 0], time.perf_counter()
    whole, done, size, saved, pause = True, 0, BLOCK, begun, SAVING
    try:
        while done < len(items):
            start = time.perf_counter()
            changed = search.update(dict(items[done : done + size]))
            changes = [total + new for total, new in zip(changes, changed, strict=True)]
            done, now = min(done + size, len(items)), time.perf_counter()
            if done < len(items):
                rate = (changes[0] + changes[1]) / (now - begun)
                print(f"{done:,} of {len(items):,} documents, {rate:,.0f} a second", file=sys.stderr, flush=True)
            if now - start < SECONDS / 2:
                size *= 2
            if keep is not None and now - saved > pause:
                keep()
                saved = time.perf_counter()
                pause = max(SAVING, 10 * (saved - now))
    except KeyboardInterrupt:
        print("Interrupted. What is encoded is saved; the same command goes on.", file=sys.stderr)
        whole, remove_missing = False, False
    gone = [id_ for id_ in search.ids if id_ not in documents] if remove_missing else []
    search.remove(gone)
    added, replaced, unchanged = changes
    print(f"{added:,} added, {replaced:,} replaced, {unchanged:,} unchanged, {len(gone):,} removed", file=sys.stderr)
    return whole


if __name__ == "__main__":
    sys.exit(main())

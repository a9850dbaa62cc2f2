"""Write the vectors of texts, or of their chunks in the context of the whole text, to a file."""

import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors.numpy import save_file
from sentence_transformers import SentenceTransformer

from trine.configuration.patterns import check_choice
from trine.retrieval.computing import AUTO, DTYPE_HELP, DTYPES
from trine.retrieval.late_chunking import late_chunks
from trine.scripts.arguments.devices import check_device
from trine.scripts.arguments.parsing import INPUT_ERRORS, RECORDS_HELP, parse_arguments
from trine.scripts.cli import INTERRUPTED
from trine.scripts.index import read_documents
from trine.scripts.jobs.encoders import load_encoder
from trine.training.run.resuming import check_writable


BLOCK = 512  # texts between two lines of progress
ROWS = "texts.jsonl"
NEEDS_CHUNKS = ("chunk_tokens", "overlap")  # options of late chunking


@dataclass
class EmbedArguments:
    """Options of `trine embed`."""

    files: list[str] = field(metadata={"help": RECORDS_HELP})
    model: str = field(
        metadata={
            "help": "Folder or Hub id of a model of sentence-transformers, or of an encoder or decoder with its "
            "tokenizer."
        }
    )
    output_dir: str = field(
        metadata={"help": f"Folder of the vectors, and of '{ROWS}', which says of each row which text it is of."}
    )
    text_field: str = field(default="text", metadata={"help": "Name of the text in a record."})
    id_field: str | None = field(
        default=None,
        metadata={
            "help": "Name of what tells a record from the others, a text or a number. By default its place among all."
        },
    )
    format: str = field(
        default="safetensors", metadata={"help": "'safetensors', with one tensor 'vectors', or 'npy'."}
    )
    late_chunking: bool = field(
        default=False,
        metadata={
            "help": "Vectors of chunks, by default sentences, that know the rest of their text (arXiv 2409.04701)."
        },
    )
    chunk_tokens: int | None = field(
        default=None, metadata={"help": "With late_chunking, tokens of a chunk in place of sentences."}
    )
    overlap: int | None = field(
        default=None,
        metadata={
            "help": "With late_chunking, tokens that two windows share of a text which is longer than the model "
            "reads. Default: a quarter of a window."
        },
    )
    prompt: str | None = field(
        default=None, metadata={"help": "What stands before each text. By default the model's prompt for documents."}
    )
    normalize_embeddings: bool = field(default=False, metadata={"help": "Give each vector the length 1."})
    batch_size: int = field(default=32, metadata={"help": "Texts that are encoded at a time."})
    json: bool = field(default=False, metadata={"help": "Print what was written as a line of JSON."})
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
        check_choice("format", self.format, WRITERS)
        if self.batch_size < 1:
            raise ValueError(f"batch_size={self.batch_size} must be at least 1.")
        if self.chunk_tokens is not None and self.chunk_tokens < 1:
            raise ValueError(f"chunk_tokens={self.chunk_tokens} must be at least 1.")
        if self.overlap is not None and self.overlap < 0:
            raise ValueError(f"overlap={self.overlap} must be at least 0.")
        for name in NEEDS_CHUNKS:
            if getattr(self, name) is not None and not self.late_chunking:
                raise ValueError(f"{name}={getattr(self, name)} belongs to late_chunking=True.")


class Part(NamedTuple):
    """Vectors of some texts, (rows, dimensions), and what each row is of: a text's id, first character, end."""

    vectors: np.ndarray
    rows: list[tuple[str, int, int]]


def write_safetensors(vectors: np.ndarray, folder: Path) -> Path:
    """Writes the tensor `vectors`."""
    save_file({"vectors": vectors}, folder / "vectors.safetensors")
    return folder / "vectors.safetensors"


def write_npy(vectors: np.ndarray, folder: Path) -> Path:
    """Writes an array of NumPy."""
    np.save(folder / "vectors.npy", vectors)
    return folder / "vectors.npy"


WRITERS = {"safetensors": write_safetensors, "npy": write_npy}


def main(argv: Sequence[str] | None = None) -> int:
    """Run `trine embed` with these arguments, by default the process's."""
    (arguments,) = parse_arguments([EmbedArguments], argv, command="embed", description=__doc__)
    folder, begun = Path(arguments.output_dir), time.perf_counter()
    try:
        check_writable(folder)
        documents = read_documents(arguments)
        model = load_encoder(arguments.model, arguments.device, arguments.trust_remote_code, arguments.dtype)
        parts = [*embed(model, documents, arguments)]
        folder.mkdir(parents=True, exist_ok=True)
        vectors = np.concatenate([part.vectors for part in parts])
        if not np.isfinite(vectors).all():
            raise ValueError(f"model='{arguments.model}' gives vectors that are not finite.")
        file = WRITERS[arguments.format](vectors, folder)
        write_rows(folder / ROWS, (row for part in parts for row in part.rows), documents, arguments.late_chunking)
    except KeyboardInterrupt:
        print("Interrupted; nothing is written.", file=sys.stderr)
        return INTERRUPTED
    except (*INPUT_ERRORS, ImportError) as error:
        sys.exit(f"trine: {error}")
    written = {"file": str(file), "rows": str(folder / ROWS), "documents": len(documents), "vectors": len(vectors)}
    written |= {"dimensions": vectors.shape[1], "seconds": round(time.perf_counter() - begun, 3)}
    if arguments.json:
        print(json.dumps(written, ensure_ascii=False))
    else:
        print(f"{len(vectors):,} vectors of {vectors.shape[1]:,} numbers, of {len(documents):,} texts, in {file}")
    return 0


def embed(model: SentenceTransformer, documents: dict[str, str], arguments: EmbedArguments) -> Iterator[Part]:
    """Yields vectors of all texts or of their chunks, and tells how far it is.

    Raises:
        ValueError: The model or a text does not allow late chunking.
    """
    items, begun = [*documents.items()], time.perf_counter()
    for start in range(0, len(items), BLOCK):
        ids, texts = map(list, zip(*items[start : start + BLOCK], strict=True))
        yield (embed_chunks if arguments.late_chunking else embed_texts)(model, ids, texts, arguments)
        done = min(start + BLOCK, len(items))
        rate = done / (time.perf_counter() - begun)
        if done < len(items):
            print(f"{done:,} of {len(items):,} texts, {rate:,.0f} a second", file=sys.stderr, flush=True)


def embed_texts(model: SentenceTransformer, ids: list[str], texts: list[str], arguments: EmbedArguments) -> Part:
    """One vector of each text."""
    vectors: Any = model.encode_document(
        texts,
        prompt=arguments.prompt,
        batch_size=arguments.batch_size,
        show_progress_bar=False,
        normalize_embeddings=arguments.normalize_embeddings,
    )
    return Part(
        np.asarray(vectors, dtype=np.float32), [(id_, 0, len(text)) for id_, text in zip(ids, texts, strict=True)]
    )


def embed_chunks(model: SentenceTransformer, ids: list[str], texts: list[str], arguments: EmbedArguments) -> Part:
    """One vector of each chunk of each text, by late chunking."""
    try:
        found = late_chunks(
            model,
            texts,
            chunk_size=arguments.chunk_tokens,
            overlap=arguments.overlap,
            prompt=arguments.prompt,
            normalize_embeddings=arguments.normalize_embeddings,
            batch_size=arguments.batch_size,
        )
    except ValueError as error:
        raise ValueError(f"late_chunking=True, texts from id '{ids[0]}' on: {error}") from error
    rows = [(id_, start, end) for id_, chunks in zip(ids, found, strict=True) for start, end in chunks.spans]
    return Part(np.concatenate([chunks.vectors for chunks in found]).astype(np.float32), rows)


def write_rows(file: Path, rows: Iterator[tuple[str, int, int]], documents: dict[str, str], is_chunked: bool) -> None:
    """Writes a line for each vector: the text's id; of a chunk also its own id, its span, and its characters."""
    number, before = 0, None
    with file.open("w", encoding="utf-8") as lines:
        for id_, start, end in rows:
            number, before = (number + 1, id_) if id_ == before else (0, id_)
            row: dict[str, Any] = {"id": id_}
            if is_chunked:
                row = {"id": f"{id_}#{number}", "document": id_, "start": start, "end": end}
                row["text"] = documents[id_][start:end]
            lines.write(json.dumps(row, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    sys.exit(main())

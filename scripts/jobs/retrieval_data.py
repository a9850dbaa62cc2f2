"""Queries, documents and judgments that searching is scored with: from pairs of texts, or in BEIR's layout."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trine.configuration.patterns import named_type
from trine.retrieval.scores import Retrieval
from trine.scripts.jobs.text_pairs import read_texts
from trine.tokenization.records import BadRecords, read_examples


ID = "_id"  # of BEIR


@dataclass(frozen=True)
class Judged:
    """Queries with the documents that they should find.

    Attributes:
        queries: Texts by their ids, of those that have a relevant document.
        documents: Texts by their ids.
        qrels: For each query the judgment of documents by their ids; above 0 is relevant.
        left_out: The number of queries without a relevant document.
        by_text: Whether the ids are made here, so that only its text tells a document in an index.
    """

    queries: dict[str, str]
    documents: dict[str, str]
    qrels: dict[str, dict[str, int]]
    left_out: int = 0
    by_text: bool = False

    def first(self, count: int | None) -> "Judged":
        """Keeps the first queries only, and all documents."""
        queries = dict([*self.queries.items()][:count])
        qrels = {id_: self.qrels[id_] for id_ in queries}
        return Judged(queries, self.documents, qrels, self.left_out, self.by_text)


def read_pairs(files: Sequence[str], fields: Sequence[str], bad: BadRecords) -> Judged:
    """Queries that should find the texts they are paired with among those of all pairs; equal texts are one.

    Args:
        files: The records.
        fields: The names of the query, of the text to be found and, if there is one, of a text not to be found.
        bad: Counts the records that cannot be used.

    Raises:
        OSError: A file cannot be read.
        ValueError: A file of another kind, records that cannot be used, or none.
    """
    pairs = read_texts(files, fields, bad)
    bad.check()
    if not pairs:
        raise ValueError(f"files={[*files]} hold no pairs.")
    retrieval = Retrieval.from_pairs(pairs)
    qrels = {query: dict.fromkeys(sorted(found), 1) for query, found in retrieval.relevant.items()}
    return Judged(retrieval.queries, retrieval.corpus, qrels, by_text=True)


def find_beir_files(folder: str, split: str) -> tuple[Path, Path, Path]:
    """The documents, the queries and the judgments of a folder in BEIR's layout.

    Judgments are `qrels/SPLIT.tsv`, or `qrels.tsv` where there is no folder of that name.

    Raises:
        FileNotFoundError: One is not there.
    """
    qrels = Path(folder, "qrels", f"{split}.tsv")
    if not qrels.parent.is_dir() and Path(folder, "qrels.tsv").is_file():
        qrels = Path(folder, "qrels.tsv")
    files = Path(folder, "corpus.jsonl"), Path(folder, "queries.jsonl"), qrels
    for file in files:
        if not file.is_file():
            splits = sorted(path.stem for path in qrels.parent.glob("*.tsv")) if qrels.parent.is_dir() else []
            choices = f" Its splits are {splits}." if file == qrels and splits else ""
            raise FileNotFoundError(
                f"data_folder='{folder}' has no {file.relative_to(folder)}; a data set of BEIR's layout holds "
                f"corpus.jsonl, queries.jsonl and qrels/{split}.tsv.{choices}"
            )
    return files


def read_beir(corpus: Path, queries: Path, qrels: Path, bad: BadRecords) -> Judged:
    """Queries, documents and judgments in BEIR's layout. A document's title stands before its text.

    Args:
        corpus: Records with `_id`, `text` and perhaps `title`.
        queries: Records with `_id` and `text`.
        qrels: A line of names, and lines of query, document and judgment, a tab between them.
        bad: Counts the records that cannot be used.

    Raises:
        OSError: A file cannot be read.
        ValueError: A file of another kind, records that cannot be used, or no query with a relevant document.
    """
    documents, asked = read_texts_by_id(corpus, bad), read_texts_by_id(queries, bad)
    judged = read_qrels(qrels, asked, documents, bad)
    bad.check()
    found = {id_: text for id_, text in asked.items() if max(judged.get(id_, {}).values(), default=0) > 0}
    if not found:
        raise ValueError(f"qrels='{qrels}' judge no document above 0 for a query of '{queries}'.")
    return Judged(found, documents, {id_: judged[id_] for id_ in found}, len(asked) - len(found))


def read_texts_by_id(file: Path, bad: BadRecords) -> dict[str, str]:
    """The texts of a file in BEIR's layout by their ids; `bad` counts empty ones, and ids that are there twice."""
    texts: dict[str, str] = {}

    def read(record: Mapping[str, Any]) -> None:
        id_, title = str(record[ID]), record.get("title") or ""
        if not isinstance(title, str):
            raise ValueError(f"the field 'title' holds {named_type(title)}")
        text = f"{title} {record['text']}".strip()
        if not id_.strip() or not text:
            raise ValueError(f"the field '{'text' if id_.strip() else ID}' is empty")
        if id_ in texts:
            raise ValueError(f"the field '{ID}' holds {id_!r}, which an earlier record has")
        texts[id_] = text

    read_examples([file], {ID: (str, int), "text": str}, read, bad)
    return texts


def read_qrels(
    file: Path, queries: Mapping[str, str], documents: Mapping[str, str], bad: BadRecords
) -> dict[str, dict[str, int]]:
    """The judgments of documents for each query. `bad` counts lines that are none, or that name what is not there."""
    judged: dict[str, dict[str, int]] = {}
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"qrels='{file}' is not UTF-8 text: {error}") from error
    for number, line in enumerate(lines, 1):
        parts = line.split("\t")
        if not line.strip() or (number == 1 and len(parts) == 3 and not is_whole(parts[2])):
            continue  # the names of the columns
        if len(parts) != 3 or not is_whole(parts[2]):
            bad.add(f"'{file}'", number, "is not query, document and a whole number, with a tab between them")
        elif parts[0] not in queries:
            bad.add(f"'{file}'", number, f"names the query {parts[0]!r}, which is not there")
        elif parts[1] not in documents:
            bad.add(f"'{file}'", number, f"names the document {parts[1]!r}, which is not there")
        else:
            judged.setdefault(parts[0], {})[parts[1]] = int(parts[2])
    return judged


def is_whole(text: str) -> bool:
    """Whether a text is a whole number."""
    try:
        return int(text) is not None
    except ValueError:
        return False


def write_beir(folder: Path, judged: Judged) -> None:
    """Writes queries, documents and judgments in BEIR's layout, as the split `test`."""
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    for name, texts in (("corpus", judged.documents), ("queries", judged.queries)):
        lines = [json.dumps({ID: id_, "text": text}, ensure_ascii=False) + "\n" for id_, text in texts.items()]
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    lines = ["query-id\tcorpus-id\tscore\n"]
    for query, found in judged.qrels.items():
        lines += [f"{query}\t{document}\t{judgment}\n" for document, judgment in found.items()]
    (folder / "qrels" / "test.tsv").write_text("".join(lines), encoding="utf-8")

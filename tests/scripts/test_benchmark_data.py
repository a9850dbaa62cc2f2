"""The benchmark of reading text: both pipelines give all tokens but incomplete blocks, and the report has them."""

import json
import re

import pytest

from trine import train_byte_level_bpe
from trine.scripts.benchmarks import data as benchmark_data
from trine.scripts.benchmarks.data import (
    BLOCK_LENGTH,
    DataBenchmarkArguments,
    main,
    with_datasets,
    with_trine,
    write_text,
)


DOCUMENTS = [f"Line {n} of a document.\n\nAnd {word}." for n in range(50) for word in ("more", "another one")]


@pytest.fixture
def files(tmp_path):
    tokenizer = train_byte_level_bpe(DOCUMENTS, 300, show_progress=False)
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    write_text(tmp_path / "text.jsonl", 1, DOCUMENTS)
    texts = [json.loads(line)["text"] for line in (tmp_path / "text.jsonl").read_text().splitlines()]
    assert 10**6 <= (tmp_path / "text.jsonl").stat().st_size < 10**6 + 2000
    assert all(len(text.splitlines()) == 20 for text in texts)
    ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
    return tmp_path, sum(map(len, ids)) + len(texts)


def test_both_pipelines_read_everything(files):
    folder, tokens = files
    arguments = str(folder / "text.jsonl"), str(folder / "tokenizer")
    ours, theirs = with_trine(*arguments), with_datasets(*arguments)
    assert ours.seconds > 0 and ours.memory >= 0 and theirs.memory >= 0
    assert tokens - 2 * BLOCK_LENGTH < ours.tokens <= tokens  # a rest in each part
    # Its batches of 1,000 texts, in two processes, each leave a rest.
    assert tokens - (len(DOCUMENTS) + 4) * BLOCK_LENGTH < theirs.tokens <= tokens
    assert sorted(path.name for path in folder.iterdir()) == ["text.jsonl", "tokenizer"]


def test_the_report(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark_data, "collect_python_documents", lambda: DOCUMENTS)
    monkeypatch.setattr(benchmark_data, "in_fresh_process", lambda pipeline, *paths: pipeline(*paths))
    monkeypatch.setattr(benchmark_data, "VOCAB_SIZE", 300)
    main(["--sizes", "1", "--report", str(tmp_path / "report.md")])
    rows = re.findall(
        r"^\| (Trine|datasets) \| 1 MB \| ([\d,]+) \|", (tmp_path / "report.md").read_text(), re.MULTILINE
    )
    assert [name for name, _ in rows] == ["Trine", "datasets"]
    assert all(int(tokens.replace(",", "")) > 10 * BLOCK_LENGTH for _, tokens in rows)


def test_sizes_are_checked():
    with pytest.raises(ValueError, match=r"sizes=\[0\] must be at least 1"):
        DataBenchmarkArguments(sizes=[0])

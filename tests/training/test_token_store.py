"""Tokens come back as the tokenizer made them, and a second run finds those of the first."""

import subprocess
import sys

import pytest
import torch

from trine.tokenization.text_files import Piece
from trine.tokenization.training import train_byte_level_bpe
from trine.training import token_store
from trine.training.encoding import encode_batches
from trine.training.token_store import find_or_make, read_tokens, tokenizer_identity, write_tokens
from trine.training.word_cache import TokenEncoder


DOCUMENTS = ["A first line.\nAnd more.", "二", "Text with <|endoftext|> in it.", "last"]
PIECES = [Piece(0, "A first line.\n"), Piece(0, "And more."), *(Piece(n, DOCUMENTS[n]) for n in (1, 2, 3))]


@pytest.fixture(scope="module")
def tokenizer():
    return train_byte_level_bpe(DOCUMENTS, 270, show_progress=False, model_max_length=4)


@pytest.mark.parametrize("batch", [1, 20, 2**20])
def test_the_store_gives_the_documents_back(tokenizer, tmp_path, monkeypatch, batch):
    monkeypatch.setattr(token_store, "BATCH_CHARACTERS", batch)
    write_tokens(tmp_path, iter(PIECES), TokenEncoder(tokenizer), ends_with=tokenizer.eos_token_id)
    tokens, ends, piece_ends = read_tokens(tmp_path)
    assert tokens.dtype == torch.int32 and ends.dtype == torch.int64
    assert (tokens == tokenizer.eos_token_id).nonzero().flatten().tolist() == (ends - 1).tolist()
    starts = [0, *ends.tolist()]
    assert [tokenizer.decode(tokens[a : b - 1]) for a, b in zip(starts, ends, strict=False)] == DOCUMENTS
    starts = [0, *(end + (end + 1 in ends) for end in piece_ends.tolist())]
    assert [tokenizer.decode(tokens[a:b]) for a, b in zip(starts, piece_ends, strict=False)] == [
        p.text for p in PIECES
    ]


@pytest.mark.parametrize("processes", [1, 2])
def test_processes_give_the_same_tokens_in_order(tokenizer, tmp_path, monkeypatch, processes):
    monkeypatch.setattr(token_store, "BATCH_CHARACTERS", 50)
    pieces = [Piece(number, f"Text number {number}, " + "more " * (number % 7)) for number in range(300)]
    write_tokens(tmp_path, iter(pieces), TokenEncoder(tokenizer), processes=processes)
    tokens, ends, _ = read_tokens(tmp_path)
    starts = [0, *ends.tolist()]
    texts = [tokenizer.decode(tokens[a:b]) for a, b in zip(starts, ends, strict=False)]
    assert texts == [piece.text for piece in pieces]


def test_few_batches_are_read_at_a_time(monkeypatch):
    """However long the text is: at most one batch waits beside those that are worked on."""
    read = []
    batches = ([Piece(0, str(read.append(number) or number))] for number in range(100))
    for done, (batch, encoded) in enumerate(encode_batches(batches, ascii_bytes, processes=2)):
        assert encoded == [str(done).encode()] == [batch[0].text.encode()]
        assert len(read) <= done + 4


def ascii_bytes(texts):
    return [text.encode() for text in texts]


def test_without_a_token_at_the_end(tokenizer, tmp_path):
    write_tokens(tmp_path, iter(PIECES), TokenEncoder(tokenizer))
    tokens, ends, piece_ends = read_tokens(tmp_path)
    expected = [
        tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"] for text in DOCUMENTS
    ]
    assert [part.tolist() for part in tokens.tensor_split(ends[:-1])] == expected


def test_what_was_made_is_found_again(tmp_path):
    made = []

    def make(folder):
        (folder / "file").write_text("whole")
        made.append(folder)

    first = find_or_make(tmp_path, {"a": 1}, make)
    assert find_or_make(tmp_path, {"a": 1}, make) == first and len(made) == 1
    assert (first / "file").read_text() == "whole"
    assert find_or_make(tmp_path, {"a": 2}, make) != first
    assert find_or_make(tmp_path, None, make) != find_or_make(tmp_path, None, make) and len(made) == 4


def test_what_nobody_can_find_again_goes_with_the_program(tmp_path):
    program = (
        "import sys; from pathlib import Path; from trine.training.token_store import find_or_make\n"
        "print(find_or_make(Path(sys.argv[1]), None, lambda folder: (folder / 'file').write_text('whole')).exists())"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "True\n"
    assert list(tmp_path.iterdir()) == []


def test_nothing_half_made_is_found(tmp_path):
    def fail(folder):
        (folder / "file").write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        find_or_make(tmp_path, {"a": 1}, fail)
    assert list(tmp_path.iterdir()) == []


def test_the_faster_process_wins(tmp_path):
    def make(folder):
        find_or_make(tmp_path, {"a": 1}, lambda other: (other / "file").write_text("first"))
        (folder / "file").write_text("second")

    assert (find_or_make(tmp_path, {"a": 1}, make) / "file").read_text() == "first"
    assert len(list(tmp_path.iterdir())) == 1


def test_tokenizers_are_told_apart(tokenizer):
    other = train_byte_level_bpe(["other text"], 270, show_progress=False)
    assert tokenizer_identity(tokenizer) != tokenizer_identity(other)
    before = tokenizer_identity(tokenizer)
    tokenizer("long text", truncation=True, max_length=2)
    TokenEncoder(tokenizer)(["text"])
    assert tokenizer_identity(tokenizer) == before


def test_errors(tokenizer, tmp_path):
    with pytest.raises(ValueError, match="There is no document to tokenise."):
        write_tokens(tmp_path, [], TokenEncoder(tokenizer))
    with pytest.raises(ValueError, match="processes=0 must be at least 1."):
        write_tokens(tmp_path, iter(PIECES), TokenEncoder(tokenizer), processes=0)

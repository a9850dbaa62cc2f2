"""Tokens come back as the tokenizer made them, and a second run finds those of the first."""

import pytest
import torch

from trine.tokenization.text_files import Piece
from trine.tokenization.training import train_byte_level_bpe
from trine.training.data import token_store
from trine.training.data.encoding import encode_batches
from trine.training.data.token_store import read_tokens, tokenizer_identity, write_tokens
from trine.training.data.word_cache import TokenEncoder


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


def test_files_that_do_not_belong_together(tokenizer, tmp_path):
    """Where nothing else has compared them: cut off, empty, or of another text."""
    write_tokens(tmp_path, iter(PIECES), TokenEncoder(tokenizer))
    good = {name: (tmp_path / name).read_bytes() for name in ("tokens", "ends", "piece_ends")}
    for name, content, message in (
        ("tokens", good["tokens"][:-3], "cut off"),
        ("tokens", good["tokens"][:-4], "closes with"),
        ("tokens", b"", "holds 0 tokens"),
        ("ends", b"", "has 0 bytes"),
        ("ends", good["ends"][8:16] + good["ends"][:8] + good["ends"][16:], "closes with"),
        ("piece_ends", good["piece_ends"][:-1], "cut off"),
        ("piece_ends", b"\xff" * 7 + b"\x7f", "closes with"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=message):
            read_tokens(tmp_path)
        (tmp_path / name).write_bytes(good[name])
    assert len(read_tokens(tmp_path).ends) == len(DOCUMENTS)


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

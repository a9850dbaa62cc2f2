"""Packing loses no token, mixes no split, and restarts positions where documents start."""

import pytest
import torch

from trine.tokenization.training import train_byte_level_bpe
from trine.training.packing import PackedBlocks, split_documents, tokenize_documents


DOCUMENTS = ["A first line.\nAnd more.", "二", "Text with <|endoftext|> in it.", "last"]


@pytest.fixture(scope="module")
def tokenizer():
    return train_byte_level_bpe(DOCUMENTS, 270, show_progress=False, model_max_length=4)


@pytest.mark.parametrize("batch_size", [1, 3, 512])
def test_the_stream_gives_the_documents_back(tokenizer, batch_size):
    tokens = tokenize_documents(iter(DOCUMENTS), tokenizer, batch_size=batch_size)
    assert tokens.dtype == torch.int32
    ends = (tokens == tokenizer.eos_token_id).nonzero().flatten().tolist()
    assert len(ends) == len(DOCUMENTS) and ends[-1] == len(tokens) - 1
    starts = [0] + [end + 1 for end in ends[:-1]]
    assert [tokenizer.decode(tokens[a:b]) for a, b in zip(starts, ends, strict=True)] == DOCUMENTS


def test_blocks_are_the_stream():
    tokens = torch.arange(23, dtype=torch.int32)
    data = PackedBlocks(tokens, 5)
    assert len(data) == 4
    assert torch.equal(torch.cat([item["input_ids"] for item in data]), torch.arange(20))
    assert all(
        torch.equal(item["input_ids"], item["labels"]) and set(item) == {"input_ids", "labels"} for item in data
    )


def test_a_memory_mapped_stream(tmp_path):
    torch.arange(12, dtype=torch.int32).numpy().tofile(tmp_path / "tokens")
    tokens = torch.from_file(str(tmp_path / "tokens"), size=12, dtype=torch.int32)
    assert PackedBlocks(tokens, 4)[2]["input_ids"].tolist() == [8, 9, 10, 11]


@pytest.mark.parametrize(
    ("block", "positions"),
    [
        ([5, 6, 9, 7, 8, 9, 4, 4], [0, 1, 2, 0, 1, 2, 0, 1]),
        ([9, 9, 9, 1, 2, 3, 4, 9], [0, 0, 0, 0, 1, 2, 3, 4]),
        ([1, 2, 3, 4, 5, 6, 7, 8], [0, 1, 2, 3, 4, 5, 6, 7]),
    ],
)
def test_positions_restart_after_a_separator(block, positions):
    assert PackedBlocks(torch.tensor(block), 8, separator_id=9)[0]["position_ids"].tolist() == positions


def test_split_keeps_documents_whole_and_near_the_fraction():
    documents = [chr(65 + number % 26) * (20 + number % 7) + str(number) for number in range(500)]
    train, validation = split_documents(documents, 0.1, seed=3)
    assert sorted(train + validation) == sorted(documents)
    assert sum(map(len, validation)) / sum(map(len, documents)) == pytest.approx(0.1, abs=0.01)
    assert (train, validation) == split_documents(documents, 0.1, seed=3)
    assert (train, validation) != split_documents(documents, 0.1, seed=4)
    assert max(documents.index(document) for document in validation) > 250 > documents.index(validation[0])


def test_split_of_one_long_document_cuts_its_end():
    lines = "".join(f"line {number}\n" for number in range(1000))
    (train,), (validation,) = split_documents([lines], 0.1)
    assert train + validation == lines and train.endswith("\n")
    assert len(validation) / len(lines) == pytest.approx(0.1, abs=0.01)


def test_errors(tokenizer):
    with pytest.raises(ValueError, match="has 3 tokens, fewer than one block of block_length=4"):
        PackedBlocks(torch.arange(3), 4)
    with pytest.raises(ValueError, match="block_length=1 must"):
        PackedBlocks(torch.arange(3), 1)
    with pytest.raises(ValueError, match=r"shape \(2, 2\)"):
        PackedBlocks(torch.zeros(2, 2), 2)
    with pytest.raises(ValueError, match="no document"):
        tokenize_documents([], tokenizer)
    with pytest.raises(ValueError, match=r"validation_fraction=1.5 must"):
        split_documents(DOCUMENTS, 1.5)
    with pytest.raises(ValueError, match="1 documents of 4 characters are too little"):
        split_documents(["text"], 0.1)
    with pytest.raises(ValueError, match="0 documents"):
        split_documents([], 0.1)


def test_a_tokenizer_without_eos():
    from tokenizers import Tokenizer
    from tokenizers.models import BPE
    from transformers import TokenizersBackend

    with pytest.raises(ValueError, match="no eos_token"):
        tokenize_documents(["text"], TokenizersBackend(tokenizer_object=Tokenizer(BPE())))

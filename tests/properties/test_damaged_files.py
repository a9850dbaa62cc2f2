"""A damaged file gives an error that says which, or what it gave before: never other weights, tokens or records."""

import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.damage import damages, overwritten
from support.random_models import REFUSALS
from support.tally import TALLY, Refused, budget
from support.tiny import SIZES, tiny_model
from support.translators import tiny_translator

from trine.tokenization.byte_level_bpe import train_byte_level_bpe
from trine.tokenization.record_files import READERS, read_records
from trine.tokenization.text_files import Piece
from trine.training.data.token_store import read_tokens, write_tokens
from trine.training.data.word_cache import TokenEncoder


ERRORS = (*REFUSALS, OSError)
SMALL = {"vocab_size": 13, "hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2, "num_hidden_layers": 2}
MODELS = {
    "decoder": lambda: tiny_model(**{**SIZES, **SMALL, "attention_types": "sliding, full"}, export_code=False),
    "sparse": lambda: tiny_model(**SMALL, mlp_layer_types="sparse", num_experts=3, export_code=False),
    "encoder": lambda: tiny_model(**SMALL, is_causal=False, type_vocab_size=2, export_code=False),
    "lstm": lambda: tiny_translator("recurrent", vocab_size=13, export_code=False),
}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Each model, and the folder that it is saved in, in several shards."""
    made = {}
    for name, make in MODELS.items():
        model, folder = make(), tmp_path_factory.mktemp(name)
        model.save_pretrained(folder, max_shard_size="6KB")
        made[name] = model, folder
    return made


def header_of(path: Path) -> int | None:
    """Bytes of a file in which a wrong bit can show. Those behind the header of weights are values like others."""
    return 8 + int.from_bytes(path.read_bytes()[:8], "little") if path.suffix == ".safetensors" else None


def damage_file(path: Path, damage) -> None:
    content = damage(path.read_bytes())
    path.unlink()
    if content is not None:
        path.write_bytes(content)


def test_a_damaged_checkpoint_never_loads_as_another(checkpoints, tmp_path):
    def check(name, position, damage):
        model, folder = checkpoints[name]
        copy = tmp_path / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(folder, copy)
        files = sorted(path for path in copy.iterdir() if path.name != "README.md")
        path = files[int(position * len(files))]
        header = header_of(path)
        content = path.read_bytes()
        head, tail = content[:header], content[header:] if header and damage[0].startswith("bit") else b""
        damage_file(path, lambda content: (damage[1](head) + tail) if tail else damage[1](content))
        try:
            loaded = type(model).from_pretrained(copy)
        except (
            *ERRORS,
            RuntimeError,
        ) as error:  # transformers' error of weights of another shape names them in a table
            text = f"{error} {error.__cause__}"
            named = (path.name, str(copy), "ignore_mismatched_sizes", "Trine", *model.config.to_dict())
            assert any(name in text for name in named), f"{path.name}: {text}"
            raise Refused from error
        saved = model.state_dict()
        for key, tensor in loaded.state_dict().items():
            assert key in saved and torch.equal(tensor, saved[key]), f"{path.name}: {key} is another"

    @budget(25, 500)
    @given(st.sampled_from(sorted(MODELS)), st.floats(0, 1, exclude_max=True, width=16), damages())
    def run(name, position, damage):
        TALLY.run("damaged checkpoints", check, name, position, damage)

    run()
    TALLY.close("damaged checkpoints")


RECORDS = {
    ".jsonl": '{"text": "one\\nline", "label": 1}\n{"text": "zwei \u00e9", "label": 2}\n{"text": "\u4e09"}\n'.encode(),
    ".json": '[{"text": "one", "label": 1}, {"text": "zwei \u00e9", "label": 2}]'.encode(),
    ".csv": 'text,label\n"one, and ""more""",1\n"two\nlines",2\nzwei \u00e9,3\n'.encode(),
}


def test_a_damaged_file_of_records_is_named(tmp_path):
    def check(ending, damage):
        path = tmp_path / f"records{ending}"
        path.write_bytes(RECORDS[ending])
        damage_file(path, damage[1])
        try:
            for number, record in read_records(path):
                assert number >= 1 and isinstance(record, str | dict), record
                raise_for(record)
        except ERRORS as error:
            assert path.name in str(error) or isinstance(error, FileNotFoundError), error
            raise Refused from error

    def raise_for(record):
        if isinstance(record, str):
            raise Refused(record)

    @budget(150, 2000)
    @given(st.sampled_from(sorted(RECORDS)), st.one_of(damages(), overwritten()))
    def run(ending, damage):
        TALLY.run("damaged records", check, ending, damage)

    assert set(RECORDS) <= set(READERS)
    run()
    TALLY.close("damaged records")


def test_a_damaged_store_of_tokens_is_named(tmp_path):
    documents = ["a first text", "and a second", "the last of them"]
    tokenizer = train_byte_level_bpe(documents, 262, show_progress=False)
    write_tokens(tmp_path, [Piece(n, text) for n, text in enumerate(documents)], TokenEncoder(tokenizer))
    good = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    expected = [tensor.clone() for tensor in read_tokens(tmp_path)]

    def check(name, damage):
        for file, content in good.items():
            (tmp_path / file).unlink(missing_ok=True)
            (tmp_path / file).write_bytes(content)
        damage_file(tmp_path / name, damage[1])
        try:
            store = read_tokens(tmp_path)
        except ERRORS as error:
            assert name in str(error) or str(tmp_path) in str(error), error
            raise Refused from error
        borders = [0, *store.ends.tolist()]
        assert all(start <= end for start, end in zip(borders, borders[1:], strict=False)), borders
        assert borders[-1] == len(store.tokens)
        if not damage[0].startswith(("bit", "zeros", "noise")):
            assert all(map(torch.equal, store, expected)), f"{name}: other tokens"

    @budget(100, 1000)
    @given(st.sampled_from(sorted(good)), damages())
    def run(name, damage):
        TALLY.run("damaged token stores", check, name, damage)

    run()
    TALLY.close("damaged token stores")

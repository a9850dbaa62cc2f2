"""Makes a tokenizer smaller: the pieces that some texts need stay, and cut these texts as before."""

import json
import re
import string
from array import array
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode


BATCH = 1000  # texts that are encoded at a time
FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")  # the others repeat the vocabulary


def find_kept(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], also: Iterable[int] = ()
) -> tuple[list[int], list["array[int]"]]:
    """The ids, in order, of the tokens that a smaller tokenizer needs to cut these texts as before.

    They are the tokens of the texts and what these are made of, all added and special tokens, those of bytes, and
    single characters of ASCII, so that other texts can be spelled.

    Args:
        also: Ids that stay in any case.

    Returns:
        The ids that stay, and those of each text.

    Raises:
        ValueError: The tokenizer is none of the library tokenizers, or of a kind that is not in `NEEDED`.
    """
    model = read_model(tokenizer)
    pieces = pieces_of(model)
    rows = [*encode_all(tokenizer, texts)]
    used = {token for row in rows for token in row}
    found = {*used, *also, *tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    marks, characters = [*find_marks(model)], spelling(tokenizer)
    found |= {token for piece, token in pieces.items() if spells(strip(piece, marks), characters)}
    found |= NEEDED[model["type"]](model, pieces, used, tokenizer, zip(texts, rows, strict=True))
    return sorted(found), rows


def encode_all(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> Iterator["array[int]"]:
    """The ids of each text."""
    for start in range(0, len(texts), BATCH):
        batch = list(texts[start : start + BATCH])
        rows: Any = tokenizer(batch, verbose=False)["input_ids"]
        yield from (array("q", row) for row in rows)


def read_model(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """The pieces of a tokenizer and how they are put together, as in the section `model` of `tokenizer.json`."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ValueError(f"{type(tokenizer).__name__} has no tokenizer.json, whose pieces could be left out.")
    model = json.loads(backend.to_str())["model"]
    if model["type"] not in NEEDED:
        raise ValueError(f"The tokenizer is of the type {model['type']!r}, which is not one of {[*NEEDED]}.")
    return model


def pieces_of(model: Mapping[str, Any]) -> dict[str, int]:
    """The ids of the pieces."""
    vocabulary = model["vocab"]
    if isinstance(vocabulary, dict):
        return vocabulary
    return {piece: token for token, (piece, _) in enumerate(vocabulary)}


def find_marks(model: Mapping[str, Any]) -> Iterator[str]:
    """The marks of where in a word a piece stands: ## and its like."""
    yield "\u2581"
    for name in ("continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(name):
            yield model[name]


def strip(piece: str, marks: Iterable[str]) -> str:
    """A piece without its marks."""
    for mark in marks:
        piece = piece.removeprefix(mark).removesuffix(mark)
    return piece


def spelling(tokenizer: Any) -> set[str]:
    """The characters that stay: those of ASCII, and for a byte-level tokenizer those that it writes bytes as."""
    is_byte_level = '"ByteLevel"' in tokenizer.backend_tokenizer.to_str()
    return {*string.printable, *(bytes_to_unicode().values() if is_byte_level else ())}


def spells(bare: str, characters: Collection[str]) -> bool:
    """Whether a piece without marks is a mark alone, one of these characters, or a byte such as <0x0A>."""
    return not bare or bare in characters or re.fullmatch("<0x[0-9A-F]{2}>", bare) is not None


def needed_by_unigram(model: Any, pieces: Mapping[str, int], *others: Any) -> set[int]:
    """The unknown piece, and the least probable one, which sets the price of unknown characters."""
    scores = [score for _, score in model["vocab"]]
    return {scores.index(min(scores)), *(() if model["unk_id"] is None else (model["unk_id"],))}


def needed_by_wordpiece(
    model: Any, pieces: Mapping[str, int], used: set[int], tokenizer: Any, encoded: Iterable[tuple[str, Sequence[int]]]
) -> set[int]:
    """The beginnings of words that end unknown: without them, a word may be cut otherwise and become known."""
    unknown, backend, found = pieces.get(model["unk_token"]), tokenizer.backend_tokenizer, set()
    if unknown not in used:
        return found
    for text, row in encoded:
        if unknown not in row:
            continue
        text = backend.normalizer.normalize_str(text) if backend.normalizer else text
        words = backend.pre_tokenizer.pre_tokenize_str(text) if backend.pre_tokenizer else [(text, None)]
        for word, _ in words:
            found |= beginnings(word, pieces, model["continuing_subword_prefix"])
    return found


def beginnings(word: str, pieces: Mapping[str, int], prefix: str) -> set[int]:
    """The pieces of a word, the longest first, up to where there is none."""
    found, start = set(), 0
    while start < len(word):
        mark = prefix if start else ""
        ends = (end for end in range(len(word), start, -1) if mark + word[start:end] in pieces)
        end = next(ends, None)
        if end is None:
            return found
        found.add(pieces[mark + word[start:end]])
        start = end
    return found


def needed_by_bpe(model: Any, pieces: Mapping[str, int], used: set[int], *others: Any) -> set[int]:
    """All pieces from which merges make the used ones, one after the other."""
    names = {token: piece for piece, token in pieces.items()}
    ranks = {merge: rank for rank, merge in enumerate(merges_of(model))}
    prefix, suffix = model.get("continuing_subword_prefix") or "", model.get("end_of_word_suffix") or ""
    steps = {step for token in used if token in names for step in derive(names[token], ranks, prefix, suffix)}
    return {pieces[step] for step in steps if step in pieces}


def merges_of(model: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The pairs that are merged, the first first; older files have each as one text."""
    pairs = (merge.split(" ", 1) if isinstance(merge, str) else merge for merge in model["merges"])
    return [(first, second) for first, second in pairs]


def derive(piece: str, ranks: Mapping[tuple[str, str], int], prefix: str, suffix: str) -> set[str]:
    """All pieces that occur while merges make a piece of its characters."""
    bare, ending = (piece.removesuffix(suffix), suffix) if suffix and piece.endswith(suffix) else (piece, "")
    opening = bare.startswith(prefix) and bool(prefix)
    bare = bare.removeprefix(prefix)
    symbols = [(prefix if place or opening else "") + character for place, character in enumerate(bare)]
    symbols[-1:] = [symbol + ending for symbol in symbols[-1:]]
    seen = {*symbols, piece}
    while len(symbols) > 1:
        pairs = enumerate(zip(symbols, symbols[1:], strict=False))
        rank, place = min((ranks.get(pair, len(ranks)), place) for place, pair in pairs)
        if rank == len(ranks):
            break
        symbols[place : place + 2] = [symbols[place] + symbols[place + 1].removeprefix(prefix)]
        seen.add(symbols[place])
    return seen


# What a kind of tokenizer needs besides the pieces of the texts: a function of its model, all pieces, the used ones,
# the tokenizer, and the texts with their ids.
NEEDED: dict[str, Callable[..., set[int]]] = {
    "BPE": needed_by_bpe,
    "Unigram": needed_by_unigram,
    "WordPiece": needed_by_wordpiece,
    "WordLevel": lambda *_: set(),
}


def shrink(tokenizer: PreTrainedTokenizerBase, kept: Sequence[int]) -> Any:
    """A tokenizer of the same class with these tokens alone, those of `find_kept`; a new id is a place among them."""
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    data, new = json.loads(backend.to_str()), {old: token for token, old in enumerate(kept)}
    model = data["model"]
    if isinstance(model["vocab"], dict):
        model["vocab"] = {piece: new[token] for piece, token in model["vocab"].items() if token in new}
    else:
        model["vocab"] = [model["vocab"][token] for token in kept if token < len(model["vocab"])]
        model["unk_id"] = new.get(model["unk_id"])
    if "merges" in model:
        left = model["vocab"].keys()
        prefix = model.get("continuing_subword_prefix") or ""
        merges = [(first, second) for first, second in merges_of(model) if {first, second} <= left]
        model["merges"] = [[*pair] for pair in merges if pair[0] + pair[1].removeprefix(prefix) in left]
    data["added_tokens"] = [{**token, "id": new[token["id"]]} for token in data["added_tokens"]]
    for part in ("post_processor", "padding"):
        data[part] = renumber(data[part], new)
    with TemporaryDirectory() as place:
        tokenizer.save_pretrained(place)
        for path in Path(place).iterdir():
            if path.name not in FILES:
                path.unlink()
        settings = json.loads((Path(place) / FILES[1]).read_text(encoding="utf-8"))
        settings.pop("added_tokens_decoder", None)  # tokenizer.json has them, with their new ids
        (Path(place) / FILES[1]).write_text(json.dumps(settings), encoding="utf-8")
        (Path(place) / FILES[0]).write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")
        return AutoTokenizer.from_pretrained(place)


def renumber(part: Any, new: Mapping[int, int]) -> Any:
    """A part of `tokenizer.json` with the new ids: those under `ids` and `pad_id`, and those in pairs with a token."""
    if isinstance(part, list):
        if len(part) == 2 and isinstance(part[0], str) and isinstance(part[1], int):  # of BERT and RoBERTa
            return [part[0], new[part[1]]]
        return [renumber(item, new) for item in part]
    if not isinstance(part, dict):
        return part
    rules = {"ids": lambda ids: [new[token] for token in ids], "pad_id": lambda token: new[token]}
    return {key: rules[key](value) if key in rules else renumber(value, new) for key, value in part.items()}

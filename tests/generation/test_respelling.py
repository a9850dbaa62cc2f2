"""What a model copies is spelled as in the source, although its tokenizer folds case."""

import pytest
import torch
from support.pointers import pointer_model

from trine import train_unigram, train_wordpiece
from trine.generation import Translator
from trine.generation.translation.respelling import folds_case, respell


SOURCE = (
    "SciPy is a Python library. It uses GTK+ (not Gtk+; GTK+!) and X11, header-only, 64-bit.\n"
    "Useful for Über-Graph's C++ API. See Node.Js and it 's Old-style, old - style."
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("scipy python library using gtk + and x11", "SciPy Python library using GTK+ and X11"),
        ("header - only , 64 - bit", "header-only, 64-bit"),
        ("uber - graph ' s api for c + +", "Über-Graph's API for C++"),
        ("it is useful", "it is useful"),  # both begin a sentence
        ("node. js", "Node.Js"),
        ("old - style", "Old - style"),  # either way in the source: as written
        ("new - style  words", "new - style words"),
        ("", ""),
    ],
)
def test_words_and_gaps_are_those_of_the_source(text, expected):
    assert respell(text, SOURCE) == expected
    assert respell(expected, SOURCE) == expected


def test_a_pointer_behind_a_tokenizer_that_folds_case(monkeypatch):
    texts = ["the Cat sat on a Mat", "The cat"]
    tokenizer = train_wordpiece(texts, vocab_size=400, show_progress=False)
    assert folds_case(tokenizer) and not folds_case(train_unigram(texts, vocab_size=400, show_progress=False))
    plain, copying = pointer_model(pointer_size=None), pointer_model()
    row = torch.tensor([[0, *tokenizer("the cat a mat", add_special_tokens=False)["input_ids"]]])
    monkeypatch.setattr(type(copying), "generate", lambda self, input_ids, **_: row.expand(len(input_ids), -1))
    assert Translator(copying, tokenizer)(texts) == ["the Cat a Mat", "the cat a mat"]
    assert Translator(plain, tokenizer)(texts[0]) == "the cat a mat"
    assert Translator(plain, tokenizer, respell=True)(texts[0]) == "the Cat a Mat"
    assert Translator(copying, tokenizer, respell=False)(texts[0]) == "the cat a mat"

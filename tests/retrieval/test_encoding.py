"""Texts are encoded in batches of about as many tokens, with the vectors that they have otherwise."""

import numpy as np
import pytest
from support.searches import tiny_encoder

from trine.retrieval import HybridSearch
from trine.retrieval.encoding import batch_of, encode_texts


TEXTS = ["red", "a bird " * 40, "", "the house " * 12, "red", "a lamp " * 300, "一只黑鸟" * 30]


def test_vectors_are_those_of_the_model(tmp_path):
    model = tiny_encoder(tmp_path)
    sizes = []

    def encode(texts, batch_size, **options):
        sizes.append(batch_size)
        return model.encode_document(texts, batch_size=batch_size, **options)

    expected = model.encode_document(TEXTS)
    assert encode_texts(encode, TEXTS, None, True, None) == pytest.approx(expected, abs=1e-5)
    assert sizes == [32, 4, 16, 2]
    for batch_size, is_cpu, used in ((5, True, 5), (None, False, 32)):
        sizes.clear()
        assert encode_texts(encode, TEXTS, batch_size, is_cpu, 9) == pytest.approx(expected, abs=1e-5)
        assert sizes == [used]
    assert encode_texts(encode, [], None, True, None).size == 0
    search = HybridSearch(model, {str(place): text for place, text in enumerate(TEXTS) if text})
    assert search.store._vectors == pytest.approx(
        model.encode_document([text for text in TEXTS if text], normalize_embeddings=True), abs=1e-5
    )
    assert search.store._vectors.dtype == np.float32


def test_sizes_of_batches():
    lengths = (0, 1, 64, 65, 128, 500, 511, 512, 1024, 1025, 100_000)
    assert [batch_of("a" * length) for length in lengths] == [32, 32, 32, 16, 16, 4, 4, 4, 2, 2, 2]
    assert [batch_of("a" * length, 32) for length in (64, 128, 500, 100_000)] == [32, 16, 16, 16]

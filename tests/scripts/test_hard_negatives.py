"""Hard negatives by BM25 and by vectors: the right ones, none of an anchor's own, and from the cache."""

import bm25s
import pytest
import torch
from sentence_transformers import SentenceTransformer
from support.tiny import SIZES

from trine import TrineConfig, TrineModel, train_wordpiece
from trine.retrieval.words import Words
from trine.scripts.arguments.hard_negatives import HardNegativeArguments
from trine.scripts.jobs import hard_negatives
from trine.scripts.jobs.hard_negatives import mine_rows


COLOURS, THINGS = ["red", "green", "blue", "white"], ["house", "horse", "river"]
PAIRS = [(f"{a} {b}", f"the {b} that is {a}{' and large' * (b == 'river')}") for a in COLOURS for b in THINGS]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """The folder of a small encoder."""
    folder = tmp_path_factory.mktemp("miner") / "encoder"
    tokenizer = train_wordpiece([text for pair in PAIRS for text in pair], 200, show_progress=False)
    torch.manual_seed(0)
    sizes = {**SIZES, "vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    TrineModel(TrineConfig(**sizes, is_causal=False)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def mine(tmp_path, pairs=PAIRS, number=3, seed=1, **options):
    return mine_rows(pairs, HardNegativeArguments(number, cache_dir=str(tmp_path / "cache"), **options), seed=seed)


def ranked_words(anchor):
    """All texts that BM25 finds for an anchor, by bm25s itself, as (score, text)."""
    texts, words = [text for _, text in PAIRS], Words()
    index = bm25s.BM25()
    index.index([words(text) for text in texts], show_progress=False)
    scores = index.get_scores(words(anchor))
    return [
        (score, texts[i])
        for score, i in sorted(zip(scores, range(len(texts)), strict=True), key=lambda x: (-x[0], x[1]))
    ]


def test_the_best_by_words_that_are_not_right(tmp_path, capsys):
    mined = mine(tmp_path)
    for (anchor, positive), row in zip(PAIRS, mined.rows, strict=True):
        assert row == (anchor, positive, *[text for _, text in ranked_words(anchor) if text != positive][:3])
    assert (mined.drawn, mined.miner) == (0, "BM25")
    assert "36 hard negatives for 12 pairs by BM25." in capsys.readouterr().out


def test_the_best_by_vectors_that_are_not_right(tmp_path, encoder):
    model, texts = SentenceTransformer(encoder), [text for _, text in PAIRS]
    similar = model.similarity(model.encode([anchor for anchor, _ in PAIRS]), model.encode(texts))
    for pair, row, scores in zip(PAIRS, mine(tmp_path, miner=encoder).rows, similar, strict=True):
        best = [texts[place] for place in scores.argsort(descending=True).tolist()]
        assert row == (*pair, *[text for text in best if text != pair[1]][:3])


@pytest.mark.parametrize("by", ["words", "vectors"])
def test_no_positive_of_an_anchor_nor_itself(tmp_path, encoder, by):
    pairs = [*PAIRS, ("red house", "the house that is green"), ("the river", "red house"), ("red house", "a red one")]
    mined = mine(tmp_path, pairs, number=6, miner=encoder if by == "vectors" else None)
    own = {text for anchor, text in pairs if anchor == "red house"} | {"red house"}
    for row, pair in zip(mined.rows, pairs, strict=True):
        assert row[:2] == pair
        assert len({*row[2:]}) == 6
        assert row[0] != "red house" or not own & {*row[2:]}


def test_what_is_skipped_and_drawn_among_the_next(tmp_path, encoder):
    best = mine(tmp_path, number=4).rows
    assert [row[2:] for row in mine(tmp_path, number=2, negatives_skip=2).rows] == [row[4:] for row in best]
    for miner in (None, encoder):
        seven = mine(tmp_path, number=6, miner=miner).rows
        drawn = [
            mine(tmp_path, number=2, seed=s, negatives_depth=6, negatives_skip=1, miner=miner).rows for s in (1, 2)
        ]
        assert drawn[0] != drawn[1]
        for rows in drawn:
            assert all({*row[2:]} <= {*whole[3:]} for row, whole in zip(rows, seven, strict=True))


def test_what_scores_nearly_as_the_positive_is_left_out(tmp_path):
    for row, (anchor, positive) in zip(mine(tmp_path, negatives_margin=0.5).rows, PAIRS, strict=True):
        scores = {text: score for score, text in ranked_words(anchor)}
        assert all(scores[text] <= scores[positive] / 2 for text in row[2:])


def test_too_few_found_are_filled_at_random(tmp_path, capsys):
    pairs = [("alpha", "alpha one"), ("beta", "beta two"), ("gamma", "gamma three"), ("delta", "delta four")]
    mined = mine(tmp_path, pairs, number=2)
    assert mined.drawn == 8
    assert all(len({*row}) == 4 and row[1] not in row[2:] for row in mined.rows)
    assert "8 of them drawn at random where it finds too few" in capsys.readouterr().out


def test_a_second_time_from_the_cache(tmp_path, monkeypatch):
    rows = mine(tmp_path).rows

    def search(*_):
        raise AssertionError("searched again")

    monkeypatch.setattr(hard_negatives, "search_words", search)
    assert mine(tmp_path).rows == rows
    for other in ({"number": 2}, {"seed": 2}, {"negatives_skip": 1}, {"pairs": PAIRS[:6]}):
        with pytest.raises(AssertionError, match="searched again"):
            mine(tmp_path, **other)


def test_more_than_there_are(tmp_path):
    with pytest.raises(ValueError, match=r"hard_negatives=12 are more than the 11 texts that are not right"):
        mine(tmp_path, number=12)
    assert len(mine(tmp_path, number=11).rows[0]) == 13


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hard_negatives": -1}, "hard_negatives=-1 must be at least 0"),
        ({"negatives_skip": -2}, "negatives_skip=-2 must be at least 0"),
        ({"negatives_margin": 1.0}, "negatives_margin=1.0 must be from 0 to below 1"),
        ({"hard_negatives": 3, "negatives_skip": 2, "negatives_depth": 4}, "negatives_depth=4 must be at least 5"),
    ],
)
def test_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        HardNegativeArguments(**fields)

"""Coverage in beam search: the formula over every possible output, beams that move, padding, and its limits."""

import math
from functools import partial

import pytest
import torch
from support import translators
from support.tiny import random_ids, tiny_model
from support.translators import EOS, every_target, pad_rows, read

from trine.generation.coverage import CoverageBeamSearch


tiny_translator = partial(translators.tiny_translator, attn="eager")  # coverage is counted from weights
KINDS = pytest.mark.parametrize("kind", ["transformer", "recurrent"])
VOCABULARY, LENGTH = 5, 4
# Beams enough for every unfinished sequence and every way to go on with it: then nothing is pruned.
ALL_BEAMS = VOCABULARY * (VOCABULARY - 1) ** (LENGTH - 1)
ROWS = [random_ids(length, seed=length) for length in (9, 3, 6)]


def scores(model, source, targets, penalty, length_penalty, head=None) -> list[float]:
    """Equation 14, token by token, with the library's length penalty."""
    log_probs, attention = read(model, source, targets)
    weights = (attention.mean(1) if head is None else attention[:, head]).tolist()
    found = []
    for row, target in enumerate(targets):
        steps = range(len(target))
        log_prob = sum(log_probs[row, step, target[step]].item() for step in steps)
        coverage = [sum(weights[row][step][position] for step in steps) for position in range(len(source))]
        logs = sum(math.log(min(share, 1.0)) for share in coverage)
        found.append(log_prob / len(target) ** length_penalty + penalty * logs)
    return found


def search(model, coverage=None, **settings):
    settings = {"num_beams": 4, "max_new_tokens": 8, "do_sample": False, "early_stopping": "never", **settings}
    return model.generate(**settings, custom_generate=coverage, output_scores=True, return_dict_in_generate=True)


def tokens_of(row: torch.Tensor) -> list[int]:
    """What was generated: after the start token, up to the first end token."""
    row = row.tolist()[1:]
    return row[: row.index(EOS) + 1] if EOS in row else row


@KINDS
@pytest.mark.parametrize(("penalty", "length_penalty"), [(0.2, 1.0), (1.0, 0.0), (0.5, 2.0), (3.0, 0.6)])
def test_wide_beams_find_the_best_of_all_sequences(penalty, length_penalty, kind):
    model = tiny_translator(kind, vocab_size=VOCABULARY)
    source = torch.tensor([3, 4, 3, 1, 0])
    outputs = search(
        model,
        CoverageBeamSearch(penalty),
        input_ids=source[None],
        num_beams=ALL_BEAMS,
        num_return_sequences=12,
        max_new_tokens=LENGTH,
        length_penalty=length_penalty,
    )
    targets = every_target(VOCABULARY, LENGTH)
    every = scores(model, source, targets, penalty, length_penalty)
    best = sorted(zip(every, targets, strict=True), reverse=True)[:12]
    assert [tokens_of(row) for row in outputs.sequences] == [target for _, target in best]
    expected = torch.tensor([score for score, _ in best], dtype=torch.float64)
    torch.testing.assert_close(outputs.sequences_scores.double(), expected, rtol=0, atol=1e-6)


def test_coverage_changes_which_sequence_is_best():
    """Or the test above could not fail."""
    model = tiny_translator(vocab_size=VOCABULARY)
    found = [
        search(model, CoverageBeamSearch(p), input_ids=torch.tensor([[3, 4, 3, 1, 0]]), max_new_tokens=LENGTH)
        for p in (0.0, 3.0)
    ]
    assert tokens_of(found[0].sequences[0]) != tokens_of(found[1].sequences[0])


@KINDS
@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("side", ["left", "right"])
def test_scores_are_those_of_the_sequences_where_beams_move_and_sources_are_padded(side, use_cache, kind):
    model = tiny_translator(kind)
    settings = {"num_return_sequences": 3, "length_penalty": 0.6, "use_cache": use_cache}
    outputs = search(model, CoverageBeamSearch(0.7), **pad_rows(ROWS, side), **settings)
    assert outputs.beam_indices.unique().numel() > 3, "no beam has moved"
    for index, sequence in enumerate(outputs.sequences):
        (expected,) = scores(model, ROWS[index // 3], [tokens_of(sequence)], 0.7, 0.6)
        assert outputs.sequences_scores[index].item() == pytest.approx(expected, abs=2e-6)


@KINDS
def test_a_padded_row_equals_the_row_alone(kind):
    model = tiny_translator(kind)
    batch = search(model, CoverageBeamSearch(0.7), **pad_rows(ROWS))
    for row, sequence in zip(ROWS, batch.sequences, strict=True):
        alone = search(model, CoverageBeamSearch(0.7), input_ids=row[None])
        assert tokens_of(sequence) == tokens_of(alone.sequences[0])


@KINDS
@pytest.mark.parametrize(
    "settings",
    [
        {"num_return_sequences": 4},
        {"length_penalty": -1.0, "early_stopping": False},
        {"early_stopping": True, "repetition_penalty": 1.3},
        {"do_sample": True, "temperature": 2.0},
    ],
    ids=["several", "length penalty", "early stopping", "sampling"],
)
def test_without_a_penalty_it_is_the_librarys_beam_search(settings, kind):
    model, source = tiny_translator(kind), pad_rows(ROWS)
    found = []
    for coverage in (None, CoverageBeamSearch(0.0), CoverageBeamSearch(1e-12)):
        torch.manual_seed(0)
        found.append(search(model, coverage, **source, **settings))
    for other in found[1:]:
        assert torch.equal(other.sequences, found[0].sequences)
    assert torch.equal(found[1].sequences_scores, found[0].sequences_scores)
    torch.testing.assert_close(found[2].sequences_scores, found[0].sequences_scores)


def test_a_given_beginning_of_the_target_neither_covers_nor_counts():
    model, source = tiny_translator(), ROWS[0]
    start = torch.tensor([[1, 7, 9]])
    outputs = search(model, CoverageBeamSearch(0.7), input_ids=source[None], decoder_input_ids=start)
    target = tokens_of(outputs.sequences[0])
    assert target[:2] == [7, 9]
    log_probs, attention = read(model, source, [target])
    new = range(2, len(target))
    log_prob = sum(log_probs[0, step, target[step]].item() for step in new)
    coverage = attention[0].mean(0)[2:].sum(0).clamp(max=1).log().sum().item()
    assert outputs.sequences_scores[0].item() == pytest.approx(log_prob / len(new) + 0.7 * coverage, abs=2e-6)


def test_a_head_or_another_layer_can_be_chosen():
    model, source = tiny_translator(), ROWS[0]
    outputs = search(model, CoverageBeamSearch(0.7, head=2), input_ids=source[None])
    (expected,) = scores(model, source, [tokens_of(outputs.sequences[0])], 0.7, 1.0, head=2)
    assert outputs.sequences_scores[0].item() == pytest.approx(expected, abs=2e-6)
    others = [search(model, CoverageBeamSearch(0.7, layer=layer), input_ids=source[None]) for layer in (0, 1)]
    assert others[0].sequences_scores[0] != others[1].sequences_scores[0]


SOURCE = {"input_ids": ROWS[0][None]}
ERRORS = {
    "negative": (lambda: CoverageBeamSearch(-0.1), "penalty=-0.1 must be a finite number of at least 0."),
    "nan": (lambda: CoverageBeamSearch(math.nan), "penalty=nan must be a finite number of at least 0."),
    "decoder": (
        lambda: search(tiny_model(), CoverageBeamSearch(0.2), **SOURCE),
        "TrineForCausalLM is a decoder alone: it has no source to cover.",
    ),
    "one beam": (
        lambda: search(tiny_translator(), CoverageBeamSearch(0.2), num_beams=1, early_stopping=False, **SOURCE),
        "num_beams=1 leaves nothing to rank by coverage: choose 2 or more.",
    ),
    "no weights": (
        lambda: search(translators.tiny_translator(), CoverageBeamSearch(0.2), **SOURCE),
        "TrineForConditionalGeneration returns no attention weights, from which coverage is counted. Load it with "
        "attn_implementation='eager' (now it is 'sdpa'); a recurrent model needs attention='dot'.",
    ),
    "no attention": (
        lambda: search(tiny_translator("recurrent", attention="none"), CoverageBeamSearch(0.2), **SOURCE),
        "TrineRecurrentForConditionalGeneration returns no attention weights, from which coverage is counted. ",
    ),
    "layer": (
        lambda: search(tiny_translator(), CoverageBeamSearch(0.2, layer=2), **SOURCE),
        "layer=2 is not one of -2 to 1.",
    ),
    "head": (
        lambda: search(tiny_translator(), CoverageBeamSearch(0.2, head=-5), **SOURCE),
        "head=-5 is not one of -4 to 3.",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_bad_options_are_named(case):
    call, message = ERRORS[case]
    with pytest.raises(ValueError) as caught:
        call()
    assert str(caught.value).startswith(message)

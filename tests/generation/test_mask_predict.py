"""Mask-predict: one step by hand, the least probable tokens, lengths, and two tasks that are learned."""

import math

import pytest
import torch
from support.tiny import SIZES
from torch import nn
from transformers import AutoModelForSeq2SeqLM
from transformers.modeling_outputs import Seq2SeqLMOutput

from trine import TrineForConditionalGeneration, TrineSeq2SeqConfig, train_byte_level_bpe, train_unigram
from trine.generation.mask_predict import (
    MaskPredict,
    candidate_lengths,
    keep_settings,
    least_probable,
    length_log_probs,
)
from trine.training.objectives.masked_targets import IGNORE_INDEX, MaskedTargetCollator, draw_masks


PAD, START, END, MASK = 0, 1, 2, 3
TOKENS = {"pad_token_id": PAD, "bos_token_id": START, "eos_token_id": END}


def make_model(**fields) -> TrineForConditionalGeneration:
    torch.manual_seed(0)
    stack = {**SIZES, "vocab_size": 20, "hidden_size": 64, "position_type": "learned", "norm_type": "layernorm"}
    config = TrineSeq2SeqConfig(encoder=stack, decoder={**stack, **TOKENS}, decoder_is_causal=False, **fields)
    return TrineForConditionalGeneration(config)


class Recited(nn.Module):
    """Answers every pass with the next of some probabilities, whatever it reads, and keeps what it read."""

    def __init__(self, passes: list[torch.Tensor]):
        super().__init__()
        self.passes, self.read, self.masks = passes, [], []

    def forward(self, decoder_input_ids, decoder_attention_mask, **kwargs) -> Seq2SeqLMOutput:
        self.masks.append(decoder_attention_mask)
        self.read.append(decoder_input_ids.tolist())
        return Seq2SeqLMOutput(logits=self.passes[len(self.read) - 1].log())  # pyright: ignore


def probabilities(*rows: dict[int, float]) -> torch.Tensor:
    """(1, T, 10): what each row names, the rest shared by ids 8 and 9 half and half."""
    table = torch.zeros(1, len(rows), 10)
    for place, row in enumerate(rows):
        table[0, place, 8:] = (1 - sum(row.values())) / 2
        for token, value in row.items():
            table[0, place, token] = value
    return table


def test_two_refinements_by_hand():
    """Four tokens and the end in three iterations: 4, then floor(4 * 2 / 3) = 2, then floor(4 / 3) = 1 are set."""
    passes = [
        probabilities({4: 0.9}, {5: 0.6}, {6: 0.7}, {7: 0.8}, {END: 1.0}),
        probabilities({9: 0.2, 4: 0.7}, {4: 0.65}, {5: 0.95}, {5: 0.9}, {END: 1.0}),
        probabilities({5: 0.9}, {7: 0.75}, {7: 0.99}, {7: 0.99}, {END: 1.0}),
    ]
    model = Recited(passes)
    special = {"end": END, "padding": PAD, "never": [PAD, START, END]}
    target, scores = MaskPredict(iterations=3).refine(model, {}, torch.tensor([5]), MASK, special)
    assert model.read == [
        [[MASK, MASK, MASK, MASK, END]],
        [[4, MASK, MASK, 7, END]],  # 0.6 and 0.7 were the least
        [[4, MASK, 5, 7, END]],  # of 0.9, 0.65, 0.95 and 0.8 it is 0.65
    ]
    assert target.tolist() == [[4, 7, 5, 7, END]]
    assert scores.item() == pytest.approx(math.log(0.9) + math.log(0.75) + math.log(0.95) + math.log(0.8))


def test_special_tokens_are_never_written_and_padding_is_not_read():
    table = probabilities({MASK: 0.5, 4: 0.2}, {END: 0.6, 5: 0.3}, {PAD: 0.9}).repeat(2, 1, 1)
    table[:, 2] = 0.1
    model = Recited([table])
    special = {"end": END, "padding": PAD, "never": [PAD, START, END]}
    target, scores = MaskPredict(iterations=1).refine(model, {}, torch.tensor([3, 2]), MASK, special)
    assert target.tolist() == [[4, 5, END], [4, END, PAD]]
    assert model.masks[0].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert scores[1].item() == pytest.approx(math.log(0.2 / 0.5)), "of what may be written"


def test_the_least_probable_are_masked():
    log_probs = torch.tensor([[-3.0, -1.0, -2.0, 0.0], [-1.0, -5.0, -9.0, 0.0]])
    written = torch.tensor([[True, True, True, False], [True, True, False, False]])
    expected = [[True, False, True, False], [False, True, False, False]]
    assert least_probable(log_probs, written, torch.tensor([2, 1])).tolist() == expected
    assert torch.equal(least_probable(log_probs, written, torch.tensor([3, 2])), written)


def test_lengths_are_tried_from_the_expected_one():
    assert candidate_lengths(torch.tensor([6.4, 2.6]), 5, 7).tolist() == [[6, 7, 5, 7, 4], [3, 4, 2, 5, 2]]
    lengths, expected = torch.tensor([[3, 4]]), torch.tensor([3.5])
    normal = torch.distributions.Normal(expected[:, None], 2.0)
    difference = normal.log_prob(lengths.float()) - length_log_probs(lengths, expected, 2.0)
    torch.testing.assert_close(difference[:, 0], difference[:, 1])


CHANCE_OF_COPY = {"reverse": 0.0, "either": 0.5}


def pairs(size: int, seed: int, task: str) -> list[dict[str, list[int]]]:
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for _ in range(size):
        length = int(torch.randint(3, 8, (), generator=generator))
        tokens = torch.randint(4, 20, (length,), generator=generator).tolist()
        copies = bool(torch.rand((), generator=generator) < CHANCE_OF_COPY[task])
        rows.append({"input_ids": [*tokens, END], "labels": [*(tokens if copies else tokens[::-1]), END]})
    return rows


class Padding:
    """As much of a tokenizer as the collator needs."""

    mask_token_id, eos_token_id, pad_token_id, padding_side = MASK, END, PAD, "right"

    def pad(self, features, return_tensors=None, **kwargs):
        rows = [torch.tensor(feature["input_ids"]) for feature in features]
        ids = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD)
        return {"input_ids": ids, "attention_mask": (ids != PAD).long()}


def learn(task: str, steps: int) -> TrineForConditionalGeneration:
    model = make_model()
    collate = MaskedTargetCollator(Padding())  # pyright: ignore
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for step in range(steps):
        loss = model(**collate(pairs(64, step, task))).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    keep_settings(model.eval(), mask_token_id=MASK, length_ratio=1.0, length_spread=0.1)
    return model


@pytest.fixture(scope="module")
def learned():
    """A model that has learned a task, and the task."""
    return learn("reverse", 450), "reverse"


def share_right(model, task: str, **settings) -> float:
    examples = pairs(200, 10**6, task)
    batch = Padding().pad(examples)
    made = model.generate(
        batch["input_ids"],
        attention_mask=batch["attention_mask"],
        max_new_tokens=12,
        custom_generate=MaskPredict(**settings),
    )
    right = 0
    for row, example in zip(made.tolist(), examples, strict=True):
        *tokens, end = example["input_ids"]
        answers = {"reverse": [tokens[::-1]], "either": [tokens, tokens[::-1]]}[task]
        right += [id for id in row[1:] if id != PAD] in [[*answer, end] for answer in answers]
    return right / len(examples)


@pytest.mark.slow
def test_short_sequences_are_learned(learned):
    """Those of 3 to 7 tokens that were never seen; the source tells all, so that more iterations are no worse."""
    one, four = (share_right(*learned, iterations=number) for number in (1, 4))
    assert one >= 0.95 and four >= one


@pytest.mark.slow
def test_iterations_make_one_answer_where_two_are_right():
    """A target is its source or the reverse of it. In one pass every token is set without knowledge of the others."""
    model = learn("either", 400)
    one, ten = (share_right(model, "either", iterations=number) for number in (1, 10))
    assert ten > one + 0.15


@pytest.mark.slow
def test_a_saved_model_keeps_its_settings_and_scores_are_returned(learned, tmp_path):
    model, task = learned
    model.save_pretrained(tmp_path)
    again = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    assert not again.config.decoder.is_causal
    batch = Padding().pad(pairs(9, 10**6, task))
    inputs = {"inputs": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    expected = model.generate(**inputs, custom_generate=MaskPredict())
    outputs = again.generate(**inputs, custom_generate=MaskPredict(), return_dict_in_generate=True)
    assert torch.equal(outputs.sequences, expected)
    assert outputs.sequences_scores.shape == (9,) and (outputs.sequences_scores <= 0).all()


def test_a_batch_equals_its_rows():
    """Sources of different lengths, and candidates, change nothing for each other."""
    model = make_model().double().eval()
    settings = MaskPredict(iterations=3, length_candidates=3, length_ratio=1.2, mask_token_id=MASK)
    batch = Padding().pad(pairs(5, 3, "reverse"))
    inputs = {"inputs": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    together = model.generate(**inputs, custom_generate=settings)
    for row, source, mask in zip(together, batch["input_ids"], batch["attention_mask"], strict=True):
        alone = model.generate(source[mask.bool()][None], custom_generate=settings)[0]
        assert torch.equal(row[: len(alone)], alone) and not row[len(alone) :].any()


def test_the_decoder_reads_both_sides():
    """A change of the last target token changes the first logits, but not those of a causal decoder."""
    source = torch.tensor([[5, 6, 7, END]])
    targets = torch.tensor([[MASK, 5, 6, END]]), torch.tensor([[MASK, 5, 9, END]])
    for causal in (False, True):
        model = make_model().double().eval()
        if causal:
            config = TrineSeq2SeqConfig.from_dict({**model.config.to_dict(), "decoder_is_causal": True})
            model = TrineForConditionalGeneration(config).double().eval()
        first, other = (model(input_ids=source, decoder_input_ids=target).logits[:, 0] for target in targets)
        assert torch.equal(first, other) == causal


# The objective


def test_any_number_of_tokens_is_masked_but_not_the_end():
    """Each number from 1 to n as often, within five standard deviations; each place as often."""
    torch.manual_seed(0)
    masked = draw_masks(torch.full((6000,), 5), 7)
    assert not masked[:, 5:].any()
    counts = masked.sum(dim=1).bincount(minlength=6)
    assert counts[0] == 0
    assert (counts[1:] - 1200).abs().max() < 5 * math.sqrt(6000 * 0.2 * 0.8)
    places = masked[:, :5].sum(dim=0)
    assert (places - 3600).abs().max() < 5 * math.sqrt(6000 * 0.6 * 0.4)
    assert not draw_masks(torch.tensor([0, 0]), 3).any()


def test_batches_hold_masks_and_what_they_hide():
    tokenizer = train_unigram(["It's the reader who reads a line."] * 9, 400, show_progress=False)
    rows = [{"input_ids": tokenizer(text)["input_ids"]} for text in ("the reader", "a")]
    rows = [{**row, "labels": [*row["input_ids"]]} for row in rows]
    batch = MaskedTargetCollator(tokenizer)(rows)
    hidden = batch["labels"] != IGNORE_INDEX
    for number, row in enumerate(rows):
        length = len(row["labels"])
        restored = torch.where(hidden[number], batch["labels"][number], batch["decoder_input_ids"][number])
        assert restored[:length].tolist() == row["labels"]
        assert batch["decoder_attention_mask"][number].sum() == length
        assert 1 <= hidden[number].sum() < length and not hidden[number, length - 1 :].any()
    assert (batch["decoder_input_ids"][hidden] == tokenizer.mask_token_id).all()


# Errors


def generate_with(custom_generate, causal: bool = False, **options):
    model = make_model().eval()
    model.config.decoder_is_causal = causal
    return model.generate(torch.tensor([[5, END]]), custom_generate=custom_generate, **options)


GIVEN = MaskPredict(length_ratio=1.0, mask_token_id=MASK)
CASES = {
    "iterations=0 must be at least 1": lambda: MaskPredict(iterations=0),
    "length_candidates=0 must be at least 1": lambda: MaskPredict(length_candidates=0),
    "length_ratio=0 must be a finite number above 0": lambda: MaskPredict(length_ratio=0),
    "length_spread=-1.0 must be a finite number above 0": lambda: MaskPredict(length_spread=-1.0),
    "mask_token_id is neither given to MaskPredict nor": lambda: generate_with(MaskPredict()),
    "length_ratio is neither given to MaskPredict nor": lambda: generate_with(MaskPredict(mask_token_id=MASK)),
    "decoder_is_causal=True: mask-predict needs": lambda: generate_with(GIVEN, causal=True),
    "num_beams=2 has no meaning in mask-predict": lambda: generate_with(GIVEN, num_beams=2),
    "do_sample=True has no meaning": lambda: generate_with(GIVEN, do_sample=True),
    "decoder_input_ids has 2 tokens": lambda: generate_with(GIVEN, decoder_input_ids=torch.tensor([[1, 5]])),
    "logits_processor=.'NoRepeatNGramLogitsProcessor'.": lambda: generate_with(GIVEN, no_repeat_ngram_size=2),
    "max_length=2 leaves no place": lambda: generate_with(GIVEN, max_new_tokens=1),
    "eos_token_id=None and pad_token_id=0 are both needed": lambda: generate_with(GIVEN, eos_token_id=None),
    "decoder_is_causal=False: the decoder reads both sides of a token": lambda: generate_with(None),
    "so that labels alone would show it": lambda: make_model()(
        input_ids=torch.tensor([[5, END]]), labels=torch.tensor([[5, END]])
    ),
    "The tokenizer has no .'mask_token_id'.": lambda: MaskedTargetCollator(
        train_byte_level_bpe(["a b"], 270, show_progress=False)
    ),
    "labels end with .5., not with eos_token_id=2": lambda: MaskedTargetCollator(Padding())(  # pyright: ignore
        [{"input_ids": [5, END], "labels": [5]}]
    ),
}


@pytest.mark.parametrize("message", CASES)
def test_errors_name_what_is_wrong(message):
    with pytest.raises(ValueError, match=message):
        CASES[message]()

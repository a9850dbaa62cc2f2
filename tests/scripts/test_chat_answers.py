"""Answers to held-out conversations: which are held out, what is written, how it is scored."""

import pytest
import torch
from support.tiny import tiny_model

from trine import train_byte_level_bpe
from trine.scripts.finetune_lora import leave_held_out
from trine.scripts.jobs.answers import Answer, answers_of, score_answers, write_answers


def example(*turns):
    """A conversation in which a question is a number, and its answer the number after it."""
    ids = [token for turn in turns for token in (turn, turn + 1)]
    labels = [label for turn in turns for label in (-100, turn + 1)]
    return {"input_ids": ids, "labels": labels}


def test_answers_are_runs_of_labels():
    assert answers_of({"input_ids": [0] * 8, "labels": [-100, -100, 5, 6, -100, 7, -100, -100]}) == [(2, 4), (5, 6)]
    assert answers_of({"input_ids": [0] * 3, "labels": [-100, 5, 6]}) == [(1, 3)]


HELLO = 10


def test_conversations_that_begin_alike_are_kept_and_those_that_are_asked_again_are_not():
    held_out = [example(HELLO, 20), example(30)]
    kept = [example(HELLO, 40), example(50), example(20), example(HELLO, 40, 20)]
    left = [example(HELLO, 20), example(HELLO, 20, 60), example(30, 40), example(30), example(HELLO)]
    assert leave_held_out([*kept, *left], held_out) == kept


@pytest.mark.parametrize("positions", ["rope", "learned"])
def test_what_is_written_is_what_generate_writes_one_by_one(positions):
    tokenizer = train_byte_level_bpe(["the cat sat on the mat"], vocab_size=300, show_progress=False)
    model = tiny_model(
        vocab_size=len(tokenizer), position_type=positions, max_position_embeddings=24, dtype=torch.float32
    ).eval()
    prompts = [tokenizer(text).input_ids for text in ("the cat sat on", "on", "the cat")]
    target = tokenizer("the mat").input_ids + [tokenizer.eos_token_id]
    alone = [
        model.generate(torch.tensor([ids]), max_new_tokens=6, do_sample=False)[0, len(ids) :].tolist()
        for ids in prompts
    ]
    model.generation_config.eos_token_id = alone[1][-1]  # the second answer ends, and others where they have it
    found = write_answers(model, tokenizer, [(ids, target) for ids in prompts], max_new_tokens=6, batch_size=2)
    for ids, answer, prompt in zip(alone, found, prompts, strict=True):
        ended = alone[1][-1] in ids
        until = ids[: ids.index(alone[1][-1]) + 1] if ended else ids
        texts = tokenizer.batch_decode([prompt, until], skip_special_tokens=True)
        assert answer == Answer(*texts, "the mat", ended)
    full = [3] * 24  # as long as the model: one token can follow
    (answer,) = write_answers(model, tokenizer, [(full, target)], max_new_tokens=6)
    room = 1 if positions == "learned" else 6
    ids = model.generate(torch.tensor([full]), max_new_tokens=room, do_sample=False)[0, len(full) :]
    assert answer.text == tokenizer.decode(ids, skip_special_tokens=True)


def test_scores_are_shares_of_the_answers():
    answers = [Answer("?", text, "a cat", ended) for text, ended in ((" a cat", True), ("a dog", True), ("a", False))]
    scores, intervals = score_answers(answers, ["ended", "exact", "rouge"])
    assert scores["exact"] == pytest.approx(100 / 3) and scores["ended"] == pytest.approx(200 / 3)
    assert scores["ROUGE-1"] == pytest.approx(100 * (1 + 1 / 2 + 2 / 3) / 3)
    assert intervals.keys() == {"exact", "ended"} and intervals["exact"][0] < scores["exact"] < intervals["exact"][1]

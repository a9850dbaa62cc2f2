"""Encoder-decoders stream what they return, and guessing ahead changes nothing; recurrent ones refuse to guess."""

import threading

import pytest
import torch
from support.tiny import random_ids
from support.translators import EOS, pad_rows, tiny_translator
from transformers import TextIteratorStreamer, TextStreamer


KINDS = pytest.mark.parametrize("kind", ["transformer", "recurrent"])
SHAPES = {
    "full": {},
    "windows": {"attention_types": "sliding, chunked", "num_hidden_layers": 2},
    "sparse": {"mlp_layer_types": "sparse"},
    "relative": {"position_type": "relative"},
}
SOURCE = pad_rows([random_ids(9)])
NEW_TOKENS = 14


class Spelled:
    """A tokenizer that spells tokens as their numbers, a line each."""

    def decode(self, ids, **settings):
        return "".join(f"{token}\n" for token in ids)


def generate(model, **settings):
    torch.manual_seed(0)
    settings = {"max_new_tokens": NEW_TOKENS, "do_sample": False, "eos_token_id": None, **SOURCE, **settings}
    return model.generate(**settings, output_logits=True, return_dict_in_generate=True)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("guess", ["good assistant", "bad assistant", "lookup"])
def test_guesses_change_nothing(guess, shape):
    model = tiny_translator(**SHAPES[shape])
    settings = {"prompt_lookup_num_tokens": 3}
    if guess != "lookup":
        assistant = tiny_translator(**SHAPES[shape]) if guess == "good assistant" else tiny_translator(seed=7)
        assistant.generation_config.num_assistant_tokens = 4
        assistant.generation_config.assistant_confidence_threshold = 0.0  # it always guesses so many
        settings = {"assistant_model": assistant}
    passes = []
    handle = model.model.decoder.register_forward_pre_hook(lambda *args: passes.append(1))
    actual = generate(model, **settings)
    handle.remove()
    expected = generate(model, use_cache=False)
    assert torch.equal(actual.sequences, expected.sequences)
    for step, other in zip(actual.logits, expected.logits, strict=True):
        torch.testing.assert_close(step, other, rtol=1e-5, atol=1e-5)
    if guess == "good assistant":
        assert len(passes) <= 5
    assert len(set(actual.sequences[0].tolist())) > 3, "no repetition, which would hide errors"


def test_guesses_of_a_copy_leave_a_padded_source_alone():
    """The assistant reads the same mask."""
    model = tiny_translator()
    padded = {
        "input_ids": torch.nn.functional.pad(SOURCE["input_ids"], (3, 0), value=5),
        "attention_mask": torch.nn.functional.pad(SOURCE["attention_mask"], (3, 0)),
    }
    assisted = generate(model, **padded, assistant_model=tiny_translator())
    assert torch.equal(assisted.sequences, generate(model).sequences)


@pytest.mark.parametrize(
    "settings", [{"prompt_lookup_num_tokens": 3}, {"assistant_model": 0}], ids=["lookup", "model"]
)
def test_a_recurrent_model_refuses_to_guess(settings):
    if "assistant_model" in settings:
        settings = {"assistant_model": tiny_translator("recurrent")}
    with pytest.raises(ValueError, match="assisted generation is not supported with stateful models, such as Trine"):
        generate(tiny_translator("recurrent"), **settings)


@KINDS
@pytest.mark.parametrize("beams", [1, 3])
def test_a_returned_cache_can_be_continued_without_a_mask_of_the_target(beams, kind):
    model = tiny_translator(kind)
    first = generate(model, max_new_tokens=6)
    target = torch.cat([first.sequences, random_ids(1, 4, seed=8)], dim=1)
    cache = first.past_key_values
    cache.batch_repeat_interleave(beams)
    continued = generate(model, decoder_input_ids=target, past_key_values=cache, num_beams=beams)
    expected = generate(model, decoder_input_ids=target, use_cache=False, num_beams=beams)
    assert torch.equal(continued.sequences, expected.sequences)


@KINDS
@pytest.mark.parametrize("settings", [{}, {"do_sample": True, "temperature": 2.0}], ids=["greedy", "sampling"])
def test_what_streams_is_what_is_returned(settings, kind, capsys):
    model = tiny_translator(kind)
    outputs = generate(model, streamer=TextStreamer(Spelled()), **settings)
    assert [int(line) for line in capsys.readouterr().out.split()] == outputs.sequences[0].tolist()


@KINDS
def test_another_thread_reads_the_stream_while_it_runs(kind):
    model, streamer = tiny_translator(kind), TextIteratorStreamer(Spelled(), skip_prompt=True, timeout=60)
    end = generate(model).sequences[0, 6].item()
    thread = threading.Thread(target=generate, args=(model,), kwargs={"streamer": streamer, "eos_token_id": end})
    thread.start()
    tokens = [int(line) for line in "".join(streamer).split()]
    thread.join()
    expected = generate(model, eos_token_id=end).sequences[0, 1:].tolist()
    assert tokens == expected and tokens[-1] == end and len(tokens) < NEW_TOKENS


@KINDS
def test_beams_do_not_stream(kind):
    with pytest.raises(ValueError, match="`streamer` cannot be used with beam search"):
        generate(tiny_translator(kind), streamer=TextStreamer(Spelled()), num_beams=2)


def test_the_end_token_ends_assisted_decoding_too():
    model = tiny_translator()
    assert EOS not in generate(model).sequences
    end = generate(model).sequences[0, 5].item()
    plain = generate(model, eos_token_id=end, pad_token_id=0)
    assisted = generate(model, eos_token_id=end, pad_token_id=0, assistant_model=tiny_translator())
    assert torch.equal(plain.sequences, assisted.sequences) and plain.sequences[0, -1] == end

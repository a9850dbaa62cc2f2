"""Which tokens of an instruction are learned, told by hand."""

import re

import pytest
from transformers import AutoTokenizer

from trine import train_byte_level_bpe, train_unigram, train_wordpiece
from trine.training.objectives.instructions import encode_completion, encode_conversation


TEXTS = ["two and two is four", "what is one and one?", "one and one is two"]
MESSAGES = [
    {"role": "system", "content": "be short"},
    {"role": "user", "content": "one and one?"},
    {"role": "assistant", "content": "two"},
    {"role": "user", "content": "and one?"},
    {"role": "assistant", "content": " three"},
]
# ChatML without marks of what is generated, as most published templates are.
UNMARKED = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer():
    return train_byte_level_bpe(TEXTS, 280, chat_template="chatml", show_progress=False)


@pytest.fixture
def unmarked(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    tokenizer.chat_template = UNMARKED
    return tokenizer


def learned(tokenizer, example):
    """The pieces of text that have labels, joined where they are neighbours; the others as None between them."""
    pieces = [""]
    for token, label in zip(example["input_ids"], example["labels"], strict=True):
        assert label in (-100, token)
        if label == -100:
            pieces += [""] if pieces[-1] else []
        else:
            pieces[-1] += tokenizer.decode([token])
    return [piece for piece in pieces if piece]


def test_the_assistant_and_its_closing_marks_are_learned(tokenizer):
    example = encode_conversation(tokenizer, MESSAGES)
    assert tokenizer.decode(example["input_ids"]) == (
        "<|im_start|>system\nbe short<|im_end|>\n<|im_start|>user\none and one?<|im_end|>\n"
        "<|im_start|>assistant\ntwo<|im_end|>\n<|im_start|>user\nand one?<|im_end|>\n"
        "<|im_start|>assistant\n three<|im_end|>\n"
    )
    assert learned(tokenizer, example) == ["two<|im_end|>", " three<|im_end|>"]


def test_a_template_of_plain_words_needs_no_marks():
    tokenizer = train_byte_level_bpe(TEXTS, 280, chat_template="plain", show_progress=False)
    end = tokenizer.eos_token
    example = encode_conversation(tokenizer, MESSAGES)
    begin = f"{tokenizer.bos_token}System:\nbe short\n\nUser:\none and one?\n\nAssistant:\n"
    assert tokenizer.decode(example["input_ids"]) == (f"{begin}two{end}\nUser:\nand one?\n\nAssistant:\n three{end}\n")
    assert learned(tokenizer, example) == [f"two{end}", f" three{end}"]
    prompt = tokenizer.apply_chat_template(MESSAGES[:2], add_generation_prompt=True)["input_ids"]
    assert tokenizer.decode(prompt) == begin and example["input_ids"][: len(prompt)] == list(prompt)
    tokenizer.bos_token = None
    assert tokenizer.apply_chat_template(MESSAGES[:1], tokenize=False) == "System:\nbe short\n\n"


def test_a_template_without_marks_gives_the_same_labels(tokenizer, unmarked):
    assert encode_conversation(unmarked, MESSAGES) == encode_conversation(tokenizer, MESSAGES)
    only_last = [*MESSAGES[:2], *MESSAGES[3:4], {"role": "assistant", "content": "one and one\n"}]
    assert learned(unmarked, encode_conversation(unmarked, only_last)) == ["one and one\n<|im_end|>"]


def test_the_prompt_of_generation_is_what_comes_before_the_first_label(tokenizer, unmarked):
    prompt = tokenizer.apply_chat_template(MESSAGES[:2], add_generation_prompt=True)["input_ids"]
    for each in (tokenizer, unmarked):
        example = encode_conversation(each, MESSAGES[:3])
        first = next(place for place, label in enumerate(example["labels"]) if label != -100)
        assert example["input_ids"][:first] == list(prompt)


@pytest.mark.parametrize("train", [train_byte_level_bpe, train_unigram, train_wordpiece])
def test_a_completion_and_the_end_are_learned(train):
    tokenizer = train([*TEXTS, "four two one three and is what"], 400, show_progress=False)
    if train is train_wordpiece:
        with pytest.raises(ValueError, match="has no eos_token"):
            encode_completion(tokenizer, "one and", "one")
        return
    example = encode_completion(tokenizer, "one and one is ", "two")
    end = tokenizer.eos_token_id
    prompt = tokenizer("one and one is ")["input_ids"]
    prompt = prompt[:-1] if prompt[-1] == end else prompt
    completion = [*tokenizer("two", add_special_tokens=False)["input_ids"], end]
    assert example == {"input_ids": prompt + completion, "labels": [-100] * len(prompt) + completion}
    assert example["input_ids"].count(end) == 1


def test_parts_of_a_message_are_joined(tokenizer):
    """As OpenAI's chats have them."""
    parts = [[{"type": "text", "text": text} for text in message["content"].partition(" ")] for message in MESSAGES]
    messages = [{**message, "content": content} for message, content in zip(MESSAGES, parts, strict=True)]
    assert encode_conversation(tokenizer, messages) == encode_conversation(tokenizer, MESSAGES)


def test_errors(tokenizer, unmarked):
    cases = [
        (unmarked, MESSAGES[:2], "No message has the role 'assistant'"),
        (unmarked, [{"role": "user"}, *MESSAGES[2:]], "{'role': 'user'} is not a message, which has 'role' and"),
        (unmarked, [{"role": 1, "content": "x"}, *MESSAGES[2:]], "the 'role' of a message is an int, not a text"),
        (unmarked, [{"role": "user", "content": None}, *MESSAGES[2:]], "'user' holds a NoneType; only texts"),
        (unmarked, [{"role": "user", "content": [{"type": "text"}]}, *MESSAGES[2:]], "'user' holds a NoneType"),
        (
            unmarked,
            [{"role": "user", "content": [{"type": "text", "text": "x"}, {"type": "image_url"}]}, *MESSAGES[2:]],
            "the 'content' of a message of 'user' holds a part of type 'image_url'; only texts can be learned.",
        ),
        ("{{ raise_exception('roles must alternate') }}", MESSAGES, "refuses the messages: roles must alternate"),
        ("{{ messages | length }}: {{ messages[-1]['content'] }}", MESSAGES, "no {% generation %} marks"),
    ]
    for template, messages, message in cases:
        if template is not unmarked:
            unmarked.chat_template = template
        with pytest.raises(ValueError, match=re.escape(message)):
            encode_conversation(unmarked, messages)
    unmarked.chat_template = None
    with pytest.raises(ValueError, match="has no chat template"):
        encode_conversation(unmarked, MESSAGES)


def test_the_first_token_has_no_label(tokenizer):
    assert encode_completion(tokenizer, "", "two")["labels"][0] == -100

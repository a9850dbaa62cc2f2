"""What every kind of tokenizer promises, also to people who only have the saved folder."""

import hashlib
import json
import random
import subprocess
import sys

import pytest
from support import forks
from support.tokenizer_texts import ADVERSARIAL, TEXTS
from transformers import AutoTokenizer, T5Config, T5ForConditionalGeneration

import trine
from trine.tokenization import training
from trine.tokenization.special_tokens import language_tag
from trine.tokenization.text_files import iterate_text_files
from trine.tokenization.training import TOKENIZERS


CHAT = [
    {"role": "user", "content": "Read a line."},
    {"role": "assistant", "content": "It's the stream."},
    {"role": "user", "content": "你好"},
    {"role": "assistant", "content": "世界。"},
]
# Many words that are equally frequent, among which a trainer must choose.
_LETTERS = random.Random(1)
TIED = ["".join(_LETTERS.choices("abcdefgh你好世界", k=_LETTERS.randint(2, 9))) for _ in range(1500)]
TIED = [" ".join(TIED[start : start + 10]) for start in range(0, 1500, 10)]


def train(kind, texts=TEXTS, vocab_size=480, **options):
    return TOKENIZERS[kind](texts, vocab_size, show_progress=False, **options)


def digest(tokenizer):
    return hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest()


def in_a_fresh_process(program, **data):
    answer = subprocess.run(
        [sys.executable, "-c", program], input=json.dumps(data), capture_output=True, text=True, check=True
    )
    return json.loads(answer.stdout)


@pytest.fixture(scope="module", params=TOKENIZERS)
def trained(request):
    return train(request.param, language_tags=["en", "zh"], chat_template="chatml", model_max_length=64)


def test_the_table():
    functions = [training.train_byte_level_bpe, training.train_wordpiece, training.train_unigram]
    assert list(TOKENIZERS.items()) == list(zip(("byte-level-bpe", "wordpiece", "unigram"), functions, strict=True))
    assert trine.train_byte_level_bpe is training.train_byte_level_bpe


def test_reload_in_a_process_without_the_package(trained, tmp_path):
    trained.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "TokenizersBackend" and "auto_map" not in config
    program = (
        "import json, sys\n"
        "sys.modules['trine'] = None\n"
        "from transformers import AutoTokenizer\n"
        "data = json.loads(sys.argv[1])\n"
        "tokenizer = AutoTokenizer.from_pretrained(data['folder'])\n"
        "ids = tokenizer(data['texts']).input_ids\n"
        "print(json.dumps([type(tokenizer).__name__, dict(tokenizer(data['texts'], data['texts'])), ids,\n"
        "    tokenizer.batch_decode(ids), tokenizer.model_max_length, tokenizer.special_tokens_map,\n"
        "    dict(tokenizer.apply_chat_template(data['chat'], return_assistant_tokens_mask=True))]))\n"
    )
    data = {"folder": str(tmp_path), "texts": ADVERSARIAL, "chat": CHAT}
    done = forks.run(["-c", program, json.dumps(data)], tmp_path)
    assert done.returncode == 0, done.stderr
    ids = trained(ADVERSARIAL).input_ids
    assert json.loads(done.stdout) == [
        "TokenizersBackend",
        dict(trained(ADVERSARIAL, ADVERSARIAL)),
        ids,
        trained.batch_decode(ids),
        64,
        trained.special_tokens_map,
        dict(trained.apply_chat_template(CHAT, return_assistant_tokens_mask=True)),
    ]


def test_training_is_deterministic():
    """Processes differ in the seeds of their hashes, and with them in the order in which words are counted."""
    program = (
        "import hashlib, json, sys\n"
        "from trine.tokenization.training import TOKENIZERS\n"
        "texts = json.load(sys.stdin)['texts']\n"
        "trained = [train(texts, 700, show_progress=False) for train in TOKENIZERS.values()]\n"
        "print(json.dumps([hashlib.sha256(t.backend_tokenizer.to_str().encode()).hexdigest() for t in trained]))\n"
    )
    here = [digest(train(kind, TIED, 700)) for kind in TOKENIZERS]
    assert [digest(train(kind, TIED, 700)) for kind in TOKENIZERS] == here
    assert in_a_fresh_process(program, texts=TIED) == here


def test_language_tags_are_never_split(trained):
    tag = trained.convert_tokens_to_ids("<2zh>")
    assert tag != trained.unk_token_id and trained.convert_ids_to_tokens(tag) == language_tag("zh") == "<2zh>"
    encoded = trained("<2zh>read<2en> line", add_special_tokens=False).input_ids
    assert [token for token in trained.convert_ids_to_tokens(encoded) if token[0] == "<"] == ["<2zh>", "<2en>"]
    assert "<" not in trained.decode(encoded, skip_special_tokens=True)


def test_a_language_tag_is_forced_as_the_first_token(trained):
    config = T5Config(vocab_size=len(trained), d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    config.decoder_start_token_id = config.pad_token_id = trained.pad_token_id
    model = T5ForConditionalGeneration(config).eval()
    tag = trained.convert_tokens_to_ids("<2zh>")
    inputs = trained("<2zh>a line", return_tensors="pt").input_ids
    output = model.generate(inputs, forced_bos_token_id=tag, max_new_tokens=3)
    assert output[0, :2].tolist() == [trained.pad_token_id, tag]


def test_chat_template_and_what_the_assistant_says(trained):
    text = "".join(f"<|im_start|>{turn['role']}\n{turn['content']}<|im_end|>\n" for turn in CHAT)
    assert trained.apply_chat_template(CHAT, tokenize=False) == text
    prompt = trained.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True)
    assert prompt == text + "<|im_start|>assistant\n"
    encoded = trained.apply_chat_template(CHAT, return_assistant_tokens_mask=True)
    parts = [[], []]
    for token, mask in zip(encoded["input_ids"], encoded["assistant_masks"], strict=True):
        parts[mask].append(token)
    said = [f"{turn['content']}<|im_end|>" for turn in CHAT if turn["role"] == "assistant"]
    assert parts[1] == trained("".join(said), add_special_tokens=False).input_ids
    start, end = trained.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    assert parts[0].count(start) == 4 and parts[0].count(end) == 2 and parts[1].count(end) == 2
    assert {start, end} <= set(trained.all_special_ids)


def test_a_role_mark_can_be_the_end_of_sequence():
    tokenizer = train("byte-level-bpe", eos_token="<|im_end|>", chat_template="chatml")
    assert tokenizer.eos_token_id == tokenizer.convert_tokens_to_ids("<|im_end|>") == 1
    assert sorted(tokenizer.all_special_tokens) == ["<|endoftext|>", "<|im_end|>", "<|im_start|>", "<|pad|>"]


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_own_chat_template(kind, tmp_path):
    template = "{% for message in messages %}<|user|>{{ message.content }}{% endfor %}"
    train(kind, extra_special_tokens=["<|user|>"], chat_template=template).save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "line"}])["input_ids"]
    assert ids[0] == tokenizer.convert_tokens_to_ids("<|user|>")
    assert ids[1:] == tokenizer("line", add_special_tokens=False).input_ids


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_training_from_files(kind, tmp_path):
    for number, text in enumerate(TEXTS):
        (tmp_path / f"{number:03}.txt").write_text(text, encoding="utf-8", newline="")
    from_files = train(kind, iterate_text_files([tmp_path]))
    # Python reads any line end as "\n".
    assert digest(from_files) == digest(train(kind, [text.replace("\r\n", "\n") for text in TEXTS]))


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_training_shows_its_progress(kind, capfd):
    TOKENIZERS[kind](TEXTS, 480)
    shown = capfd.readouterr()
    train(kind)
    quiet = capfd.readouterr()
    assert shown.out + shown.err and not quiet.out + quiet.err


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"texts": []}, ValueError, "texts holds no text"),
        ({"texts": ["", ""]}, ValueError, "texts holds no text"),
        ({"texts": "text"}, TypeError, r"texts='text'\.\.\. is one str; pass an iterable"),
        ({"texts": b"text"}, TypeError, "is one bytes"),
        ({"texts": ["text", 7]}, TypeError, r"texts\[1\] is of type int"),
        ({"vocab_size": 3}, ValueError, "vocab_size=3 is below"),
        ({"pad_token": ""}, ValueError, "A special token is empty"),
        ({"extra_special_tokens": ["<a>", "<a>"]}, ValueError, r"Special tokens \['<a>'\] are given twice"),
        ({"extra_special_tokens": ["<2zh>"], "language_tags": ["zh"]}, ValueError, r"\['<2zh>'\] are given twice"),
        ({"extra_special_tokens": "<a>"}, TypeError, "extra_special_tokens='<a>' is one string; pass a list"),
        ({"language_tags": "zh"}, TypeError, "language_tags='zh' is one string; pass a list"),
        (
            {"language_tags": ["en", "<2zh>"]},
            ValueError,
            "language_tags has '<2zh>'; write a language of ASCII letters",
        ),
        (
            {"chat_template": "chatlm"},
            ValueError,
            r"chat_template='chatlm' is neither Jinja text nor one of \['chatml', 'plain'\]\. Did you mean 'chatml'\?",
        ),
    ],
)
def test_errors(kind, options, error, message):
    with pytest.raises(error, match=message):
        train(kind, **options)

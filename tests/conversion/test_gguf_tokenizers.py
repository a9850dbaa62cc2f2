"""The tokenizers of GGUF files: llama.cpp cuts texts as transformers does, and has its marks and template."""

import json
import logging
import random

import pytest
import torch
from support.llama_cpp import find_llama_cpp, run_llama_cpp
from support.tiny import tiny_model
from support.tokenizer_texts import ADVERSARIAL, TEXTS
from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors, trainers
from tokenizers.models import BPE, Unigram
from transformers import AutoTokenizer, TokenizersBackend

from trine import export
from trine.conversion.gguf.pre_tokenizers import NAMES


PARTS = [
    *(
        "a",
        "B",
        "z",
        " ",
        "  ",
        "\n",
        "\r\n",
        "\t",
        "'",
        "'s",
        "'T",
        "'re",
        "1",
        "23",
        "456",
        "７",
        "½",
        "中",
        "文",
        "ひ",
    ),
    *(
        "カ",
        "ー",
        "。",
        "，",
        "!",
        "?",
        "(",
        "é",
        "e\u0301",
        "ß",
        "ñ",
        "\u0301",
        "न",
        "मस्ते",
        "한",
        "글",
        "👍🏽",
        "_",
        "-",
        "$",
    ),
    *("€", "\u00a0", "\u3000", "\u200b", "ǅ", "Ⅷ", "ª", "ʰ", "Don't", "I'LL", "it's 'string'", "\x85", "\u2028", "ſ"),
]
MARKS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
MESSAGES = [{"role": "user", "content": "你好 123"}, {"role": "assistant", "content": "It's"}]
TEMPLATE = (
    "{% for m in messages %}<s>{{ m.role }}: {{ m.content }}</s>{% endfor %}{{ '<s>' if add_generation_prompt }}"
)


def random_texts(number: int) -> list[str]:
    draw = random.Random(0)
    return ["".join(draw.choices(PARTS, k=draw.randint(1, 14))) for _ in range(number)]


LEARNT = [text.replace("\0", "") for text in [*TEXTS, *ADVERSARIAL, *random_texts(600)]]
# A line that ends in three line ends has two cuts of equal probability in Unigram.
ASKED = [text for text in [*TEXTS[:3], *ADVERSARIAL, *random_texts(900)] if text and "\n\n\n" not in text]


def byte_level(patterns, ignore_merges: bool) -> Tokenizer:
    """Byte-level BPE that is trained with a pre-tokenizer."""
    words = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns]
    as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer = Tokenizer(BPE(ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*words, as_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    options = {"special_tokens": [*MARKS.values()], "initial_alphabet": pre_tokenizers.ByteLevel.alphabet()}
    tokenizer.train_from_iterator(LEARNT, trainers.BpeTrainer(vocab_size=900, show_progress=False, **options))
    fields = json.loads(tokenizer.to_str())
    del fields["model"]["merges"][100::7]  # some words are tokens then, but come of no merges
    return Tokenizer.from_str(json.dumps(fields))


def sentencepiece(folder, normalizer) -> Tokenizer:
    """The BPE of the package sentencepiece, as transformers reads it, with a normaliser in place of `Metaspace`."""
    package = pytest.importorskip("sentencepiece")
    (folder / "corpus.txt").write_text("\n".join(" ".join(text.split()) for text in LEARNT), encoding="utf-8")
    package.SentencePieceTrainer.train(
        **{"input": str(folder / "corpus.txt"), "model_prefix": str(folder / "tokenizer"), "vocab_size": 900},
        **{"model_type": "bpe", "byte_fallback": True, "normalization_rule_name": "identity"},
        **{"remove_extra_whitespaces": False, "character_coverage": 0.999, "minloglevel": 2},
    )
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer"}')
    fields = json.loads(AutoTokenizer.from_pretrained(folder).backend_tokenizer.to_str())
    if normalizer is not None:
        fields |= {"pre_tokenizer": None, "normalizer": normalizer}
    return Tokenizer.from_str(json.dumps(fields))


def unigram(scheme: str) -> Tokenizer:
    """Unigram with an unknown token, and spaces as the beginnings of pieces."""
    tokenizer = Tokenizer(Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    special = ["<unk>", "<s>", "</s>"]
    trainer = trainers.UnigramTrainer(vocab_size=700, special_tokens=special, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(LEARNT, trainer)
    return tokenizer


PREFIX = {"type": "Prepend", "prepend": "▁"}
REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
KINDS = {
    **{name: lambda _, key=key: byte_level(*key) for key, name in NAMES.items()},
    "sentencepiece, a space first": lambda path: sentencepiece(
        path, {"type": "Sequence", "normalizers": [PREFIX, REPLACE]}
    ),
    "sentencepiece, none first": lambda path: sentencepiece(path, REPLACE),
    "metaspace": lambda path: sentencepiece(path, None),
    "unigram, a space first": lambda _: unigram("always"),
    "unigram, none first": lambda _: unigram("never"),
}
# For which the command warns: another space is put before texts that begin with one, and a sign of it.
PREFIXED = ("metaspace", "unigram, a space first")


def save(folder, tokenizer, **options):
    """Saves a tokenizer with a model; returns it as transformers loads it."""
    marks = {**MARKS, **options}
    wrapped = TokenizersBackend(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **marks)
    fields = {"num_hidden_layers": 1, "vocab_size": len(wrapped) + 2, "max_position_embeddings": 77}
    tiny_model(dtype=torch.float32, eos_token_id=wrapped.eos_token_id, **fields).save_pretrained(folder)
    wrapped.save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    """Each kind, with what llama.cpp makes of the texts."""
    find_llama_cpp()
    loaded, runs = {}, []
    for name, make in KINDS.items():
        folder = tmp_path_factory.mktemp("kind")
        (folder / "corpus").mkdir()
        loaded[name] = save(folder / "model", make(folder / "corpus"))
        export(folder / "model", folder / "made", format="gguf")
        requests = [{"kind": "tokenize", "text": text} for text in ASKED]
        ids = [loaded[name](text, add_special_tokens=False)["input_ids"] for text in TEXTS[:3]]
        runs.append((folder / "made/model.gguf", requests + [{"kind": "detokenize", "ids": each} for each in ids]))
    answers = run_llama_cpp(runs)
    return {name: (loaded[name], answer) for name, answer in zip(KINDS, answers, strict=True)}


@pytest.mark.parametrize("name", KINDS)
def test_texts_are_cut_alike(name, tokenizers):
    """Chinese, digits, combining marks, line ends and 900 random texts among them."""
    tokenizer, answers = tokenizers[name]
    texts = [text for text in ASKED if not (name in PREFIXED and text[0] in " ▁")]
    cut = dict(zip(ASKED, answers, strict=False))
    expected = {text: tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts}
    assert {text: cut[text] for text in texts if cut[text] != expected[text]} == {}
    assert len(texts) > 700


def test_the_names_are_not_the_same(tokenizers):
    """What is cut alike above would be noticed if it were not: the pre-tokenizers differ on these texts."""
    cuts = {name: [tokenizers[name][0].tokenize(text) for text in ASKED] for name in NAMES.values()}
    assert len(cuts) == len(NAMES) and all(cuts[a] != cuts[b] for a in cuts for b in cuts if a < b)


@pytest.mark.parametrize("name", ["qwen2", "qwen35", "deepseek-v3", "sentencepiece, none first"])
def test_tokens_become_the_text_again(name, tokenizers):
    """For the other names llama.cpp leaves out spaces before some signs, when it writes a whole text."""
    assert tokenizers[name][1][len(ASKED) :] == TEXTS[:3]


def test_marks_template_and_description_are_in_the_file(tmp_path):
    """An added token that is no mark is read in any text; marks are read where they are asked for."""
    tokenizer = byte_level(*next(iter(NAMES)))
    tokenizer.add_tokens(["<tool>"])
    tokenizer.add_special_tokens([AddedToken("<|im_end|>", special=True), AddedToken("<end>", special=True)])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    loaded = save(tmp_path / "a model", tokenizer, chat_template=TEMPLATE)
    end = loaded.convert_tokens_to_ids("<|im_end|>")
    fields = json.loads((tmp_path / "a model/generation_config.json").read_text())
    (tmp_path / "a model/generation_config.json").write_text(json.dumps({**fields, "eos_token_id": [end, 1, end + 1]}))
    (tmp_path / "a model/README.md").write_text("---\nlicense: mit\nlanguage: [en, zh]\ntags: [trine]\n---\n# A\n")
    (tmp_path / "a model/LICENSE").write_text("MIT")
    export(tmp_path / "a model", tmp_path / "made", format="gguf")
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == ["LICENSE", "model.gguf"]
    text = "a<tool>b<|im_end|>中</s>"
    requests = [
        {"kind": "facts", "ids": list(range(len(loaded)))},
        {"kind": "tokenize", "text": text, "special": True},
        {"kind": "tokenize", "text": text, "special": False},
        {"kind": "render", "messages": MESSAGES},
    ]
    [[facts, marks, plain, chat]] = run_llama_cpp([(tmp_path / "made/model.gguf", requests)])
    assert marks == loaded(text, add_special_tokens=False)["input_ids"]
    assert loaded.convert_tokens_to_ids("<tool>") in plain and end not in plain and 1 not in plain
    assert (facts["bos"], facts["eos"], facts["starts"], facts["length"]) == (0, 1, True, 77)
    assert facts["stops"] == [1, end, end + 1]
    general = facts["general"]
    assert (general["name"], general["license"], general["languages"]) == ("a model", "mit", ["en", "zh"])
    assert chat == loaded.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True)


def test_what_llama_cpp_leaves_out_is_told(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    tokenizer = byte_level(*next(iter(NAMES)))
    tokenizer.normalizer = normalizers.NFC()
    save(tmp_path / "composed", tokenizer)
    export(tmp_path / "composed", tmp_path / "one", format="gguf")
    save(tmp_path / "spaced", unigram("first"))
    export(tmp_path / "spaced", tmp_path / "two", format="gguf")
    first, second = [record.message for record in caplog.records if "llama.cpp" in record.message]
    assert first.startswith("normalizer='NFC' of the tokenizer: llama.cpp does not normalise")
    assert second.startswith("prepend_scheme='first' of the tokenizer: llama.cpp puts a space before a text")

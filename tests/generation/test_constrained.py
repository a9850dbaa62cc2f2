"""Every constrained output parses and matches, whatever model, tokenizer and decoding made it."""

import json
import re
import sys

import pytest
import torch
from support.tiny import tiny_model
from support.tokenizer_texts import TEXTS

from trine import train_byte_level_bpe, train_unigram, train_wordpiece
from trine.generation.constraints.json_schemas import FORMATS
from trine.generation.constraints.processor import constrained_by
from trine.scripts.generate import main
from trine.tokenization.token_spelling import spell_tokens


jsonschema = pytest.importorskip("jsonschema")
pytest.importorskip("xgrammar")

VOCABULARY = 640  # more than any of the tokenizers has, as models are padded
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 12},
        "size": {"type": "integer", "minimum": 0, "maximum": 999},
        "tags": {"type": "array", "items": {"enum": ["red", "green", "blue"]}, "maxItems": 3},
        "day": {"type": "string", "format": "date"},
        "code": {"type": "string", "pattern": "^[a-z]{2}[.][^x]$"},
        "ratio": {"type": ["number", "null"], "minimum": -2, "maximum": 2.5},
    },
    "required": ["name", "size", "tags"],
    "additionalProperties": False,
}
MODES = {
    "greedy": {"do_sample": False},
    "sampling": {"do_sample": True, "temperature": 2.0},
    "several": {"do_sample": True, "num_return_sequences": 2},
    "beams": {"do_sample": False, "num_beams": 3, "num_return_sequences": 2},
    "sampled beams": {"do_sample": True, "num_beams": 3},
    "prompt lookup": {"do_sample": False, "prompt_lookup_num_tokens": 3},
}
TOKENIZERS = {"bytes": train_byte_level_bpe, "unigram": train_unigram, "wordpiece": train_wordpiece}


@pytest.fixture(scope="module", params=TOKENIZERS)
def tokenizer(request):
    return TOKENIZERS[request.param](TEXTS, 600, show_progress=False)


@pytest.fixture(scope="module")
def bpe():
    return train_byte_level_bpe(TEXTS, 600, show_progress=False)


@pytest.fixture(scope="module")
def model():
    return tiny_model(dtype=torch.float32, scale=1.0, vocab_size=VOCABULARY, max_position_embeddings=512)


def eos_of(tokenizer) -> int:
    return tokenizer.sep_token_id if tokenizer.eos_token_id is None else tokenizer.eos_token_id


def generate(model, tokenizer, constraint, rows=4, max_new_tokens=200, **options) -> list[list[int]]:
    """What the model adds to a batch of prompts, some padded on the left."""
    prompts = torch.randint(10, 200, (rows, 5), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(prompts)
    if rows > 1:
        mask[0, :3] = 0
    ids = model.generate(
        prompts,
        attention_mask=mask,
        logits_processor=[constraint],
        max_new_tokens=max_new_tokens,
        eos_token_id=eos_of(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        **options,
    )
    return ids[:, 5:].tolist()


def constrain(tokenizer, **rules):
    return constrained_by(tokenizer, vocab_size=VOCABULARY, eos_token_id=eos_of(tokenizer), **rules)


@pytest.mark.parametrize("mode", MODES)
def test_every_output_of_an_untrained_model_matches_its_schema(model, tokenizer, mode):
    constraint = constrain(tokenizer, json_schema=SCHEMA)
    rows = 1 if mode == "prompt lookup" else 4
    outputs = generate(model, tokenizer, constraint, rows=rows, **MODES[mode])
    assert len(outputs) == rows * MODES[mode].get("num_return_sequences", 1)
    for output in outputs:
        assert constraint.is_complete(output)
        jsonschema.validate(json.loads(constraint.text(output)), SCHEMA)


def test_two_hundred_sampled_outputs_all_match(model, tokenizer):
    constraint = constrain(tokenizer, json_schema=SCHEMA)
    texts = [constraint.text(output) for output in generate(model, tokenizer, constraint, rows=200, do_sample=True)]
    for text in texts:
        jsonschema.validate(json.loads(text), SCHEMA)
    assert len(set(texts)) > 190


def test_texts_are_what_the_tokenizer_decodes(model, tokenizer):
    """But for WordPiece, which puts spaces between words."""
    constraint = constrain(tokenizer, json_schema=SCHEMA)
    for output in generate(model, tokenizer, constraint, do_sample=True):
        decoded = tokenizer.decode(output, skip_special_tokens=True)
        if tokenizer.sep_token is not None:
            decoded = re.sub(r"\s", "", decoded)
        assert constraint.text(output) == decoded


def test_a_regular_expression_holds_for_the_whole_output(model, tokenizer):
    constraint = constrain(tokenizer, regex=r"[a-c]{1,3}(?:-\d{2,3}|[^x])")
    texts = [constraint.text(output) for output in generate(model, tokenizer, constraint, rows=12, do_sample=True)]
    assert all(re.fullmatch(r"[a-c]{1,3}(?:-\d{2,3}|[^x])", text, re.DOTALL) for text in texts)
    assert len(set(texts)) > 3


def test_a_grammar_holds(model, tokenizer):
    constraint = constrain(tokenizer, grammar='root ::= "(" root ")" | [ab]')
    texts = [constraint.text(output) for output in generate(model, tokenizer, constraint, rows=12, do_sample=True)]
    for text in texts:
        depth = len(text) // 2
        assert re.fullmatch(rf"\({{{depth}}}[ab]\){{{depth}}}", text)
    assert any("(" in text for text in texts)


def test_what_is_allowed_is_what_can_be_continued(bpe):
    """Against a search by hand: the tokens with which some string of the language begins."""
    language = ["self", "strings", "the", "th"]
    constraint = constrain(bpe, regex="|".join(language))
    spelled = spell_tokens(bpe, VOCABULARY)
    begun = torch.tensor([bpe.convert_tokens_to_ids(["t"])])
    for ids, text in ((torch.zeros(1, 0, dtype=torch.long), b""), (begun, b"t")):
        allowed = constraint(ids, torch.zeros(1, VOCABULARY))[0] == 0
        expected = [
            bool(token) and any(word.encode().startswith(text + token) for word in language) for token in spelled
        ]
        assert allowed.tolist() == expected


def test_probabilities_of_what_is_allowed_keep_their_ratios(model, bpe):
    scores = torch.randn(1, VOCABULARY)
    masked = constrain(bpe, regex="[ab]")(torch.zeros(1, 0, dtype=torch.long), scores)
    kept = bpe.convert_tokens_to_ids(["a", "b"])
    assert masked.isfinite().nonzero()[:, 1].tolist() == sorted(kept)
    assert torch.equal(masked[0, kept], scores[0, kept])


def test_surrogates_and_control_characters_are_not_written(bpe):
    """The library's grammars allow both within strings; neither is JSON text."""
    constraint = constrain(bpe, json_schema={"type": "string", "maxLength": 9})
    byte = {spelling[0]: id for id, spelling in enumerate(spell_tokens(bpe, VOCABULARY)) if len(spelling) == 1}
    constraint(torch.zeros(1, 0, dtype=torch.long), torch.zeros(1, VOCABULARY))
    after_quote = constraint(torch.tensor([[byte[0x22]]]), torch.zeros(1, VOCABULARY))[0].isfinite()
    assert after_quote[byte[0x41]] and after_quote[byte[0xED]] and not after_quote[byte[0x0A]]
    assert not after_quote[byte[0x07]]
    after_lead = constraint(torch.tensor([[byte[0x22], byte[0xED]]]), torch.zeros(1, VOCABULARY))[0].isfinite()
    assert after_lead[byte[0x9F]] and not after_lead[byte[0xA0]]


def test_an_output_that_is_cut_off_is_not_complete(model, bpe):
    constraint = constrain(bpe, json_schema=SCHEMA)
    assert not any(constraint.is_complete(ids) for ids in generate(model, bpe, constraint, max_new_tokens=3))
    assert not constraint.is_complete(bpe("nonsense")["input_ids"])


def test_special_tokens_and_padding_are_never_written(bpe):
    constraint = constrain(bpe, regex=r"(.|\n)*")
    allowed = constraint(torch.zeros(1, 0, dtype=torch.long), torch.zeros(1, VOCABULARY))[0].isfinite()
    silent = {*bpe.all_special_ids, *range(len(bpe), VOCABULARY)} - {bpe.eos_token_id}
    assert not allowed[sorted(silent)].any() and allowed[bpe.eos_token_id]


SCHEMA_ERRORS = {
    "json_schema is not JSON": "{",
    r"json_schema has False at \$\.anyOf\[1\], which is not a schema": {"anyOf": [{"type": "null"}, False]},
    "has \\['minimum'\\] beside 'const' at": {"const": 3, "minimum": 2},
    "has the values \\['3'\\] at \\$, which are not of type \\['integer'\\]": {"enum": ["3", 4], "type": "integer"},
    "has the values \\[True\\]": {"enum": [True], "type": "number"},
    "has 'allOf' of 2 at": {"allOf": [{"type": "null"}, {"type": "null"}]},
    "has the type 'int' at": {"type": "int"},
    r"has \['uniqueItems'\] at \$\.properties\.a, where": {
        "type": "object",
        "properties": {"a": {"uniqueItems": True}},
    },
    "of length, pattern and format": {"type": "string", "pattern": "a", "maxLength": 3},
    "format='email' at": {"type": "string", "format": "email"},
    r"pattern at \$='\(\?!a\)b' has '\(\?!a\.\.\.'": {"type": "string", "pattern": "(?!a)b"},
    "minimum=1e-09 at .*: more than 6 decimals": {"type": "number", "minimum": 1e-9},
    r"requires \['b'\] at": {"type": "object", "properties": {"a": True}, "required": ["b"]},
    "additionalProperties=True at": {"type": "object", "properties": {"a": True}, "additionalProperties": True},
    "cannot be read": {"type": "integer", "minimum": 3, "maximum": 2},
}


@pytest.mark.parametrize("message", SCHEMA_ERRORS)
def test_schemas_that_a_grammar_cannot_hold_are_refused(bpe, message):
    with pytest.raises(ValueError, match=message):
        constrained_by(bpe, json_schema=SCHEMA_ERRORS[message])


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_is_written(bpe, name):
    """Without the checks of formats that need other packages, the letters show that it is not any text."""
    constraint = constrain(bpe, json_schema={"type": "string", "format": name})
    byte = bpe.convert_tokens_to_ids(['"'])
    constraint(torch.zeros(1, 0, dtype=torch.long), torch.zeros(1, VOCABULARY))
    allowed = constraint(torch.tensor([byte]), torch.zeros(1, VOCABULARY))[0].isfinite()
    assert allowed.any() and not allowed[bpe.convert_tokens_to_ids("$")]


def errors(bpe, model):
    wordpiece = train_wordpiece(TEXTS, 600, show_progress=False)
    used = constrained_by(bpe, regex="a+")
    used(torch.zeros(1, 2, dtype=torch.long), torch.zeros(1, len(bpe)))
    used_up = torch.full((1, 5), bpe.convert_tokens_to_ids("b"))
    empty = torch.zeros(1, 0, dtype=torch.long)
    slow = type("Slow", (), {"__len__": lambda self: 3})()
    return {
        "Exactly one of .* but these are: \\[\\]": lambda: constrained_by(bpe),
        "these are: \\['grammar', 'regex'\\]": lambda: constrained_by(bpe, grammar="", regex=""),
        "eos_token_id is None": lambda: constrained_by(wordpiece, regex="a"),
        "vocab_size=3 is less than the": lambda: constrained_by(bpe, regex="a", vocab_size=3),
        "The tokenizer decodes by \\[\\]": lambda: spell_tokens(slow, 3),
        "grammar='nonsense' cannot be read": lambda: constrained_by(bpe, grammar="nonsense"),
        "regex='\\(a' cannot be read": lambda: constrained_by(bpe, regex="(a"),
        "regex='a\\(\\?=b\\)' has": lambda: constrained_by(bpe, regex="a(?=b)"),
        "vocab_size=.* of the constraint is not the 9 of": lambda: used(empty, torch.zeros(1, 9)),
        "after the first 2 do not match: a constraint serves one generation": lambda: used(
            used_up, torch.zeros(1, len(bpe))
        ),
        "No token can follow '': the tokenizer lacks": lambda: constrained_by(
            wordpiece, regex="\u4e59", eos_token_id=1
        )(empty, torch.zeros(1, len(wordpiece))),
    }


def test_errors_name_what_is_wrong(bpe, model):
    for message, call in errors(bpe, model).items():
        with pytest.raises(ValueError, match=message):
            call()


def test_a_missing_package_is_named(bpe, monkeypatch):
    monkeypatch.setitem(sys.modules, "xgrammar", None)
    with pytest.raises(ImportError, match=re.escape("pip install 'trine[constrained]'")):
        constrained_by(bpe, regex="a")


@pytest.fixture(scope="module")
def folder(bpe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    model = tiny_model(dtype=torch.float32, scale=1.0, vocab_size=VOCABULARY, max_position_embeddings=512)
    model.generation_config.eos_token_id = bpe.eos_token_id
    model.save_pretrained(folder)
    bpe.save_pretrained(folder)
    (folder / "schema.json").write_text(json.dumps(SCHEMA), encoding="utf-8")
    (folder / "rules.gbnf").write_text('root ::= "yes" | "no"', encoding="utf-8")
    return folder


def test_the_command_writes_json(folder, capsys):
    arguments = ["--model", str(folder), "--prompt", "the ", "a", "--json_schema", str(folder / "schema.json")]
    main([*arguments, "--temperature", "2"])
    texts = capsys.readouterr().out.split("\n---\n")
    jsonschema.validate(json.loads(texts[0].removeprefix("the ")), SCHEMA)
    jsonschema.validate(json.loads(texts[1].removeprefix("a")), SCHEMA)


def test_the_command_takes_grammars_and_expressions(folder, capsys):
    main(["--model", str(folder), "--prompt", "the", "--grammar", str(folder / "rules.gbnf")])
    assert capsys.readouterr().out.strip() in ("theyes", "theno")
    main(["--model", str(folder), "--prompt", "the", "--regex", "[0-9]{40}", "--max_new_tokens", "9"])
    output = capsys.readouterr()
    assert re.fullmatch(r"the\d{9}", output.out.strip())
    assert "prompt 1 was cut off at max_new_tokens=9" in output.err


def test_the_command_names_what_is_wrong(folder, capsys):
    arguments = ["--model", str(folder), "--prompt", "the"]
    with pytest.raises(SystemExit, match=r"trine generate: regex='\(' cannot be read"):
        main([*arguments, "--regex", "("])
    for given, message in {
        ("--regex", "a", "--grammar", "b"): "Only one of",
        ("--json_schema", "missing.json"): "json_schema='missing.json' is not a file",
    }.items():
        with pytest.raises(SystemExit):
            main([*arguments, *given])
        assert message in capsys.readouterr().err

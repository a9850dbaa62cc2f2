"""What llama.cpp has no counterpart of is refused by name, before anything is written."""

import json

import pytest
import torch
from support.messages import unseen
from support.tiny import tiny_model
from support.tokenizer_texts import TEXTS
from tokenizers import Tokenizer
from transformers import AutoTokenizer, TokenizersBackend

from trine import TrineModel, export, train_byte_level_bpe, train_unigram, train_wordpiece
from trine.conversion.gguf import export as gguf_export
from trine.conversion.programs import export as programs


LLAMA3 = {
    "rope_type": "llama3",
    **{"rope_theta": 10000.0, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    "original_max_position_embeddings": 16,
}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 24}
SPARSE = {"mlp_layer_types": "sparse"}
QWEN = {**SPARSE, "qk_norm": True}
ONLY = "cannot be written as GGUF: llama.cpp's"
FIELDS = [
    ({"attention_types": "full, sliding"}, f"attention_types[1]='sliding' {ONLY} 'llama' has 'full' only."),
    ({"attention_types": "linear"}, f"attention_types[0]='linear' {ONLY} 'llama' has 'full' only."),
    ({"mlp_layer_types": "dense, sparse"}, f"mlp_layer_types[0]='dense' {ONLY} 'llama' has 'sparse' only."),
    ({"hidden_act": "gelu"}, f"hidden_act='gelu' {ONLY} 'llama' has 'silu' only."),
    ({"qk_norm": True, "attention_bias": True}, f"attention_bias=True {ONLY} 'qwen3' has False only."),
    ({**QWEN, "norm_topk_prob": False}, f"norm_topk_prob=False {ONLY} 'qwen3moe' has True only."),
    ({**SPARSE, "mlp_bias": True}, f"mlp_bias=True {ONLY} 'llama' has False only."),
    ({"rope_parameters": {**YARN, "truncate": False}}, f"rope_parameters['truncate']=False {ONLY} 'llama' has True"),
    ({"rope_parameters": LLAMA3, "qk_norm": True}, f"rope_parameters['rope_type']='llama3' {ONLY} 'qwen3' has"),
    (
        {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}},
        "rope_parameters['rope_type'] of a GGUF file='dynamic' is not one of ['default', 'linear', 'llama3', 'yarn']",
    ),
    ({"norm_type": "layernorm"}, "norm_type='layernorm' cannot be represented in model_type='llama'"),
    ({"position_type": "learned"}, "position_type='learned' cannot be represented in model_type='llama'"),
    ({"scale_embedding": True}, "scale_embedding=True cannot be represented in model_type='llama'"),
    ({**SPARSE, "router_type": "sigmoid"}, "router_type='sigmoid' cannot be represented in model_type='mixtral'"),
    ({"vocab_size": 40}, "vocab_size=40 is smaller than the tokenizer, which has 300."),
    ({"eos_token_id": [1, 2, 3]}, "eos_token_id=[0, 1, 2, 3] are more than a GGUF file has fields for: ['eos', 'eot'"),
]
SEEN: list[str] = []


def byte_level(pre_tokenizer: str = "qwen2", **options) -> TokenizersBackend:
    return train_byte_level_bpe(TEXTS, 300, show_progress=False, pre_tokenizer=pre_tokenizer, **options)


def save(folder, tokenizer=None, dtype=torch.float32, **fields):
    """Saves a model that can be written, but for these fields, with a tokenizer."""
    tokenizer = tokenizer or byte_level()
    fields = {"vocab_size": len(tokenizer), "num_hidden_layers": 2, "eos_token_id": tokenizer.eos_token_id, **fields}
    tiny_model(dtype=dtype, **fields).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def refused(source, target, message: str, error=ValueError, **options) -> None:
    """Checks that an export fails with a message, and that nothing is left."""
    with pytest.raises(error) as caught:
        export(source, target / "made", **{"format": "gguf", **options})
    assert message in str(caught.value)
    assert not (target / "made").exists() and not list(target.glob(".made*"))
    SEEN.append(str(caught.value))


def test_every_error_is_tested(tmp_path, monkeypatch):
    """All cases of this file, one after the other, and then the list of what is raised."""
    for number, (fields, message) in enumerate(FIELDS):
        refused(save(tmp_path / f"fields {number}", **fields), tmp_path, message)
    refuse_types_and_values(tmp_path)
    refuse_places_and_options(tmp_path, monkeypatch)
    refuse_tokenizers(tmp_path / "tokenizers")
    assert unseen("conversion/gguf", SEEN) == []


def refuse_types_and_values(folder):
    source = save(folder / "plain")
    refused(source, folder, "dtype='q4_k' is not one of ['f32', 'f16', 'bf16', 'q8_0']; the weights are", dtype="q4_k")
    needs = (
        "intermediate_size=40 is not a multiple of 32, which dtype='q8_0' needs; choose one of ['f32', 'f16', 'bf16']."
    )
    refused(source, folder, needs, dtype="q8_0")
    double = save(folder / "double", dtype=torch.float64)
    refused(
        double, folder, "dtype=None is not one of ['f32', 'f16', 'bf16', 'q8_0']; the weights are in torch.float64."
    )
    model = tiny_model(dtype=torch.float32, vocab_size=300, eos_token_id=0)
    with torch.no_grad():
        model.lm_head.weight[3, 4] = 70000.0
    large = save(folder / "large")
    model.save_pretrained(large)
    refused(large, folder, "has a weight of 7e+04, but dtype='f16' ends at 65504; choose one of", dtype="f16")
    with torch.no_grad():
        model.lm_head.weight[3, 4] = torch.nan
    model.save_pretrained(large)
    refused(large, folder, "has weights that are not finite.")


def refuse_places_and_options(folder, monkeypatch):
    source = folder / "plain"
    named = f"target='{folder / 'made.gguf'}' is a folder, which gets model.gguf: name it without .gguf."
    with pytest.raises(ValueError, match="is a folder, which gets model.gguf") as caught:
        export(source, folder / "made.gguf", format="gguf")
    SEEN.append(str(caught.value))
    assert str(caught.value) == named
    refused(source, folder, "cache=True is for format='onnx'; llama.cpp keeps a cache by itself.", cache=True)
    refused(source, folder, "dtype='f16' is for format='gguf'; a program is in float32.", format="torch", dtype="f16")
    tiny_model(TrineModel, dtype=torch.float32).save_pretrained(folder / "trunk")
    refused(folder / "trunk", folder, "architectures=['TrineModel'] of")
    tiny_model(dtype=torch.float32).save_pretrained(folder / "no tokenizer")
    refused(folder / "no tokenizer", folder, "has no tokenizer.json that can be loaded, as a GGUF file needs")
    with monkeypatch.context() as patch:
        patch.setattr(programs, "find_spec", lambda name: None)
        refused(source, folder, "format='gguf' needs gguf: pip install 'trine[gguf]'.")
    with monkeypatch.context() as patch:
        encode = gguf_export.encode
        patch.setattr(gguf_export, "encode", lambda written: encode(written._replace(values=written.values * 2)))
        refused(source, folder, "read back from model.gguf differs by")


def edited(tokenizer, edit) -> TokenizersBackend:
    """A tokenizer with another tokenizer.json."""
    fields = json.loads(tokenizer.backend_tokenizer.to_str())
    edit(fields)
    named = {name: tokenizer.special_tokens_map.get(name) for name in ("eos_token", "bos_token", "unk_token")}
    raw = Tokenizer.from_str(json.dumps(fields))
    return TokenizersBackend(tokenizer_object=raw, **{name: token for name, token in named.items() if token})


def put(place: str, value):
    """An edit of tokenizer.json: a field, or one below a field."""
    *above, name = place.split(".")

    def edit(fields):
        for each in above:
            fields = fields[int(each) if each.isdigit() else each]
        fields[name] = value

    return edit


UNKNOWN = {"unk_token": "<unk>"}
METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never", "split": True}
PIECES = [["<unk>", 0.0], ["</s>", 0.0], ["▁a", -1.0], ["a", -2.0]]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def bpe_fields(merges, tokens):
    """Changes byte-level BPE to one over characters, with bytes for unknown ones."""

    def edit(fields):
        vocab = {token: number for number, token in enumerate(["<|endoftext|>", *tokens])}
        fields["model"] |= {"byte_fallback": True, "vocab": vocab, "merges": merges}
        fields |= {"pre_tokenizer": {**METASPACE, "split": False}, "added_tokens": fields["added_tokens"][:1]}

    return edit


def unigram_fields(pieces, pre_tokenizer=METASPACE, normalizer=None):
    """Changes a Unigram tokenizer to one of these pieces, without bytes."""

    def edit(fields):
        fields["model"] |= {"vocab": pieces, "unk_id": 0, "byte_fallback": False}
        fields |= {"pre_tokenizer": pre_tokenizer, "normalizer": normalizer, "post_processor": None}
        fields["added_tokens"] = [{**fields["added_tokens"][0], "id": 1, "content": "</s>"}]

    return edit


def refuse_tokenizers(folder):
    bpe, unigram = byte_level(), train_unigram(TEXTS, 600, show_progress=False)
    wordpiece = train_wordpiece(TEXTS, 300, show_progress=False)
    cases = [
        (byte_level("trine"), "which is none of llama.cpp's that are known to cut alike: ['deepseek-v3', 'gpt-2'"),
        (wordpiece, "model.type of the tokenizer of a GGUF file='WordPiece' is not one of ['BPE', 'Unigram']."),
        (unigram, "model.byte_fallback=True of a Unigram tokenizer: llama.cpp writes unknown characters as unk_token"),
        (edited(bpe, put("added_tokens.0.lstrip", True)), "The added token '<|endoftext|>' has lstrip=True, which"),
        (
            edited(bpe, put("model.dropout", 0.5)),
            "model.dropout=0.5 of the tokenizer is none of llama.cpp's: None only.",
        ),
        (
            edited(bpe, put("normalizer", {"type": "Lowercase"})),
            "normalizer='Lowercase' of the tokenizer is not one of",
        ),
        (
            edited(bpe, put("post_processor", {"type": "BertProcessing", "sep": ["b", 68], "cls": ["a", 67]})),
            "The tokenizer writes 'a' as ['b', 'a', 'c'], but llama.cpp adds bos_token='<|endoftext|>' before and",
        ),
        (
            TokenizersBackend(tokenizer_object=bpe.backend_tokenizer),
            "eos_token=None of the tokenizer, eos_token_id=None",
        ),
        (
            edited(bpe, bpe_fields([], ["a"])),
            "The tokenizer lacks 256 of 256 bytes, <0x00> first, as llama.cpp needs.",
        ),
        (
            edited(bpe, bpe_fields([["a", "b"]], [*BYTES, *"abc", "ab", "bc", "abc"])),
            None,  # what is no merge of its own is none of SentencePiece's either
        ),
        (
            edited(bpe, bpe_fields([["a", "b"], ["ab", "c"]], [*BYTES, *"abc", "ab", "bc", "abc"])),
            "The tokenizer does not merge 'a' and 'bc' to 'abc', as SentencePiece's BPE with byte_fallback=True",
        ),
        (
            edited(bpe, bpe_fields([["ab", "c"], ["a", "b"], ["a", "bc"]], [*BYTES, *"abc", "ab", "bc", "abc"])),
            "The tokenizer merges to 'abc' before and after other merges: no SentencePiece BPE.",
        ),
        (
            edited(bpe, lambda fields: [bpe_fields([], BYTES)(fields), put("pre_tokenizer", METASPACE)(fields)]),
            "of the tokenizer is none of llama.cpp's for SentencePiece: ",
        ),
        (
            edited(unigram, unigram_fields([*PIECES, ["a▁b", -3.0]])),
            "but 'a▁b' reaches over a space, and llama.cpp does",
        ),
        (
            edited(unigram, unigram_fields([*PIECES, ["\0", -3.0]])),
            "The tokenizer has the token '\\x00', but llama.cpp",
        ),
        (edited(unigram, unigram_fields(PIECES, normalizer={"type": "NFKC"})), "is not one of [None, 'Precompiled']."),
        (edited(unigram, unigram_fields(PIECES, None)), "pre_tokenizer=None of the tokenizer is not 'Metaspace'."),
    ]
    for number, (tokenizer, message) in enumerate(cases):
        source = folder / str(number)
        tiny_model(dtype=torch.float32, vocab_size=700).save_pretrained(source)
        tokenizer.save_pretrained(source)
        assert AutoTokenizer.from_pretrained(source).backend_tokenizer.to_str()
        if message is not None:
            refused(source, folder, message)

"""sentence-transformers loads encoder and decoder checkpoints as they are, and pools them in its three ways."""

import pytest
import torch
from sentence_transformers import InputExample, SentenceTransformer, losses
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from support.tiny import MIXED, SIZES, tiny_model
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase

from trine import TrineForCausalLM, TrineModel, TrineSeq2SeqConfig, TrineSeq2SeqModel, train_byte_level_bpe
from trine import train_wordpiece as train_wordpiece_tokenizer


TEXTS = ["a short text", "a text that is quite a bit longer than the short one", "word"]
POOLINGS = {
    "mean": lambda states: states.mean(dim=0),
    "cls": lambda states: states[0],
    "lasttoken": lambda states: states[-1],
}


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, PreTrainedTokenizerBase]:
    corpus = [*TEXTS, "the words of all texts"]
    return {
        "bpe": train_byte_level_bpe(corpus, 280, show_progress=False),
        "wordpiece": train_wordpiece_tokenizer(corpus, 300, show_progress=False),
    }


def saved(folder, tokenizer, model_class=TrineModel, **fields) -> str:
    fields = {"is_causal": False, "pad_token_id": tokenizer.pad_token_id, **MIXED, **fields}
    model = tiny_model(model_class, dtype=torch.float32, attn="sdpa", vocab_size=len(tokenizer), **fields)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def states_of(model, tokenizer, text: str) -> torch.Tensor:
    with torch.no_grad():
        return model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]


@pytest.mark.parametrize("pooling", sorted(POOLINGS))
@pytest.mark.parametrize("kind", ["bpe", "wordpiece"])
@pytest.mark.parametrize("is_causal", [True, False])
def test_every_pooling_of_every_shape(is_causal, kind, pooling, tokenizers, tmp_path):
    model_class = TrineForCausalLM if is_causal else TrineModel
    path = saved(tmp_path, tokenizers[kind], model_class, is_causal=is_causal)
    transformer = Transformer(path)
    embedder = SentenceTransformer(modules=[transformer, Pooling(transformer.get_embedding_dimension(), pooling)])
    trunk = TrineModel.from_pretrained(path)
    vectors = embedder.encode(TEXTS, convert_to_tensor=True)
    for vector, text in zip(vectors, TEXTS, strict=True):
        expected = POOLINGS[pooling](states_of(trunk, tokenizers[kind], text))
        torch.testing.assert_close(vector, expected, rtol=1e-4, atol=1e-5)


def test_a_folder_is_a_sentence_transformer(tokenizers, tmp_path):
    path = saved(tmp_path / "plain", tokenizers["wordpiece"], type_vocab_size=2)
    embedder = SentenceTransformer(path)
    expected = embedder.encode(TEXTS)
    mean = states_of(TrineModel.from_pretrained(path), tokenizers["wordpiece"], TEXTS[1]).mean(dim=0)
    torch.testing.assert_close(torch.tensor(expected[1]), mean, rtol=1e-4, atol=1e-5)
    embedder.save_pretrained(str(tmp_path / "saved"))
    assert (tmp_path / "saved" / "modeling_trine.py").exists(), "the code goes along"
    again = SentenceTransformer(str(tmp_path / "saved")).encode(TEXTS)
    assert (again == expected).all()


def test_the_encoder_of_an_encoder_decoder(tokenizers, tmp_path):
    tokenizer = tokenizers["bpe"]
    stack = {**SIZES, "vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, "bos_token_id": 0}
    model = TrineSeq2SeqModel(TrineSeq2SeqConfig(encoder=stack, decoder=stack)).eval()
    model.get_encoder().save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    vector = SentenceTransformer(str(tmp_path)).encode(TEXTS[0], convert_to_tensor=True)
    expected = states_of(model.get_encoder(), tokenizer, TEXTS[0]).mean(dim=0)
    torch.testing.assert_close(vector, expected, rtol=1e-4, atol=1e-5)


def test_embeddings_are_trained(tokenizers, tmp_path):
    """A few steps on pairs bring their cosine up, and that of other pairs down."""
    embedder = SentenceTransformer(saved(tmp_path, tokenizers["bpe"]))
    pairs = [("a short text", "word"), ("quite longer", "bit than"), ("the words", "of all"), ("one", "that is")]

    def contrast() -> float:
        left, right = (embedder.encode(list(side), convert_to_tensor=True) for side in zip(*pairs, strict=True))
        similar = torch.nn.functional.normalize(left) @ torch.nn.functional.normalize(right).T
        return (similar.diagonal().mean() - similar.mean()).item()

    before = contrast()
    loader = DataLoader([InputExample(texts=list(pair)) for pair in pairs], batch_size=4)  # pyright: ignore[reportArgumentType]
    optimizer = torch.optim.AdamW(embedder.parameters(), lr=1e-3)
    loss_function = losses.MultipleNegativesRankingLoss(embedder)
    loader.collate_fn = embedder.smart_batching_collate
    for _ in range(8):
        for features, _ in loader:
            loss = loss_function(features, None)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert contrast() > before + 0.1

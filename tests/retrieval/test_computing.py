"""Models of sentence-transformers that compute in bfloat16: their numbers are those of torch's autocast."""

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder, MultiVectorEncoder, SentenceTransformer, SparseEncoder
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from support.searches import DOCUMENTS, save_classifier, save_encoder
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from trine import TrineForMaskedLM, TrineForRetrieval, TrineModel
from trine.retrieval import HybridSearch, load_reranker
from trine.retrieval.computing import compute_in


TEXTS = [*DOCUMENTS.values()][:5]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("computing")
    save_encoder(folder / "encoder")
    save_classifier(folder / "cross")
    return folder


def autocast(model, texts):
    """What a model of transformers gives for texts (or pairs) in bfloat16, and the mask of their tokens."""
    batch = AutoTokenizer.from_pretrained(model.name_or_path)(*texts, padding=True, return_tensors="pt")
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        return model.eval()(**batch), batch["attention_mask"].unsqueeze(-1)


def test_vectors_are_means_of_states_in_bfloat16_and_the_index_stays(folder):
    name = str(folder / "encoder")
    model = compute_in(SentenceTransformer(name, device="cpu"), "bfloat16")
    vectors, plain = model.encode(TEXTS), SentenceTransformer(name, device="cpu").encode(TEXTS)
    outputs, mask = autocast(TrineModel.from_pretrained(name), [TEXTS])
    expected = (outputs.last_hidden_state.float() * mask).sum(1) / mask.sum(1)
    np.testing.assert_allclose(vectors, expected.numpy(), atol=1e-6)
    assert vectors.dtype == np.float32 and 1e-5 < np.abs(vectors - plain).max() < 0.05
    assert next(model.parameters()).dtype == torch.float32

    HybridSearch(model, DOCUMENTS).save(folder / "index")
    hit = HybridSearch.load(folder / "index", SentenceTransformer(name, device="cpu")).search("a red house", 1)[0]
    assert hit.id == HybridSearch(SentenceTransformer(name, device="cpu"), DOCUMENTS).search("a red house", 1)[0].id


def test_scores_of_pairs(folder):
    name, pairs = str(folder / "cross"), [("a red house", text) for text in TEXTS]
    reranker = load_reranker(name, "cpu", dtype="bfloat16")
    scores = reranker.predict(pairs, activation_fn=torch.nn.Identity())
    outputs, _ = autocast(
        AutoModelForSequenceClassification.from_pretrained(name), [[query for query, _ in pairs], TEXTS]
    )
    np.testing.assert_allclose(scores, outputs.logits[:, 0].float().numpy(), atol=1e-6)
    plain = CrossEncoder(name, device="cpu").predict(pairs, activation_fn=torch.nn.Identity())
    assert 1e-5 < np.abs(scores - plain).max() < 0.05 * np.abs(plain).max() + 0.05


def test_weights_and_vectors_of_tokens(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder / "encoder")
    torch.manual_seed(0)
    three = TrineForRetrieval.from_pretrained(
        folder / "encoder",
        retrieval_outputs=["dense", "sparse", "multi_vector"],
        unscored_token_ids=tokenizer.all_special_ids,
    )
    for made, name in ((three, "three"), (TrineForMaskedLM(three.config), "splade")):
        made.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    for kind, name in ((SentenceTransformer, "three"), (SparseEncoder, "three"), (SparseEncoder, "splade")):
        plain = kind(str(folder / name), device="cpu").encode(TEXTS, convert_to_tensor=True).to_dense()
        close = compute_in(kind(str(folder / name), device="cpu"), "bfloat16").encode(TEXTS, convert_to_tensor=True)
        assert close.dtype == torch.float32 and not torch.equal(plain, close.to_dense())
        assert torch.cosine_similarity(plain, close.to_dense()).min() > 0.999
    ours = compute_in(MultiVectorEncoder(str(folder / "three"), device="cpu"), "bfloat16").encode_document(TEXTS[0])
    theirs = MultiVectorEncoder(str(folder / "three"), device="cpu").encode_document(TEXTS[0])
    np.testing.assert_allclose(ours, theirs, atol=0.02)


def test_float32_of_other_weights(folder, tmp_path):
    model = SentenceTransformer(str(folder / "encoder"), device="cpu").to(torch.bfloat16)
    model.save_pretrained(str(tmp_path))
    assert next(SentenceTransformer(str(tmp_path), device="cpu").parameters()).dtype == torch.bfloat16
    read = compute_in(SentenceTransformer(str(tmp_path), device="cpu"), "float32")
    assert {each.dtype for each in read.parameters()} == {torch.float32}


def test_what_is_refused(folder):
    with pytest.raises(ValueError, match="dtype='float8' is not one of"):
        compute_in(SentenceTransformer(str(folder / "encoder"), device="cpu"), "float8")
    with pytest.raises(ValueError, match="dtype='fp16' is not one of"):
        load_reranker(str(folder / "cross"), dtype="fp16")
    words = StaticEmbedding(AutoTokenizer.from_pretrained(folder / "encoder"), embedding_dim=4)
    with pytest.raises(ValueError, match="dtype='bfloat16' is for a model with a transformer; .* has StaticEmbedding"):
        compute_in(SentenceTransformer(modules=[words], device="cpu"), "bfloat16")

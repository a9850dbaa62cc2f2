"""The vectors of `TrineForRetrieval`, their scores and their loss, against M3's formulae written out here."""

import json
from typing import Any, cast

import numpy as np
import pytest
import torch
from sentence_transformers import MultiVectorEncoder, SentenceTransformer, SparseEncoder
from support import forks
from support.tiny import MIXED, SPARSE, tiny_config, tiny_model
from transformers import AutoModel, TrainingArguments

from trine import TrineForMaskedLM, TrineForRetrieval, TrineModel, train_wordpiece
from trine.configuration.bundle import files_of
from trine.modeling.heads.retrieval_scores import RetrievalVectors, weighted_sum
from trine.training import RetrievalCollator, RetrievalTrainer, retrieval_loss


TEXTS = ["red house", "a red red house on the old hill", "old horse", "", "the hill of the house is a red old hill"]
ALL = ["dense", "sparse", "multi_vector"]
KINDS = {
    "mixed": MIXED,
    "simplicial": {"attention_types": "simplicial, bigbird"},
    "sparse": {**SPARSE, "attention_types": "linear, full"},
    "learned": {"position_type": "learned", "type_vocab_size": 2},
}
TOLERANCES: Any = {"rtol": 1e-6, "atol": 1e-6}


@pytest.fixture(scope="module")
def tokenizer():
    return train_wordpiece([*TEXTS, "some words of other texts"], 120, show_progress=False)


def make(tokenizer, outputs=ALL, **fields) -> TrineForRetrieval:
    fields = {"is_causal": False, "vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, **fields}
    fields |= {"retrieval_outputs": outputs, "unscored_token_ids": tokenizer.all_special_ids, "multi_vector_dim": 6}
    return tiny_model(TrineForRetrieval, **fields)


def states_of(model, tokenizer, text: str) -> tuple[list[int], np.ndarray]:
    ids = tokenizer(text)["input_ids"]
    with torch.no_grad():
        return ids, model.model(torch.tensor([ids])).last_hidden_state[0].numpy()


def expected_vectors(model, tokenizer, text: str):
    """Dense, weights by token, and vectors by a loop over the tokens of one text."""
    ids, states = states_of(model, tokenizer, text)
    weights = {name: value.detach().numpy() for name, value in model.state_dict().items() if "linear." in name}
    mean = states.mean(axis=0)
    lexical, vectors = {}, []
    for token, state in zip(ids, states, strict=True):
        if token in tokenizer.all_special_ids:
            continue
        weight = max(0.0, float(weights["sparse_linear.weight"][0] @ state + weights["sparse_linear.bias"][0]))
        if weight > 0:
            lexical[token] = max(weight, lexical.get(token, 0.0))
        vector = weights["multi_vector_linear.weight"] @ state + weights["multi_vector_linear.bias"]
        vectors.append(vector / np.linalg.norm(vector))
    return mean / np.linalg.norm(mean), lexical, np.array(vectors).reshape(-1, 6)


def expected_scores(query, document) -> dict[str, float]:
    lexical = sum(weight * document[1].get(token, 0.0) for token, weight in query[1].items())
    largest = [max(float(q @ d) for d in document[2]) for q in query[2] if len(document[2])]
    multiple = sum(largest) / len(query[2]) if len(query[2]) else 0.0
    dense = float(query[0] @ document[0])
    return {"dense": dense, "sparse": lexical, "multi_vector": multiple, "sum": dense + 0.3 * lexical + multiple}


@pytest.mark.parametrize("padding_free", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_vectors_and_scores_are_those_of_the_formulae(kind, padding_free, tokenizer):
    model = make(tokenizer, **KINDS[kind]).train()
    asked: Any = {"return_sparse": True, "return_multi_vector": True, "tokenizer": tokenizer}
    found: Any = model.encode(TEXTS, **asked, batch_size=2, padding_free=padding_free)
    assert model.training and found.dense.dtype == torch.float32
    expected = [expected_vectors(model.eval(), tokenizer, text) for text in TEXTS]
    for place, (dense, lexical, vectors) in enumerate(expected):
        np.testing.assert_allclose(found.dense[place], dense, **TOLERANCES)
        assert found.sparse[place].keys() == lexical.keys()
        np.testing.assert_allclose([*found.sparse[place].values()], [*lexical.values()], **TOLERANCES)
        np.testing.assert_allclose(found.multi_vector[place], vectors, **TOLERANCES)
    assert found.sparse[3] == {} and found.multi_vector[3].shape == (0, 6)
    for name, scores in found.scores(found).items():
        loop = [[expected_scores(query, document)[name] for document in expected] for query in expected]
        np.testing.assert_allclose(scores, loop, **TOLERANCES)
    in_parts = found.multi_vector_scores(found, batch_size=2)
    np.testing.assert_allclose(in_parts, found.multi_vector_scores(found), **TOLERANCES)


def test_a_batch_has_what_single_texts_have(tokenizer):
    """The outputs of `forward`, with padding on either side."""
    model = make(tokenizer)
    for side in ("right", "left"):
        tokenizer.padding_side = side
        batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
        with torch.no_grad():
            outputs = model(**batch)
        for row, text in enumerate(TEXTS):
            dense, lexical, vectors = expected_vectors(model, tokenizer, text)
            np.testing.assert_allclose(outputs.dense[row], dense, rtol=1e-9)
            kept = outputs.embeddings[row].abs().sum(-1) > 0
            np.testing.assert_allclose(outputs.embeddings[row][kept], vectors, rtol=1e-9)
            assert not outputs.token_weights[row][~kept].any()
            sparse = model.sparse_vectors(**batch)[row].detach()
            assert {int(token): float(sparse[token]) for token in sparse.nonzero()} == pytest.approx(lexical)
    tokenizer.padding_side = "right"


@pytest.mark.parametrize("outputs", [["dense"], ["sparse"], ["multi_vector", "dense"]])
def test_what_is_off_has_no_parameters_and_is_not_made(outputs, tokenizer):
    model = make(tokenizer, outputs)
    names = {name.split(".")[0].removesuffix("_linear") for name, _ in model.named_parameters()} - {"model"}
    assert names == {*outputs} - {"dense"}
    made = model(torch.tensor([[5, 6]]))
    fields = {"dense": "dense", "sparse": "token_weights", "multi_vector": "embeddings"}
    assert {name for name, field in fields.items() if getattr(made, field) is not None} == {*outputs}
    made = model(torch.tensor([[5, 6]]), **{f"return_{outputs[0]}": False})
    assert getattr(made, fields[outputs[0]]) is None
    off = next(name for name in ALL if name not in outputs)
    with pytest.raises(ValueError, match=rf"'{off}' is not among retrieval_outputs=\[.*\], which this model makes"):
        model.encode("red", tokenizer=tokenizer, **{"return_dense": False, f"return_{off}": True})


def expected_loss(scores: dict[str, np.ndarray], targets: list[int], temperature: float, distill: bool) -> float:
    """Equations of section 3.3 of arXiv 2402.03216, a query at a time."""
    weights, lambdas = {"dense": 1, "sparse": 0.3, "multi_vector": 1}, {"dense": 1, "sparse": 0.1, "multi_vector": 1}
    total = 0.0
    for row, right in enumerate(targets):
        inter = sum(weights[name] * scores[name][row] for name in scores)

        def log_p(values):
            values = values / temperature
            return values - values.max() - np.log(np.exp(values - values.max()).sum())

        parts = {name: -log_p(scores[name][row])[right] for name in scores}
        if len(scores) == 1:
            total += next(iter(parts.values()))
            continue
        first = (sum(lambdas[name] * part for name, part in parts.items()) - log_p(inter)[right]) / (len(scores) + 1)
        taught = {name: -(np.exp(log_p(inter)) * log_p(scores[name][row])).sum() for name in scores}
        second = sum(lambdas[name] * part for name, part in taught.items()) / len(scores)
        total += (first + second) / 2 if distill else first
    return total / len(targets)


@pytest.mark.parametrize("names", [ALL, ["dense", "sparse"], ["multi_vector"]])
@pytest.mark.parametrize("distill", [True, False])
def test_the_loss_is_that_of_the_paper(distill, names):
    generator = torch.Generator().manual_seed(1)
    scores: Any = {name: torch.rand(3, 5, generator=generator, dtype=torch.float64) for name in names}
    scores = {name: value.requires_grad_() for name, value in scores.items()}
    loss = retrieval_loss(scores, torch.tensor([0, 2, 4]), 0.1, distill=distill)
    arrays = {name: value.detach().numpy() for name, value in scores.items()}
    assert loss.item() == pytest.approx(expected_loss(arrays, [0, 2, 4], 0.1, distill), rel=1e-10)
    if distill and len(names) > 1:  # the sum teaches, and is not taught: its probabilities are held
        loss.backward()
        step, name = 1e-6, names[0]
        taught = sum({"dense": 1, "sparse": 0.3, "multi_vector": 1}[n] * v for n, v in arrays.items()) / 0.1
        target = torch.tensor(taught).softmax(-1)

        def held(value: np.ndarray) -> float:
            moved = {**arrays, name: value}
            first = expected_loss(moved, [0, 2, 4], 0.1, False)
            lambdas = {"dense": 1, "sparse": 0.1, "multi_vector": 1}
            taught = [
                lambdas[n] * torch.nn.functional.cross_entropy(torch.tensor(v) / 0.1, target).item()
                for n, v in moved.items()
            ]
            return (first + sum(taught) / len(moved)) / 2

        moved = np.zeros((3, 5))
        moved[1, 3] = step
        slope = (held(arrays[name] + moved) - held(arrays[name] - moved)) / (2 * step)
        assert scores[name].grad[1, 3].item() == pytest.approx(slope, rel=1e-5)


RECORDS = [
    {"query": "red house", "positive": "a house that is red", "negatives": ["an old horse", "a red hill"]},
    {"query": "old hill", "positive": "the hill is old"},
    {"query": "horse", "positive": "an old horse", "negatives": ["old house"]},
    {"query": "words", "positive": "some words of other texts", "negatives": []},
]


@pytest.mark.parametrize("kind", ["mixed", "sparse"])
def test_training_brings_the_right_document_forward(kind, tokenizer, tmp_path):
    """Of all three kinds, for which every parameter gets a gradient."""
    fields = {**KINDS[kind], "router_aux_loss_coef": 0.01} if kind == "sparse" else KINDS[kind]
    model = make(tokenizer, **fields).float()
    arguments = TrainingArguments(
        str(tmp_path), max_steps=12, per_device_train_batch_size=4, learning_rate=3e-3, use_cpu=True,
        report_to="none", disable_tqdm=True, save_strategy="no", logging_strategy="no",
    )  # fmt: skip
    trainer = RetrievalTrainer(model, arguments, RetrievalCollator(tokenizer, 16), RECORDS, RECORDS, temperature=0.1)
    batch: Any = trainer.data_collator(RECORDS)
    assert len(batch["queries"]["input_ids"]) == 4 and len(batch["documents"]["input_ids"]) == 7
    loss, scores = cast(Any, trainer).compute_loss(model.train(), batch, return_outputs=True)
    assert {name: tuple(score.shape) for name, score in scores.items()} == dict.fromkeys(ALL, (4, 7))
    loss.backward()
    idle = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert not idle, idle
    if kind == "sparse":
        router: Any = next(parameter for name, parameter in model.named_parameters() if "mlp.gate.weight" in name)
        assert router.grad.abs().sum() > 0
    model.zero_grad()
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < before - 0.3


@pytest.fixture(scope="module")
def folder(tokenizer, tmp_path_factory):
    path = tmp_path_factory.mktemp("retrieval") / "model"
    make(tokenizer, **MIXED).float().save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def read_by_sentence_transformers(folder, **options) -> dict[str, np.ndarray]:
    """What the three classes of sentence-transformers make of a folder."""
    sparse = SparseEncoder(str(folder), device="cpu", **options)
    multiple = MultiVectorEncoder(str(folder), device="cpu", **options)
    documents = multiple.encode_document(TEXTS)
    return {
        "dense": SentenceTransformer(str(folder), device="cpu", **options).encode(TEXTS, normalize_embeddings=True),
        "sparse": sparse.encode(TEXTS).to_dense().numpy(),
        "scores": multiple.similarity(multiple.encode_query(TEXTS), documents).numpy(),
    }


def test_one_folder_for_three_classes(folder, tokenizer):
    model = TrineForRetrieval.from_pretrained(folder)
    found = model.encode(TEXTS, return_sparse=True, return_multi_vector=True)
    read = read_by_sentence_transformers(folder)
    np.testing.assert_allclose(read["dense"], found.dense, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(read["sparse"], found.sparse_matrix().to_dense(), rtol=1e-5, atol=1e-6)
    with_any = [[*vectors, torch.zeros(6)] for vectors in found.multi_vector]
    for row, query in enumerate(found.multi_vector):  # theirs is the sum, and a document has zeros for special tokens
        expected = [sum(max(0.0, *(float(q @ d) for d in document)) for q in query) for document in with_any]
        np.testing.assert_allclose(read["scores"][row], expected, rtol=1e-4, atol=1e-5)
    assert isinstance(AutoModel.from_pretrained(folder), TrineModel)
    again = model.encode(TEXTS, return_sparse=True)
    assert again.sparse == found.sparse and torch.equal(again.dense, found.dense)


def test_sentence_transformers_saves_it_again(folder, tmp_path):
    encoder = SparseEncoder(str(folder), device="cpu")
    encoder.save_pretrained(str(tmp_path))
    again = SparseEncoder(str(tmp_path), device="cpu")
    assert torch.equal(again.encode(TEXTS).to_dense(), encoder.encode(TEXTS).to_dense())
    assert again.similarity_fn_name == "dot"
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["TrineForRetrieval"]


REMOTE = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "trine":
            raise ImportError("trine is not installed here")
sys.meta_path.insert(0, Blocker())
import numpy as np
from sentence_transformers import MultiVectorEncoder, SentenceTransformer, SparseEncoder
from transformers import AutoModel
folder, texts = sys.argv[1], sys.argv[2].split("|")
model = AutoModel.from_pretrained(folder, trust_remote_code=True)
assert type(model).__name__ == "TrineForRetrieval" and "transformers_modules" in type(model).__module__
found = model.encode(texts, return_sparse=True, return_multi_vector=True)
options = {"device": "cpu", "trust_remote_code": True}
multiple = MultiVectorEncoder(folder, **options)
np.savez(
    sys.argv[3],
    encoded=found.dense, matrix=found.sparse_matrix().to_dense(), multiple=found.multi_vector_scores(found),
    dense=SentenceTransformer(folder, **options).encode(texts, normalize_embeddings=True),
    sparse=SparseEncoder(folder, **options).encode(texts).to_dense().numpy(),
    scores=multiple.similarity(multiple.encode_query(texts), multiple.encode_document(texts)).numpy(),
)
model.save_pretrained(sys.argv[4])
assert "trine" not in sys.modules
"""


def test_without_the_package(folder, tmp_path):
    written = [str(tmp_path / name) for name in ("r.npz", "b")]
    done = forks.run(["-c", REMOTE, str(folder), "|".join(TEXTS), *written], tmp_path)
    assert done.returncode == 0, done.stderr
    made, read = np.load(tmp_path / "r.npz"), read_by_sentence_transformers(folder)
    found = TrineForRetrieval.from_pretrained(folder).encode(TEXTS, return_sparse=True, return_multi_vector=True)
    for name, expected in {
        **read,
        "encoded": found.dense,
        "matrix": found.sparse_matrix().to_dense(),
        "multiple": found.multi_vector_scores(found),
    }.items():
        np.testing.assert_allclose(made[name], expected, rtol=1e-5, atol=1e-6)
    maps = [json.loads((place / "config.json").read_text())["auto_map"] for place in (folder, tmp_path / "b")]
    assert maps[0] == maps[1] and maps[0]["AutoModel"] == "modeling_trine.TrineForRetrieval"


def test_a_sparse_encoder_without_the_head_is_refused(tokenizer, tmp_path):
    make(tokenizer, ["dense"]).float().save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert SentenceTransformer(str(tmp_path), device="cpu").encode(TEXTS).shape == (5, 32)
    with pytest.raises(ValueError, match=r"'sparse' is not among retrieval_outputs=\['dense'\]"):
        SparseEncoder(str(tmp_path), device="cpu").encode(TEXTS)


def test_only_its_checkpoints_carry_the_class():
    fields = {"is_causal": False, "retrieval_outputs": ["sparse"], "unscored_token_ids": [0]}
    assert "class TrineForRetrieval(" in "".join(files_of(tiny_config(**fields)).values())
    assert "TrineForRetrieval(" not in "".join(files_of(tiny_config(is_causal=False)).values())


def test_a_pretrained_encoder_gets_new_heads(tokenizer, tmp_path):
    encoder = tiny_model(TrineForMaskedLM, is_causal=False, vocab_size=len(tokenizer), dtype=torch.float32)
    encoder.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    fields = {"retrieval_outputs": ALL, "unscored_token_ids": tokenizer.all_special_ids}
    model = TrineForRetrieval.from_pretrained(tmp_path, **fields)
    assert torch.equal(model.model.embed_tokens.weight, encoder.model.embed_tokens.weight)
    assert model.encode("red house", return_multi_vector=True).multi_vector[0].shape[1] == 128


def test_what_encode_refuses(tokenizer):
    model = make(tokenizer)
    with pytest.raises(ValueError, match="return_multi_vector are all False: ask for one"):
        model.encode(TEXTS, return_dense=False, tokenizer=tokenizer)
    with pytest.raises(ValueError, match="tokenizer=None, but this model was not loaded from a folder"):
        model.encode(TEXTS)
    model.config.unscored_token_ids = [tokenizer.pad_token_id]
    added = sorted({tokenizer.cls_token_id, tokenizer.sep_token_id})
    with pytest.raises(ValueError, match=rf"unscored_token_ids=\[\d+\] lacks \[{added[0]}, {added[1]}\], special"):
        model.encode(TEXTS, return_sparse=True, tokenizer=tokenizer)
    assert model.encode([], tokenizer=tokenizer).dense.shape == (0, 32)  # pyright: ignore[reportOptionalMemberAccess]
    with pytest.raises(ValueError, match="inputs_embeds do not tell special tokens from others"):
        model(inputs_embeds=torch.zeros(1, 2, 32, dtype=torch.float64))


def test_what_scores_and_loss_refuse():
    vectors = RetrievalVectors(dense=torch.ones(1, 2))
    with pytest.raises(ValueError, match="The queries have no sparse vectors: ask encode for them by return"):
        vectors.sparse_scores(vectors)
    scores = {"dense": torch.ones(1, 1), "sparse": torch.ones(1, 1)}
    assert weighted_sum(scores, {"sparse": 2.0}).item() == 2.0
    with pytest.raises(ValueError, match=r"weights has 'colbert', but the scores are \['dense', 'sparse'\]"):
        weighted_sum(scores, {"colbert": 1.0})
    for wrong in (-1.0, float("nan")):
        with pytest.raises(ValueError, match=r"weights\['dense'\]=.* must be a number that is not negative"):
            weighted_sum(scores, {"dense": wrong})
    with pytest.raises(ValueError, match=r"weights=\{'dense': 0.0\} leave nothing"):
        weighted_sum(scores, {"dense": 0.0})
    with pytest.raises(ValueError, match="temperature=0 must be above 0"):
        retrieval_loss(scores, torch.tensor([0]), 0)
    with pytest.raises(ValueError, match="scores={} has none of"):
        retrieval_loss({}, torch.tensor([0]))


def test_a_plain_config_is_not_for_retrieval():
    with pytest.raises(ValueError, match=r"retrieval_outputs=None names none of \['dense', 'sparse', 'multi"):
        TrineForRetrieval(tiny_config(is_causal=False))

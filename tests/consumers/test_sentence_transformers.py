"""sentence-transformers: each of its models from a folder's name, beside a direct computation; trained, saved."""

import torch
from consumers.cases import Case
from consumers.checks import Gradients, check_close, check_falls
from consumers.contenders import ALL_DECODERS, DECODERS, ENCODER_DECODERS, ENCODERS
from consumers.texts import PAIRS, TEXTS
from datasets import Dataset
from sentence_transformers import (
    CrossEncoder,
    CrossEncoderTrainer,
    CrossEncoderTrainingArguments,
    MultiVectorEncoder,
    MultiVectorEncoderTrainer,
    MultiVectorEncoderTrainingArguments,
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
    SparseEncoder,
    SparseEncoderTrainer,
    SparseEncoderTrainingArguments,
)
from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss
from sentence_transformers.multi_vector_encoder.losses import MultiVectorMultipleNegativesRankingLoss
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from sentence_transformers.sparse_encoder.losses import SparseMultipleNegativesRankingLoss, SpladeLoss
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM


LIBRARY = "sentence-transformers"
QUESTIONS = Dataset.from_dict({"anchor": [q for q, _ in PAIRS], "positive": [a for _, a in PAIRS]})
# One batch, four right pairs and four wrong ones: a score for single pairs is learnt by heart in few steps.
SCORED = Dataset.from_dict(
    {
        "query": [question for question, _ in PAIRS[:4]] * 2,
        "answer": [answer for _, answer in PAIRS[:4]] + [PAIRS[index - 3][1] for index in range(4)],
        "label": [1.0] * 4 + [0.0] * 4,
    }
)


def is_unused(name: str) -> bool:
    """Weights that no loss here depends on, peers' included: poolers."""
    return "pooler" in name


def train(trainer_class, arguments_class, model, dataset, loss, folder, steps: int = 8) -> None:
    gradients = Gradients(is_unused)
    arguments = arguments_class(
        output_dir=str(folder / "run"),
        max_steps=steps,
        per_device_train_batch_size=8,
        learning_rate=2e-3,
        logging_steps=1,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
        lr_scheduler_type="constant",
    )
    trainer = trainer_class(model=model, args=arguments, train_dataset=dataset, loss=loss, callbacks=[gradients])
    trainer.train()
    gradients.check()
    check_falls([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])


def states_of(contender, library_model, text: str) -> torch.Tensor:
    """The last hidden states of the tokens that `library_model` makes of one text, by transformers alone."""
    inputs = {"input_ids": library_model.preprocess([text])["input_ids"]}
    if contender.name in ENCODER_DECODERS:
        model = contender.load(AutoModelForSeq2SeqLM).get_encoder()
    else:
        model = contender.load(AutoModel)
    with torch.no_grad():
        return model.eval()(**inputs).last_hidden_state[0]


def embed(contender, folder):
    model = SentenceTransformer(contender.folder, device="cpu", **contender.trust)
    texts = TEXTS[:4]
    embeddings = model.encode(texts, convert_to_tensor=True)
    pool = (lambda states: states[-1]) if model[1].pooling_mode == "lasttoken" else (lambda states: states.mean(0))
    check_close(embeddings, torch.stack([pool(states_of(contender, model, text)) for text in texts]))
    loss = MultipleNegativesRankingLoss(model)
    train(SentenceTransformerTrainer, SentenceTransformerTrainingArguments, model, QUESTIONS, loss, folder)

    def encode(one):
        return one.encode(texts, convert_to_tensor=True)

    check_reloads(contender, folder, model, encode)


def check_reloads(contender, folder, model, compute) -> None:
    expected = compute(model)
    model.save_pretrained(str(folder / "saved"))
    again = type(model)(str(folder / "saved"), device="cpu", **contender.trust)
    check_close(compute(again), expected)


def splade(contender, folder):
    model = SparseEncoder(contender.folder, device="cpu", **contender.trust)
    texts = TEXTS[:4]
    embeddings = model.encode(texts).to_dense()
    head = contender.load(AutoModelForMaskedLM).eval()
    with torch.no_grad():
        logits = [head(**contender.tokenizer(text, return_tensors="pt")).logits[0] for text in texts]
    check_close(embeddings, torch.stack([one.relu().log1p().max(dim=0).values for one in logits]))
    loss = SpladeLoss(
        model=model,
        loss=SparseMultipleNegativesRankingLoss(model),
        query_regularizer_weight=1e-4,
        document_regularizer_weight=1e-4,
    )
    train(SparseEncoderTrainer, SparseEncoderTrainingArguments, model, QUESTIONS, loss, folder)
    check_reloads(contender, folder, model, lambda one: one.encode(texts).to_dense())


def cross(contender, folder):
    """A new head on an encoder: after training and saving, the scores are the sigmoid of the classifier's logits."""
    torch.manual_seed(0)
    model = CrossEncoder(contender.folder, num_labels=1, device="cpu", **contender.trust)
    check_cross(contender, folder, model)


def check_cross(contender, folder, model) -> None:
    loss = BinaryCrossEntropyLoss(model)
    train(CrossEncoderTrainer, CrossEncoderTrainingArguments, model, SCORED, loss, folder, steps=12)
    check_reloads(contender, folder, model, lambda one: one.predict(PAIRS[:6], convert_to_tensor=True))


def cross_of_a_language_model(contender, folder):
    """Without a classifier, a decoder's score of a pair is its logit of "yes" less that of "no"."""
    model = CrossEncoder(contender.folder, device="cpu", **contender.trust)
    tokenizer = contender.tokenizer
    yes, no = tokenizer.convert_tokens_to_ids(["yes", "no"])
    scores = model.predict(PAIRS[:4], convert_to_tensor=True, activation_fn=torch.nn.Identity())
    head = contender.load(AutoModelForCausalLM).eval()
    expected = []
    for pair in PAIRS[:4]:
        inputs = model.preprocess([pair])
        with torch.no_grad():
            logits = head(inputs["input_ids"]).logits[0, -1]
        expected.append(logits[yes] - logits[no])
    check_close(scores, torch.stack(expected))
    check_cross(contender, folder, model)


def late_interaction(contender, folder):
    torch.manual_seed(0)
    model = MultiVectorEncoder(contender.folder, device="cpu", **contender.trust)
    vectors = model.encode_document(TEXTS[:3])
    for text, own in zip(TEXTS[:3], vectors, strict=True):
        projected = model[1].linear(states_of(contender, model, text))
        check_close(own, torch.nn.functional.normalize(projected, dim=-1).detach())
    queries = model.encode_query(TEXTS[3:5])
    expected = [[(query @ own.T).max(dim=1).values.sum() for own in vectors] for query in queries]
    check_close(model.similarity(queries, vectors), torch.tensor(expected))
    loss = MultiVectorMultipleNegativesRankingLoss(model)
    train(MultiVectorEncoderTrainer, MultiVectorEncoderTrainingArguments, model, QUESTIONS, loss, folder)
    check_reloads(contender, folder, model, lambda one: one.encode_query(TEXTS[:1])[0])


TRAINED = "the loss falls, gradients reach, saved equals reloaded"
CASES = [
    Case("SentenceTransformer", embed, f"pooled states of each text alone; {TRAINED}", (*ALL_DECODERS, *ENCODERS)),
    Case("SentenceTransformer, encoder-decoders", embed, "likewise", ENCODER_DECODERS),
    Case("SparseEncoder", splade, f"max of log(1 + relu(logits)); {TRAINED}", ENCODERS),
    Case("CrossEncoder", cross, TRAINED, (*ENCODERS, *ENCODER_DECODERS)),
    Case("CrossEncoder of a language model", cross_of_a_language_model, f"yes less no; {TRAINED}", DECODERS),
    Case("MultiVectorEncoder", late_interaction, f"normed states, MaxSim; {TRAINED}", ("Llama", "dense", *ENCODERS)),
]


def test_sentence_transformers(case, contender, tmp_path):
    case.check(contender, tmp_path)

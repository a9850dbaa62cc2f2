"""transformers' pipelines for text: each from a folder's name, compared with a direct computation."""

import torch
from consumers.cases import Case
from consumers.checks import check_close
from consumers.contenders import ALL_DECODERS, DECODERS, ENCODER_DECODERS, ENCODERS
from consumers.texts import PAIRS, TEXTS
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    pipeline,
)


LIBRARY = "pipelines"
GREEDY = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False}


def make(task, contender, folder=None, **keywords):
    return pipeline(task, model=str(folder or contender.folder), device="cpu", **contender.trust, **keywords)


def with_head(contender, folder, auto_class, **fields):
    """The folder of a contender with a new head, which is random but the same wherever it is loaded."""
    torch.manual_seed(0)
    model = contender.load(auto_class, **fields)
    model.save_pretrained(folder / "headed")
    contender.tokenizer.save_pretrained(folder / "headed")
    return model.eval()


def generate(contender, folder):
    """A padded batch, with a cache: each text as alone and without."""
    prompts = [question for question, _ in PAIRS[:3]] + ["the red"]
    generated = make("text-generation", contender)(prompts, batch_size=4, return_full_text=False, **GREEDY)
    model = contender.load(AutoModelForCausalLM).eval()
    for prompt, (answer,) in zip(prompts, generated, strict=True):
        ids = contender.tokenizer(prompt, return_tensors="pt").input_ids
        tokens = model.generate(ids, use_cache=False, **GREEDY)[0, ids.shape[1] :]
        assert answer["generated_text"] == contender.tokenizer.decode(tokens, skip_special_tokens=True)


def chat(contender, folder):
    messages = [{"role": "user", "content": PAIRS[0][0]}]
    answer = make("text-generation", contender)(messages, **GREEDY)[0]["generated_text"][-1]
    model, tokenizer = contender.load(AutoModelForCausalLM).eval(), contender.tokenizer
    inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt")
    tokens = model.generate(**inputs, use_cache=False, **GREEDY)[0, inputs["input_ids"].shape[1] :]
    assert answer == {"role": "assistant", "content": tokenizer.decode(tokens, skip_special_tokens=True)}


def fill_mask(contender, folder):
    text = TEXTS[0].replace("red", contender.tokenizer.mask_token)
    scores = {guess["token"]: guess["score"] for guess in make("fill-mask", contender)(text, top_k=5)}
    inputs = contender.tokenizer(text, return_tensors="pt")
    with torch.no_grad():
        logits = contender.load(AutoModelForMaskedLM).eval()(**inputs).logits[0]
    place = int((inputs.input_ids[0] == contender.tokenizer.mask_token_id).nonzero())
    best = logits[place].softmax(-1).topk(5)
    assert list(scores) == best.indices.tolist()
    check_close(torch.tensor(list(scores.values())), best.values)


def classify(texts):
    """`texts`: strings, or pairs of them."""

    def run(contender, folder):
        model = with_head(contender, folder, AutoModelForSequenceClassification, num_labels=3)
        inputs = [text if isinstance(text, str) else {"text": text[0], "text_pair": text[1]} for text in texts]
        answers = make("text-classification", contender, folder / "headed")(inputs, top_k=None, batch_size=4)
        expected = []
        for text in texts:
            encoded = contender.tokenizer(*([text] if isinstance(text, str) else text), return_tensors="pt")
            with torch.no_grad():
                expected.append(model(**encoded).logits[0].softmax(-1))
        actual = [[score["score"] for score in sorted(answer, key=lambda one: one["label"])] for answer in answers]
        check_close(torch.tensor(actual), torch.stack(expected))

    return run


def choose_without_training(contender, folder):
    labels = {"id2label": {0: "contradiction", 1: "entailment"}, "label2id": {"contradiction": 0, "entailment": 1}}
    model = with_head(contender, folder, AutoModelForSequenceClassification, num_labels=2, **labels)
    classifier = make("zero-shot-classification", contender, folder / "headed")
    answer = classifier(TEXTS[0], ["dog", "red horse"], multi_label=True)
    expected = {}
    for label in ("dog", "red horse"):
        encoded = contender.tokenizer(TEXTS[0], f"This example is {label}.", return_tensors="pt")
        with torch.no_grad():
            expected[label] = float(model(**encoded).logits[0].softmax(-1)[1])
    check_close(torch.tensor(answer["scores"]), torch.tensor([expected[label] for label in answer["labels"]]))


def label_tokens(contender, folder):
    model = with_head(contender, folder, AutoModelForTokenClassification, num_labels=3)
    found = make("token-classification", contender, folder / "headed", ignore_labels=[])(TEXTS[0])
    encoded = contender.tokenizer(TEXTS[0], return_tensors="pt", return_special_tokens_mask=True)
    special = encoded.pop("special_tokens_mask")[0].bool()
    with torch.no_grad():
        expected = model(**encoded).logits[0].softmax(-1).max(-1).values[~special]
    check_close(torch.tensor([float(one["score"]) for one in found]), expected)


def extract(contender, folder):
    states = make("feature-extraction", contender)(TEXTS[0], return_tensors=True)
    inputs = contender.tokenizer(TEXTS[0], return_tensors="pt")
    if contender.name in ENCODER_DECODERS:
        inputs["decoder_input_ids"] = inputs["input_ids"]
    with torch.no_grad():
        check_close(states, contender.load(AutoModel).eval()(**inputs).last_hidden_state)


DIRECT = "equals a direct computation of each text"
CLASSIFIERS = (*DECODERS, *ENCODERS)
CASES = [
    Case("text-generation", generate, "a padded, cached batch equals single, uncached texts", ALL_DECODERS),
    Case("text-generation of chats", chat, "equals `apply_chat_template` and `generate`", DECODERS),
    Case("fill-mask", fill_mask, DIRECT, ENCODERS),
    Case("text-classification", classify(TEXTS[:4]), DIRECT, (*CLASSIFIERS, *ENCODER_DECODERS)),
    Case("text-classification of pairs", classify(PAIRS[:4]), DIRECT, (*CLASSIFIERS, *ENCODER_DECODERS)),
    Case("zero-shot-classification", choose_without_training, DIRECT, (*CLASSIFIERS, *ENCODER_DECODERS)),
    Case("token-classification", label_tokens, DIRECT, (*CLASSIFIERS, *ENCODER_DECODERS)),
    Case("feature-extraction", extract, DIRECT, CLASSIFIERS),
]


def test_pipelines(case, contender, tmp_path):
    case.check(contender, tmp_path)

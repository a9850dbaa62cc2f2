"""captum and nnsight: what the parts of a model have to do with its answer."""

import torch
from captum.attr import FeatureAblation, LayerIntegratedGradients, LLMAttribution, TextTokenInput
from consumers.cases import Case
from consumers.checks import check_close
from consumers.contenders import ALL_DECODERS, DECODERS, ENCODERS
from consumers.texts import TEXTS
from nnsight import LanguageModel
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification


LIBRARY = "captum, nnsight"


def integrate(contender, folder):
    """Integrated gradients at the token embeddings add up to the difference of the answers."""
    torch.manual_seed(0)
    model = contender.load(AutoModelForSequenceClassification, num_labels=2).eval()
    ids = contender.tokenizer(TEXTS[0], return_tensors="pt").input_ids
    baseline = torch.full_like(ids, contender.tokenizer.pad_token_id)
    mask = torch.ones_like(ids)

    def answer(tokens):
        return model(input_ids=tokens, attention_mask=mask).logits[:, 1]

    method = LayerIntegratedGradients(answer, model.get_input_embeddings())
    attributions = method.attribute(ids, baselines=baseline, n_steps=200, internal_batch_size=200)
    with torch.no_grad():
        difference = answer(ids) - answer(baseline)
    assert attributions.sum(dim=-1).std() > 0
    torch.testing.assert_close(attributions.sum().float(), difference[0], rtol=0.05, atol=0.02)


def ablate(contender, folder):
    """What each token of a prompt does to the log-probability of a continuation, by leaving it out."""
    model, tokenizer = contender.load(AutoModelForCausalLM).eval(), contender.tokenizer
    prompt = "the red fox"
    tokens = TextTokenInput(prompt, tokenizer, skip_tokens=[])
    answer = LLMAttribution(FeatureAblation(model), tokenizer).attribute(tokens, target=" dog")
    ids = tokenizer(prompt, return_tensors="pt").input_ids[0]
    target = tokenizer(" dog").input_ids

    def log_probability(context):
        with torch.no_grad():
            logits = model(torch.tensor([[*context, *target]])).logits[0].log_softmax(-1)
        return sum(float(logits[len(context) + place - 1, token]) for place, token in enumerate(target))

    whole = log_probability(ids.tolist())
    left_out = [[0 if place == index else int(token) for place, token in enumerate(ids)] for index in range(len(ids))]
    check_close(answer.seq_attr, torch.tensor([whole - log_probability(context) for context in left_out]), 1e-3)


def blocks_of(model):
    return model.model.layers


def trace(contender, folder):
    """States read within a trace are those that transformers returns; a state set to another gives other logits."""
    keywords = {"trust_remote_code": True} if contender.trust else {}
    model = LanguageModel(contender.folder, device_map="cpu", dispatch=True, **keywords)
    plain = contender.load(AutoModelForCausalLM).eval()
    ids = contender.tokenizer(TEXTS[0], return_tensors="pt").input_ids
    with torch.no_grad():
        states = plain(ids, output_hidden_states=True).hidden_states
        with model.trace(ids):
            first = blocks_of(model)[0].output.save()
            logits = model.lm_head.output.save()
        first = first[0] if isinstance(first, tuple) else first
        check_close(first.reshape(states[1].shape), states[1])
        check_close(logits, plain(ids).logits)
        with model.trace(ids):
            blocks_of(model)[1].input = blocks_of(model)[1].input * 0.5
            changed = model.lm_head.output.save()
        hook = plain.model.layers[1].register_forward_pre_hook(lambda layer, args: (args[0] * 0.5, *args[1:]))
        check_close(changed, plain(ids).logits)
        hook.remove()


CASES = [
    Case("captum, integrated gradients", integrate, "sum to the difference of the logits", (*DECODERS, *ENCODERS)),
    Case("captum, `LLMAttribution`", ablate, "equals a direct computation", DECODERS),
    Case("nnsight", trace, "states are those of transformers, a changed state as by a hook", ALL_DECODERS),
]


def test_insight(case, contender, tmp_path):
    case.check(contender, tmp_path)

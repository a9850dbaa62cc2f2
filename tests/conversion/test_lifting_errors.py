"""Every lift that cannot be exact says why."""

import pytest
from support import own_kinds
from support.encoders import BERT, MORE, encoder
from support.messages import unseen
from support.tiny import GPT2, tiny_model
from support.translators import tiny_translator
from torch import nn
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from trine import TrineForMaskedLM, lift, train_wordpiece
from trine.conversion.lifts.checkpoint import load_checkpoint
from trine.conversion.lifts.encoder import EncoderLift
from trine.conversion.plan import CONFIGS


def adapted():
    model = tiny_model()
    model.model.layers[0].adapter = nn.Linear(2, 2)
    return model


def on_two_devices():
    model = tiny_model()
    model.lm_head = nn.Linear(32, 61, bias=False, device="meta")
    return model


LLAMA = {"vocab_size": 9, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
# Model, lift, its options, and the message.
ERRORS = {
    "kind": (tiny_model, "simplical", {}, "kind='simplical' is not one of ['simplicial', 'sliding', 'sparse', "),
    "option": (
        tiny_model,
        "sliding",
        {"window": 3},
        "The lift 'sliding' has no option 'window', but ['stack', 'layers', ",
    ),
    "another's": (
        tiny_model,
        "sliding",
        {"num_experts": 3},
        "The lift 'sliding' has no option 'num_experts', but ['stack', 'layers', 'sliding_window']. 'num_experts' is "
        "one of ['sparse'].",
    ),
    "class": (lambda: LlamaForCausalLM(LlamaConfig(**LLAMA)), "sliding", {}, "model is a LlamaForCausalLM, but must"),
    "recurrent": (
        lambda: tiny_translator("recurrent"),
        "sliding",
        {},
        "model is a TrineRecurrentForConditionalGenera",
    ),
    "adapter": (
        adapted,
        "sliding",
        {},
        "model has the tensor 'model.layers.0.adapter.weight' (2, 2), which is none of TrineForCausalLM with its "
        "config. Merge or remove adapters and quantization first.",
    ),
    "devices": (
        on_two_devices,
        "sliding",
        {},
        "model has weights on the devices ['cpu', 'meta']; a lift takes one that",
    ),
    "stack": (tiny_translator, "sliding", {"stack": "encode"}, "stack='encode' is not one of ['encoder', 'decoder']."),
    "one stack": (
        tiny_model,
        "sliding",
        {"stack": "decoder"},
        "stack='decoder', but TrineForCausalLM has one stack only",
    ),
    "layer": (tiny_model, "sliding", {"layers": [0, 2]}, "layers[1]=2 is no layer of the model, which has 0 to 1."),
    "negative": (tiny_model, "sparse", {"layers": [-1]}, "layers[0]=-1 is no layer of the model, which has 0 to 1."),
    "layer's kind": (
        lambda: tiny_model(attention_types="full, linear"),
        "sliding",
        {"layers": [1]},
        "layers[0]=1, but attention_types[1]='linear' is not one of ['full', 'simplicial'], which the lift 'sliding' "
        "changes.",
    ),
    "no layer": (
        lambda: tiny_model(attention_types="linear"),
        "simplicial",
        {},
        "attention_types=['linear', 'linear'] has no layer that the lift 'simplicial' changes: one "
        "of ['full', 'sliding'].",
    ),
    "read already": (
        lambda: tiny_model(attention_types="full, sliding"),
        "sliding",
        {"sliding_window": 4},
        "sliding_window=4 would change the layers [1], too, which read sliding_window=8 already. Leave it out.",
    ),
    "form": (
        tiny_model,
        "simplicial",
        {"simplicial_form": "determinant"},
        "simplicial_form='determinant' is not one of ['hadamard', 'complex'].",
    ),
    "hadamard with rope": (
        tiny_model,
        "simplicial",
        {"simplicial_form": "hadamard"},
        "simplicial_form='hadamard' with position_type='rope' depends on absolute positions",
    ),
    "relative": (
        lambda: tiny_model(position_type="relative"),
        "simplicial",
        {},
        "position_type='relative' adds a bias to the scores of pairs of tokens, but "
        "attention_types[0]='simplicial' takes",
    ),
    "scale": (
        lambda: tiny_model(attention_scale=1.0),
        "simplicial",
        {},
        "attention_scale=1.0 is a factor on the scores of pairs of tokens, but "
        "attention_types[0]='simplicial' does not",
    ),
    "dropout": (
        lambda: tiny_model(attention_dropout=0.1),
        "simplicial",
        {},
        "attention_dropout=0.1 drops the weights of pairs of tokens, but attention_types[0]='simplicial' offers none.",
    ),
    "too small": (tiny_model, "sliding", {"sliding_window": 0}, "sliding_window=0 must be at least 1."),
    "rope": (
        lambda: tiny_model(
            attention_types="full, sliding",
            rope_parameters={
                "full_attention": {"rope_type": "default", "rope_theta": 10.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 20.0},
            },
        ),
        "sliding",
        {},
        "rope_parameters['sliding_attention']={'rope_type': 'default', 'rope_theta': 20.0} of "
        "layer 1 are not those of the "
        "other layers that are to be 'sliding_attention', {'rope_type': 'default', 'rope_theta': "
        "10.0}: choose layers of "
        "one type.",
    ),
    "router noise": (
        tiny_model,
        "sparse",
        {"router_noise": 0},
        "router_noise=0 must be above 0: without it every token visits the same experts, which stay equal.",
    ),
    "weights of experts": (
        tiny_model,
        "sparse",
        {"norm_topk_prob": False},
        "norm_topk_prob=False changes the function: copies of a feed-forward compute the same only with "
        "norm_topk_prob=True.",
    ),
    "weights of sigmoids": (
        tiny_model,
        "sparse",
        {"norm_topk_prob": False, "num_experts_per_tok": 4, "router_type": "sigmoid"},
        "norm_topk_prob=False changes the function",
    ),
    "shared": (lambda: tiny_model(num_shared_experts=1), "sparse", {}, "num_shared_experts=1 changes the function"),
    "scaled": (
        lambda: tiny_model(routed_scaling_factor=2.0),
        "sparse",
        {},
        "routed_scaling_factor=2.0 changes the funct",
    ),
    "width": (
        lambda: tiny_model(mlp_layer_types="dense, sparse"),
        "sparse",
        {},
        "moe_intermediate_size=24 of the layers [1], which are sparse already, must be "
        "intermediate_size=40: experts are "
        "copies of the dense feed-forward.",
    ),
    "too many": (
        tiny_model,
        "sparse",
        {"num_experts": 4, "num_experts_per_tok": 9},
        "num_experts_per_tok=9 must be at least 1, and at most num_experts=4.",
    ),
    "post-norm": (
        lambda: encoder(),
        "deeper",
        {"after": [0]},
        "norm_position='post' normalises what a new layer passes on, so that none is the identity; the lift 'deeper' "
        "needs norm_position='pre'.",
    ),
    "how many": (
        tiny_model,
        "deeper",
        {},
        "num_hidden_layers=None and after=None: give one of them, to say how many layers are new, "
        "or after which layers.",
    ),
    "both": (
        tiny_model,
        "deeper",
        {"after": [0], "num_hidden_layers": 3},
        "num_hidden_layers=3 and after=[0]: give one",
    ),
    "after": (tiny_model, "deeper", {"after": [2]}, "after[0]=2 is no layer of the model, which has 0 to 1."),
    "fewer": (
        tiny_model,
        "deeper",
        {"num_hidden_layers": 2},
        "num_hidden_layers=2 must be above 2, the layers there are.",
    ),
    "no length": (
        tiny_model,
        "longer",
        {},
        "max_position_embeddings=None must be above 96, the positions that the model has already.",
    ),
    "waves": (
        tiny_model,
        "longer",
        {"max_position_embeddings": 200, "rope_type": "ntk"},
        "rope_type='ntk' is not one of ['dynamic', 'linear', 'yarn', 'llama3'].",
    ),
    "no waves": (
        lambda: tiny_model(**GPT2),
        "longer",
        {"max_position_embeddings": 200, "rope_type": "yarn"},
        "rope_type='yarn' is read with position_type='rope' only, but the model has "
        "position_type='learned'. Leave it out.",
    ),
    "scaled waves": (
        lambda: tiny_model(rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}),
        "longer",
        {"max_position_embeddings": 200},
        "rope_parameters['rope_type']='linear' scales the waves already; the lift 'longer' needs 'default'.",
    ),
    "a decoder": (
        tiny_model,
        "encoder_decoder",
        MORE,
        "model has is_causal=True, but the lift 'encoder_decoder' needs False.",
    ),
    "two stacks": (
        tiny_translator,
        "encoder_decoder",
        MORE,
        "model is a TrineForConditionalGeneration, but must be one stack of Trine: an encoder or a decoder.",
    ),
    "no start": (
        lambda: encoder(pad_token_id=None),
        "encoder_decoder",
        {"eos_token_id": 2},
        "decoder_start_token_id=None: neither config nor tokenizer names such a token, which generation needs.",
    ),
    "no end": (encoder, "encoder_decoder", {}, "eos_token_id=None: neither config nor tokenizer names such a token"),
    "cross-attention": (
        encoder,
        "encoder_decoder",
        {"cross_attention": "none", **MORE},
        "cross_attention='none' is not one of ['self', 'zero'].",
    ),
    "an encoder as decoder": (
        encoder,
        "encoder_decoder",
        {"decoder": tiny_model(TrineForMaskedLM, **BERT), **MORE},
        "decoder has is_causal=False, but the lift 'encoder_decoder' needs True.",
    ),
    "another's decoder": (
        encoder,
        "encoder_decoder",
        {"decoder": LlamaForCausalLM(LlamaConfig(**LLAMA)).double(), **MORE},
        "decoder is a LlamaForCausalLM, but must be one of ",
    ),
    "dtype": (
        encoder,
        "encoder_decoder",
        {"decoder": tiny_model().float(), **MORE},
        "decoder has dtype=torch.float32, but the model torch.float64; convert one of them.",
    ),
    "number of layers": (
        encoder,
        "encoder_decoder",
        {"decoder_layers": 3, **MORE},
        "decoder_layers=3 must be from 1 to 2, the layers of the model.",
    ),
    "layers by number and name": (
        encoder,
        "encoder_decoder",
        {"decoder_layers": 1, "decoder_layers_from": [0], **MORE},
        "decoder_layers=1 and decoder_layers_from=[0]: give one of them.",
    ),
    "layer of the decoder": (
        encoder,
        "encoder_decoder",
        {"decoder_layers_from": [0, 2], **MORE},
        "decoder_layers_from[1]=2 is no layer of the model, which has 0 to 1.",
    ),
    "layers of a given decoder": (
        encoder,
        "encoder_decoder",
        {"decoder": tiny_model(), "decoder_layers": 1, **MORE},
        "decoder_layers=1, but a given decoder keeps its layers. Leave it out.",
    ),
    "two tables": (
        encoder,
        "encoder_decoder",
        {"decoder": tiny_model(), "share_embeddings": True, **MORE},
        "share_embeddings=True, but the given decoder has another table of tokens, (61, 32), than the encoder, (61, ",
    ),
    "another head": (
        encoder,
        "encoder_decoder",
        {"decoder": tiny_model(tie_word_embeddings=False), "tie_word_embeddings": True, **MORE},
        "tie_word_embeddings=True, but the given decoder has a head of its own, whose logits would change. Leave it",
    ),
    "post-norm decoder": (
        encoder,
        "encoder_decoder",
        {"decoder": tiny_model(norm_position="post"), **MORE},
        "norm_position='post' of the decoder normalises what cross-attention passes on, so that no zero keeps its "
        "logits; use cross_attention='self'.",
    ),
    "width of the decoder": (
        encoder,
        "encoder_decoder",
        {"decoder": tiny_model(hidden_size=24, head_dim=6), "cross_attention": "self", **MORE},
        "hidden_size=24 of the decoder is not that of the encoder, 32, whose states its self-attention cannot read; "
        "use cross_attention='zero'.",
    ),
    "keys": (
        encoder,
        "encoder_decoder",
        {"decoder": tiny_model(attention_types="lsh"), "cross_attention": "self", **MORE},
        "attention_types=['lsh', 'lsh'] has 'lsh', whose keys are its queries, so that "
        "cross-attention cannot be a copy; "
        "use cross_attention='zero'.",
    ),
}
ERRORS |= {
    "an encoder again": (
        lambda: tiny_model(TrineForMaskedLM, is_causal=False),
        "encoder",
        {},
        "model is a TrineForMaskedLM of 1 stacks, is_causal=False, but the lift 'encoder' takes a decoder by itself.",
    ),
    "two stacks both ways": (
        tiny_translator,
        "encoder",
        {},
        "model is a TrineForConditionalGeneration of 2 stacks, is_causal=False, but the lift 'encoder' takes a",
    ),
    "a window of itself": (
        lambda: tiny_model(attention_types="sliding", sliding_window=1),
        "encoder",
        {},
        "sliding_window=1 of the decoder shows a token itself alone, and would so to each side: the lift 'encoder' ",
    ),
}


def message_of(case) -> str:
    make, kind, options, _ = case
    with pytest.raises(ValueError) as refused:
        lift(make(), kind, **options)
    return str(refused.value)


def taken_mask(folder) -> str:
    """A mask token that is a word of texts."""
    train_wordpiece(["a mask"], 130, mask_token="[M]", show_progress=False).save_pretrained(folder / "words")
    tokenizer = AutoTokenizer.from_pretrained(folder / "words")
    tokenizer.mask_token = None
    tokenizer.save_pretrained(folder / "words")
    with pytest.raises(ValueError, match="mask_token='a' is a token of texts already") as refused:
        EncoderLift(mask_token="a").finish(None, folder / "words")
    return str(refused.value)


@pytest.mark.parametrize("name", ERRORS)
def test_what_cannot_be_lifted_is_refused_with_a_reason(name):
    assert message_of(ERRORS[name]).startswith(ERRORS[name][-1])


def test_every_error_of_the_lifts_is_tested(tmp_path):
    messages = [message_of(case) for case in ERRORS.values()]
    for name, config in {"llama": LlamaConfig(**LLAMA), "other": tiny_model().config}.items():
        config.architectures = ["Other"]
        config.save_pretrained(tmp_path / name)
        with pytest.raises(ValueError) as refused:
            load_checkpoint(tmp_path / name)
        messages.append(str(refused.value))
    assert f"is not one of {[*CONFIGS]}: make a Trine checkpoint" in messages[-2]
    assert messages[-1].startswith("architectures=['Other'] of ")
    messages += [*own_kinds.all_messages(tmp_path), taken_mask(tmp_path)]
    # Files of their own, such as tests/conversion/test_student.py, have their errors.
    others = tuple(f"conversion/lifts/{name}" for name in ("smaller_vocabulary", "shallower", "student"))
    assert [place for place in unseen("conversion/lifts", messages) if not place.startswith(others)] == []

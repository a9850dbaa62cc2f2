"""What whoever inspects a head finds, and how its arguments are sorted."""

import functools
import inspect
import re

import pytest
import torch
from support.tiny import random_ids, tiny_model
from transformers import BertForQuestionAnswering, LlamaForCausalLM, T5ForConditionalGeneration
from transformers.utils.generic import find_labels

import trine


HEADS = {head.__name__: head for _, _, heads in trine.FAMILIES for head in heads.values()}
EVERY_HEAD = pytest.mark.parametrize("name", HEADS)
PEERS = {
    trine.TrineForCausalLM: LlamaForCausalLM,
    trine.TrineForQuestionAnswering: BertForQuestionAnswering,
    trine.TrineForConditionalGeneration: T5ForConditionalGeneration,
}


@EVERY_HEAD
def test_a_head_tells_what_it_returns_and_which_columns_are_labels(name):
    head = HEADS[name]
    assert head.forward.__annotations__["return"] is head.output_class
    fields = {"TrineForPreTraining": ["labels", "next_sentence_label"]}
    ends = ["start_positions", "end_positions"] if "QuestionAnswering" in name else ["labels"]
    assert find_labels(head) == fields.get(name, ends)


@pytest.mark.parametrize("head", PEERS, ids=lambda head: head.__name__)
def test_no_argument_of_the_peer_that_users_give_is_missing(head):
    ours, theirs = (inspect.signature(each.forward).parameters for each in (head, PEERS[head]))
    assert theirs.keys() - ours.keys() <= {"return_dict"}
    assert list(ours)[:2] == ["self", "input_ids"]


def test_the_signature_survives_what_wraps_a_bound_method():
    """As accelerate's hooks do, which sort by it which columns of a batch a model takes."""
    model = tiny_model()
    wrapped = functools.update_wrapper(functools.partial(lambda _: None, model), model.forward)
    assert inspect.signature(wrapped) == inspect.signature(model.forward)
    assert "self" not in inspect.signature(wrapped).parameters


@torch.no_grad()
def test_arguments_are_taken_in_order_or_by_name():
    model, ids = tiny_model(), random_ids(2, 7)
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    by_name = model(input_ids=ids, attention_mask=mask, labels=ids, logits_to_keep=7, use_cache=False)
    in_order = model(ids, mask, None, None, None, ids, False, None, 7)
    torch.testing.assert_close(in_order.loss, by_name.loss, rtol=0, atol=0)
    torch.testing.assert_close(in_order.logits, by_name.logits, rtol=0, atol=0)
    assert in_order.past_key_values is None


def test_an_argument_too_many_or_twice_is_an_error():
    model, ids = tiny_model(), random_ids(1, 3)
    with pytest.raises(
        TypeError, match=re.escape("forward takes 10 arguments without their names, but 11 were given")
    ):
        model(*[None] * 11)
    with pytest.raises(TypeError, match="multiple values for keyword argument 'input_ids'"):
        model(ids, input_ids=ids)

"""Lifts to and from kinds whose rows say what they equal, those of somebody's own too."""

import pytest
import torch
from support.own_kinds import (
    ERRORS,
    Doubled,
    clashes,
    cold_layers,
    load_tempered,
    message_of,
    register_near,
    register_others,
)
from support.plugins import tables_restored
from support.tiny import random_ids, tiny_model
from support.translators import tiny_translator
from transformers import AutoModelForCausalLM

from trine import TrineForMaskedLM, TrineModel, lift, register_feed_forward
from trine.conversion import LIFTS
from trine.conversion.lifts.change import exact_length, largest_change
from trine.conversion.lifts.lift import make_lift
from trine.scripts import cli


@pytest.fixture(autouse=True)
def registered(tmp_path):
    with tables_restored():
        yield load_tempered(tmp_path)


MODELS = {
    "decoder": lambda: tiny_model(pad_token_id=0, qk_norm=True),
    "encoder": lambda: tiny_model(TrineForMaskedLM, is_causal=False, pad_token_id=0),
    "encoder-decoder": tiny_translator,
}


def stacks(model) -> list:
    return [part.config for part in model.modules() if isinstance(part, TrineModel)]


@pytest.mark.parametrize("name", MODELS)
def test_a_registered_kind_takes_the_weights_and_gives_them_back(name):
    model = MODELS[name]()
    lifted = lift(model, "tempered")
    for stack in stacks(lifted):
        assert stack.attention_types == ["tempered"] * 2 and stack.tempered_start == 1.0
    assert exact_length(model, lifted, make_lift("tempered", {})) is None
    assert largest_change(model, lifted, length=40) <= 1e-12
    new = {key for key in lifted.state_dict() if key not in model.state_dict()}
    assert new and all(key.endswith("self_attn.factor") for key in new)
    back = lift(lifted, "full")
    assert back.state_dict().keys() == model.state_dict().keys()
    for one, other in zip(stacks(back), stacks(model), strict=True):
        assert {**one.to_dict(), "dtype": None} == {**other.to_dict(), "dtype": None}
    assert all(torch.equal(tensor, model.state_dict()[key]) for key, tensor in back.state_dict().items())


def test_chosen_layers_change_and_all_train_on():
    model = tiny_model(attention_types="full, linear", num_hidden_layers=4).float()
    lifted = lift(model, "tempered", layers=[2])
    assert lifted.config.attention_types == ["full", "linear", "tempered", "linear"]
    lifted.train()(random_ids(2, 9), labels=random_ids(2, 9)).loss.backward()
    assert lifted.model.layers[2].self_attn.factor.grad.abs().min() > 0


def test_it_is_saved_with_its_field_and_file(tmp_path):
    lifted = lift(tiny_model(scale=1.5), "tempered", layers=[1])
    lifted.save_pretrained(tmp_path / "lifted")
    assert (tmp_path / "lifted" / "tempered_kind.py").is_file()
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "lifted")
    assert again.config.tempered_start == 1.0
    ids = random_ids(1, 9)
    torch.testing.assert_close(again(ids).logits, lifted(ids).logits, rtol=0, atol=1e-10)


def test_what_it_sees_is_compared_by_span():
    register_near()
    model = tiny_model(pad_token_id=0)
    lifted = lift(model, "near", near_window=7)
    assert exact_length(model, lifted, make_lift("near", {})) == 7
    assert largest_change(model, lifted, length=7) <= 1e-12 < 1e-6 < largest_change(model, lifted, length=8)
    window = tiny_model(attention_types="sliding", sliding_window=7, pad_token_id=0)
    same = lift(window, "near", near_window=7)
    assert exact_length(window, same, make_lift("near", {})) is None
    assert largest_change(window, same, length=40) <= 1e-12
    back = lift(same, "sliding", sliding_window=7)
    assert back.config.sliding_window == 7 and not hasattr(back.config, "near_window")
    assert largest_change(window, back, length=40) <= 1e-12


@pytest.mark.parametrize("qk_norm", [False, True])
def test_own_kinds_go_back_to_full_attention_too(qk_norm):
    """2-simplicial layers as long as their second keys are constant, and windows as far as they see."""
    model = tiny_model(pad_token_id=0, qk_norm=qk_norm)
    for kind, options in {"sliding": {"sliding_window": 8}, "simplicial": {"simplicial_window": 8}}.items():
        lifted = lift(model, kind, **options)
        back = lift(lifted, "full")
        assert exact_length(lifted, back, make_lift("full", {})) == 8
        assert largest_change(lifted, back, length=8) <= 1e-12 and largest_change(model, back, length=40) == 0.0
    lifted.model.layers[1].self_attn.second_v_proj.weight.data[0, 0] = 0.1
    message = "'layers.1.self_attn.second_v_proj.weight' is none of 'full', and differs from that of a new layer: with"
    with pytest.raises(ValueError, match=message):
        lift(lifted, "full")
    assert largest_change(lifted, lift(lifted, "full", layers=[0]), length=8) <= 1e-12


def test_layers_that_began_otherwise_do_not():
    assert cold_layers() == "simplicial_warm_start=False: second keys say something from the beginning."


def test_feed_forwards_of_ones_own():
    register_feed_forward("doubled", Doubled, equals={"dense": None}, shareable=False)
    model = tiny_model(pad_token_id=0)
    lifted = lift(model, "doubled", layers=[0])
    assert lifted.config.mlp_layer_types == ["doubled", "dense"]
    assert largest_change(model, lifted, length=20) <= 1e-12
    assert largest_change(model, lift(lifted, "dense"), length=20) == 0.0
    lifted.model.layers[0].mlp.factor.data.fill_(2.0)
    with pytest.raises(ValueError, match=r"'layers.0.mlp.factor' is none of 'dense'"):
        lift(lifted, "dense")


@pytest.mark.parametrize("name", ERRORS)
def test_what_cannot_be_lifted_says_why(name):
    register_others()
    assert message_of(name).startswith(ERRORS[name][-1])


def test_a_name_means_one_lift():
    first, second = clashes()
    assert first == "'deeper' is a kind and another lift: register the kind under another name."
    assert second.startswith("'tempered' is a kind of ['attention_types', 'mlp_layer_types'], so that no lift can be")


def test_the_table_of_lifts_is_that_of_now():
    before = len(LIFTS)
    register_near()
    assert len(LIFTS) == before + 1 and LIFTS["near"].kind == "near" and "full" in LIFTS
    assert dict(LIFTS).keys() == set(LIFTS)


@pytest.mark.parametrize("way", ["option", "recipe"])
def test_the_command_takes_the_plugin(way, tmp_path, capsys, registered):
    tiny_model(dtype=torch.float32).save_pretrained(tmp_path / "source")
    words = ["lift", str(tmp_path / "source"), str(tmp_path / "target")]
    with tables_restored():
        if way == "recipe":
            (tmp_path / "lift.yaml").write_text(f"to: tempered\nlayers: [1]\nplugin: [{registered}]\n")
            words += ["--recipe", str(tmp_path / "lift.yaml")]
        else:
            words += ["--to", "tempered", "--layers", "1", "--tempered-start", "1.0", "--plugin", str(registered)]
        assert cli.main(words) in (None, 0)
    change = capsys.readouterr().out.splitlines()[1]
    assert change.startswith("Largest change of outputs on random tokens, texts of up to ")
    assert float(change.rpartition(" ")[2]) <= 1e-5
    assert (tmp_path / "target" / "tempered_kind.py").is_file()

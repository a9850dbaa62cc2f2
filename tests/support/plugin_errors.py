"""Registrations that are refused, and plugins that cannot be loaded, each with its message."""

import json
from pathlib import Path

from support.plugins import tables_restored
from torch import nn

from trine import (
    KindField,
    PairwiseAttention,
    StateAttention,
    TrineConfig,
    load_plugin,
    register_attention,
    register_feed_forward,
    register_position,
    register_router,
)
from trine.configuration.plugin_files import PACKAGE, check_import, files_with, imports_of


class Plain(PairwiseAttention):
    """Softmax attention."""


class ReadsMasks(StateAttention):
    """A state, but masks are for pairs."""

    sees_by = "mask"

    def scan(self, state, *inputs):
        return inputs[2], (inputs[2][:, :, -1],)


class Scan(StateAttention):
    """Reads from left to right."""


class Reads(Scan):
    """Reads, and remembers the last value."""

    scan = ReadsMasks.scan


class Bare(nn.Module):
    """A module, and nothing more."""

    def __init__(self, config):
        super().__init__()

    def forward(self, hidden_states):
        return hidden_states


class NoModule:
    """Has all methods, and no parameters."""

    def __init__(self, config, layer_idx):
        pass

    def forward(self, hidden_states, visibility, **kwargs):
        return hidden_states, None


class OtherInitialize(PairwiseAttention):
    def initialize(self, std):
        pass


class OtherArguments(PairwiseAttention):
    def scores(self, query):
        return query


SIZES = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}
REFUSED = {
    "taken": (("full", Plain, {}), "name='full' is taken: attention_types has ['full', 'sliding', "),
    "name": (("a b", Plain, {}), "name='a b' must be made of letters, digits, `_` and `-`"),
    "no class": (("mine", Plain.forward, {}), "is no class: register the class, of which each layer makes its own."),
    "arguments": (
        ("mine", OtherArguments, {}),
        "OtherArguments.scores(self, query) cannot be called as (self, query, key): too many positional arguments.",
    ),
    "initialize": (
        ("mine", OtherInitialize, {}),
        "OtherInitialize.initialize(self, std) cannot be called as (self): missing a required argument: 'std'.",
    ),
    "no module": (("mine", NoModule, {}), "NoModule must be a subclass of torch.nn.Module, for attention_types."),
    "no scan": (("mine", Scan, {}), "Scan has no `scan`: a subclass of StateAttention must define it."),
    "no rule": (("mine", Plain, {"check": 3}), "check=3 must be a function of a config."),
    "no text": (("mine", Plain, {"source": 3}), "source=3 must be a str."),
    "no truth value": (("mine", Plain, {"shareable": "no"}), "shareable='no' must be True or False."),
    "no name": ((3, Plain, {}), "name=3 must be a str: what a config calls the mechanism comes first."),
    "no name above a class": ((Plain, None, {}), "name=<class 'support.plugin_errors.Plain'> must be a str"),
    "reads masks": (("mine", ReadsMasks, {}), "ReadsMasks.sees_by='mask' must be 'tokens', or 'mask' in a subclass"),
    "no identifier": (("mine", Plain, {"fields": {"mine-x": 1}}), "fields has 'mine-x', which is not the name of"),
    "no KindField": (("mine", Plain, {"fields": {"mine_x": 1}}), "fields['mine_x']=1 must be a KindField, with"),
    "prefix": (
        ("mine", Plain, {"fields": {"x": KindField(1)}}),
        "fields has 'x': call it mine_x, so that no other mechanism has it.",
    ),
    "every config's": (
        ("attention", Plain, {"fields": {"attention_bias": KindField(True)}}),
        "fields has 'attention_bias', which is a field of every config.",
    ),
    "no mapping": (
        ("mine", Plain, {"equals": ["full"]}),
        "equals=['full'] must map names of kinds to functions of a config, or to None.",
    ),
    "no such kind": (("mine", Plain, {"equals": {"ful": None}}), "equals='ful' is not one of ['full', "),
    "no condition": (
        ("mine", Plain, {"equals": {"full": True}}),
        "equals['full']=True must be a function of a config.",
    ),
    "no function": (("mine", Plain, {"span": (3, 0)}), "span=(3, 0) must be a function of a config."),
    "word": (("mine", Plain, {"sorce": "a paper"}), "'sorce' is none of ['source', "),
}


def refused(name: str) -> str:
    """What a registration that is refused says."""
    (kind, mechanism, options), _ = REFUSED[name]
    with tables_restored():
        try:
            register_attention(kind, mechanism, **options)
        except (TypeError, ValueError) as error:
            return str(error)
    return ""


def message_of(call) -> str:
    """What a call that fails says."""
    with tables_restored():
        try:
            call()
        except (ValueError, ImportError, FileNotFoundError) as error:
            return str(error)
    return ""


def other_messages(folder: Path) -> dict[str, tuple[str, str]]:
    """By name: what other calls say, and how it begins."""

    def twice():
        for name in ("mine", "mine_x"):
            register_attention(name, Plain, fields={"mine_x_y": KindField(1)}, shareable=False)

    def encoder():
        register_attention("scan", Reads, shareable=False)
        TrineConfig(**SIZES, attention_types="scan", is_causal=False)

    def told():
        def check(config):
            raise ValueError("mine: never")

        register_attention("mine", Plain, check=check, shareable=False)
        TrineConfig(**SIZES, attention_types="mine")

    def written(name: str, text: str) -> Path:
        (folder / name).write_text(text)
        return folder / name

    def imports(name: str, text: str):
        for path in files_with(written(name, text)):
            for node, module in imports_of(path):
                check_import(path, node, module)

    def checkpoint(name: str, model_type: str) -> Path:
        (folder / name).mkdir()
        written(f"{name}/config.json", json.dumps({"model_type": model_type, "attention_types": ["absent"]}))
        return folder / name

    def own_folder():
        load_plugin(
            written(
                "saved_here.py",
                "from trine import PairwiseAttention, register_attention\n"
                "@register_attention('here')\nclass Here(PairwiseAttention):\n    pass\n",
            )
        )
        TrineConfig(**SIZES, attention_types="here").save_pretrained(folder)

    calls = {
        "field twice": (twice, "fields has 'mine_x_y', which 'mine' has already."),
        "encoder": (encoder, "attention_types has 'scan', which reads a text from left to right: it needs is_causal"),
        "no router": (
            lambda: register_router("mine", Bare),
            "Bare must be a subclass of TrineRouter, for router_type.",
        ),
        "no position": (
            lambda: register_position("mine", Bare),
            "Bare must be a subclass of PositionEncoding or PositionBias, for position_type.",
        ),
        "no feed-forward": (
            lambda: register_feed_forward("mine", type("Mine", (), {"__init__": Bare.__init__})),
            "Mine must be a subclass of torch.nn.Module, for mlp_layer_types.",
        ),
        "own rule": (told, "mine: never"),
        "default": (lambda: KindField(None), "default=None must be a bool, an int, a float or a str."),
        "its default": (lambda: KindField(-1, minimum=0), "default=-1 must be at least 0."),
        "type": (lambda: KindField(1).check("x", 1.5), "x=1.5 must be an int."),
        "truth value": (lambda: KindField(1.0).check("x", True), "x=True must be a float."),
        "choice": (lambda: KindField("a", choices=("a", "b")).check("x", "c"), "x='c' is not one of ['a', 'b']."),
        "above": (lambda: KindField(1.0, above=0).check("x", 0.0), "x=0.0 must be above 0."),
        "not a number": (lambda: KindField(1.0, above=0).check("x", float("nan")), "x=nan must be above 0."),
        "maximum": (lambda: KindField(1, maximum=3).check("x", 4), "x=4 must be at most 3."),
        "no file": (lambda: load_plugin(folder / "absent.py"), f"{folder / 'absent.py'} is not a file."),
        **{
            name: (
                lambda name=name: load_plugin(written(name, "")),
                f"{folder / name} has a name that no code can import, and a checkpoint must: call it {better}.",
            )
            for name, better in {
                "my-mech.py": "my_mech.py",
                "2nd.py": "plugin_2nd.py",
                "my mech.v2.py": "my_mech_v2.py",
                "class.py": "class_plugin.py",
            }.items()
        },
        "name of another": (
            lambda: load_plugin(written("torch.py", "")),
            f"{folder / 'torch.py'} cannot be loaded as 'torch': a module of that name is loaded. Rename it.",
        ),
        "no plugin": (
            lambda: load_plugin(checkpoint("plain", "llama")),
            f"{folder / 'plain'} has no mechanism of somebody's own: it needs no plugin.",
        ),
        "no code": (
            lambda: load_plugin(checkpoint("bare", PACKAGE)),
            f"{folder / 'bare'} names ['absent'], which no file beside its weights registers.",
        ),
        "own folder": (own_folder, f"{folder / 'saved_here.py'} would be overwritten by the copy for the checkpoint"),
        "foreign import": (
            lambda: imports("a.py", "import os\n\nfrom einops import rearrange\n"),
            f"{folder / 'a.py'}, line 3: `from einops import rearrange` cannot go with a checkpoint, whose code may",
        ),
        "private import": (
            lambda: imports("b.py", "def f():\n    from trine.modeling.norms import make_norm\n"),
            f"{folder / 'b.py'}, line 2: `from trine.modeling.norms import make_norm` cannot go with a checkpoint: "
            f"write `from {PACKAGE} import NAME`",
        ),
        "folder above": (
            lambda: imports("c.py", "from ..other import x\n"),
            f"{folder / 'c.py'}, line 1: `from ..other import x` cannot go with a checkpoint, where all files stand",
        ),
        "file's name": (
            lambda: imports("modeling_mine.py", ""),
            f"{folder / 'modeling_mine.py'} cannot go with a checkpoint, whose own files are called so: rename it.",
        ),
        "unknown": (
            lambda: TrineConfig(**SIZES, attention_types="sigmoidal"),
            "attention_types[0]='sigmoidal' is not one of ['full', ",
        ),
    }
    return {name: (message_of(call), start) for name, (call, start) in calls.items()}

"""Stands in for a module that the source distribution leaves out."""

# Every argument that all configurations share, with a value other than its default.
config_common_kwargs = {
    "return_dict": False,
    "output_hidden_states": True,
    "output_attentions": True,
    "dtype": "float16",
    "chunk_size_feed_forward": 5,
    "architectures": ["TestModel"],
    "id2label": {0: "label"},
    "label2id": {"label": 0},
    "problem_type": "regression",
    "_name_or_path": "nowhere",
}

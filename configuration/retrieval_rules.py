"""The rule of the fields that say which vectors `TrineForRetrieval` makes."""

from .patterns import check_choice


RETRIEVAL_OUTPUTS = ("dense", "sparse", "multi_vector")


def check_retrieval(config) -> None:
    """Raises a `ValueError` for outputs that there are not, or that lack what they need."""
    outputs, unscored = config.retrieval_outputs, config.unscored_token_ids
    for token in unscored or ():
        if not 0 <= token < config.vocab_size:
            raise ValueError(
                f"unscored_token_ids={unscored} has {token}, but must lie in the vocabulary, 0 to "
                f"{config.vocab_size - 1}."
            )
    if outputs is None:
        return
    for index, name in enumerate(outputs):
        check_choice(f"retrieval_outputs[{index}]", name, RETRIEVAL_OUTPUTS)
    if not outputs or len(set(outputs)) < len(outputs):
        raise ValueError(
            f"retrieval_outputs={outputs} must name some of {list(RETRIEVAL_OUTPUTS)}, each once, or be None."
        )
    if config.is_causal:
        raise ValueError(f"retrieval_outputs={outputs} are those of an encoder: they need is_causal=False.")
    if unscored is None and set(outputs) != {"dense"}:
        raise ValueError(
            f"unscored_token_ids=None, but retrieval_outputs={outputs} give tokens scores: name the special tokens, "
            "tokenizer.all_special_ids, or [] for none."
        )

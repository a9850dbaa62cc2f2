"""Models and tokenizers of training on pairs of texts: new ones, or those of a checkpoint to go on from."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from transformers import (
    AddedToken,
    AutoConfig,
    AutoModel,
    AutoModelForSeq2SeqLM,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
)

from trine import TrineConfig, TrineForConditionalGeneration, TrineModel, TrineSeq2SeqConfig, train_unigram
from trine.configuration.configuration_trine_recurrent import TrineRecurrentConfig
from trine.conversion.lifts.layers import choose_layers, take_layers
from trine.conversion.lifts.weights import copy_tensors
from trine.generation.translation.translator import known_languages
from trine.scripts.arguments.pretraining import parse_overrides
from trine.scripts.arguments.text_pairs import PairArguments
from trine.tokenization.loading import load_target_tokenizer, load_tokenizer
from trine.tokenization.special_tokens import language_tag
from trine.tokenization.text_ends import decoder_start, end_ids
from trine.training.new_heads import check_shapes, describe_new_weights, without_load_report


PRESET = "transformer-base"
OWN = (TrineSeq2SeqConfig.model_type, TrineRecurrentConfig.model_type)


class Tokenizers(NamedTuple):
    """The tokenizer of what is read and that of what is written: often the same."""

    source: PreTrainedTokenizerBase
    target: PreTrainedTokenizerBase

    @property
    def are_two(self) -> bool:
        """Whether each side has its own."""
        return self.target is not self.source


def make_tokenizers(
    arguments: PairArguments, pairs: Sequence[Any], checkpoint: str | None, show_progress: bool
) -> Tokenizers:
    """Loads the tokenizers, or trains them on the pairs: one on both texts, or one for each side if two are meant.

    Args:
        pairs: With `source`, `target` and `language`, or None.
        checkpoint: To resume from.
    """
    place = checkpoint or arguments.model
    found = load_target_tokenizer(place) if place else None
    are_two = found is not None or arguments.target_tokenizer is not None or arguments.target_vocab_size is not None
    languages = sorted({pair.language for pair in pairs if pair.language is not None})
    trained = arguments.model or arguments.encoder
    if origin := checkpoint or arguments.tokenizer or trained:
        source = load_tokenizer(origin)
        if trained is not None:
            add_tags(source, languages)
    else:
        texts = (text for pair in pairs for text in (pair[:1] if are_two else pair[:2]))
        source = train_unigram(texts, arguments.vocab_size, language_tags=languages, show_progress=show_progress)
    if not are_two:
        return Tokenizers(source, source)
    if checkpoint is None and arguments.target_tokenizer is not None:
        found = load_tokenizer(arguments.target_tokenizer)
    texts = (pair.target for pair in pairs)
    size = arguments.target_vocab_size or arguments.vocab_size
    return Tokenizers(source, found or train_unigram(texts, size, show_progress=show_progress))


def add_tags(tokenizer: PreTrainedTokenizerBase, languages: Sequence[str]) -> None:
    """Adds the tags of languages that a tokenizer does not have, and prints them."""
    known = tokenizer.get_vocab()
    if missing := [tag for tag in map(language_tag, languages) if tag not in known]:
        tokenizer.add_tokens([AddedToken(tag, special=True) for tag in missing], special_tokens=True)
        print(f"The tokenizer gets the tags {', '.join(missing)}.")


def make_model(arguments: PairArguments, tokenizers: Tokenizers) -> Any:
    """A new model of the preset, of which the encoder may be a given one, or the given model.

    Raises:
        OSError: There is no such model, or encoder.
        ValueError: It is none of Trine's, or does not fit the tokenizers or the arguments.
    """
    if arguments.model is not None:
        model = load_model(arguments, arguments.model)
        grow(model, tokenizers)
        check_fit(f"model='{arguments.model}'", arguments.max_length, model.config, tokenizers)
        return model
    if arguments.encoder is None:
        return TrineForConditionalGeneration(make_config(arguments, tokenizers))
    encoder = load_encoder(arguments.encoder, arguments.encoder_layers)
    missing = len(tokenizers.source) - encoder.config.vocab_size
    if 0 < missing <= len(known_languages(tokenizers.source)):  # tags, which differ even if they are not trained
        encoder.resize_token_embeddings(len(tokenizers.source), mean_resizing=False)
    config = make_config(arguments, tokenizers, encoder.config)
    check_fit(f"encoder='{arguments.encoder}'", arguments.max_length, config, tokenizers)
    model = TrineForConditionalGeneration(config)
    copy_tensors(encoder, model.model.encoder)
    return model


def load_encoder(name: str, layers: int | None) -> TrineModel:
    """The first layers of an encoder of Trine's, in float32 and without what makes one vector of a text.

    Raises:
        OSError: There is no such checkpoint.
        ValueError: It is no encoder, or has fewer layers.
    """
    check_encoder(name)
    with without_load_report():
        encoder = AutoModel.from_pretrained(name, dtype="float32")
    encoder.config.add_pooling_layer = False
    return take_layers(encoder, range(len(choose_layers("encoder_layers", layers, None, len(encoder.layers)))))


def make_config(
    arguments: PairArguments, tokenizers: Tokenizers, encoder: TrineConfig | None = None
) -> TrineSeq2SeqConfig:
    """The config of the preset, or of an encoder and the preset's decoder, with the tokenizers' ids and overrides."""
    source, target = tokenizers
    fields: dict[str, Any] = {"vocab_size": len(target), **end_ids(target)}
    fields |= {"decoder_start_token_id": decoder_start(target), "decoder_is_causal": arguments.objective != "masked"}
    if tokenizers.are_two:
        fields |= {"share_embeddings": False, "encoder": {"vocab_size": len(source), **end_ids(source)}}
    overrides = parse_overrides(arguments.config_overrides)
    if encoder is not None:
        if "encoder" in overrides:
            raise ValueError(
                f"config_overrides have encoder={overrides['encoder']}, but encoder='{arguments.encoder}' keeps its "
                "own fields."
            )
        fields |= {"share_embeddings": False, "encoder": encoder}
    if isinstance(overrides.get("encoder"), dict):
        fields["encoder"] = fields.pop("encoder", {}) | overrides.pop("encoder")
    return TrineSeq2SeqConfig.from_preset(arguments.preset or PRESET, **fields | overrides)


def load_model(arguments: PairArguments, name: str) -> Any:
    """The model of a checkpoint in float32, with the fields of its config that the arguments override.

    Raises:
        ValueError: With these fields tensors of the checkpoint do not fit.
    """
    config = find_config(name)
    fields, is_causal = parse_overrides(arguments.config_overrides), arguments.objective != "masked"
    if getattr(config, "decoder_is_causal", True) != is_causal:
        fields["decoder_is_causal"] = is_causal
    options = {"dtype": "float32", "output_loading_info": True, "ignore_mismatched_sizes": True}  # are refused below
    with without_load_report():
        model, info = AutoModelForSeq2SeqLM.from_pretrained(name, **options, **fields)
    check_shapes(info, name)
    if news := describe_new_weights(model, info):
        print(news)
    return model


def find_config(name: str) -> PreTrainedConfig:
    """The config of a checkpoint to go on from.

    Raises:
        OSError: There is no such checkpoint.
        ValueError: It is none of Trine's encoder-decoders.
    """
    config = read_config("model", name)
    if config.model_type not in OWN:
        command = "trine lift MODEL TARGET --to encoder_decoder" if config.model_type == "trine" else "trine convert"
        raise ValueError(
            f"model='{name}' has model_type={config.model_type!r}, which is not one of {[*OWN]}: make an "
            f"encoder-decoder of it first, with `{command}`."
        )
    return config


def read_config(option: str, name: str) -> PreTrainedConfig:
    """The config of the checkpoint that an option names; an OSError that says which, if it cannot be read."""
    try:
        return AutoConfig.from_pretrained(name)
    except OSError as error:
        raise OSError(f"{option}='{name}' cannot be read: {error}") from error
    except ValueError as error:
        if not Path(name, "adapter_config.json").is_file():
            raise
        raise ValueError(
            f"{option}='{name}' is an adapter, no model: make one of it by training with --merge."
        ) from error


def check_encoder(name: str) -> None:
    """Checks that a checkpoint to read with is an encoder of Trine's.

    Raises:
        OSError: There is no such checkpoint.
        ValueError: It is something else.
    """
    config = read_config("encoder", name)
    if config.model_type != TrineConfig.model_type or config.is_causal:
        raise ValueError(
            f"encoder='{name}' is no encoder of Trine's: model_type={config.model_type!r}, "
            f"is_causal={getattr(config, 'is_causal', None)}. `trine convert` makes one, or `trine lift --to encoder`."
        )


def grow(model: Any, tokenizers: Tokenizers) -> None:
    """Gives a model rows for tags of languages that its tokenizer got, if both stacks read one vocabulary."""
    size, tokenizer = model.config.vocab_size, tokenizers.source
    tags = [tokenizer.convert_tokens_to_ids(language_tag(language)) for language in known_languages(tokenizer)]
    if not tokenizers.are_two and sum(token >= size for token in tags) == len(tokenizer) - size > 0:
        model.resize_token_embeddings(len(tokenizer))


def check_fit(name: str, max_length: int, config: PreTrainedConfig, tokenizers: Tokenizers) -> None:
    """Raises a ValueError where what is given has too few tokens or positions, or lacks a second tokenizer."""
    stacks: dict[str, Any] = {side: getattr(config, side, config) for side in ("encoder", "decoder")}
    sizes = {side: stack.vocab_size for side, stack in stacks.items()}
    if sizes["encoder"] != sizes["decoder"] and not tokenizers.are_two:
        raise ValueError(
            f"{name} reads a vocabulary of {sizes['encoder']:,} tokens and writes one of "
            f"{sizes['decoder']:,}: name the second tokenizer with --target_tokenizer."
        )
    for (side, size), tokenizer in zip(sizes.items(), tokenizers, strict=True):
        if len(tokenizer) > size:
            raise ValueError(
                f"The tokenizer of the {side} has {len(tokenizer):,} tokens, more than the {size:,} of {name}."
            )
        limit = getattr(stacks[side], "max_position_embeddings", None)
        if getattr(stacks[side], "position_type", None) == "learned" and max_length > (limit or 0):
            raise ValueError(f"max_length={max_length} is above {side}.max_position_embeddings={limit}.")

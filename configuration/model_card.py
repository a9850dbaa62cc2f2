"""The model card that is saved beside the weights: what the model is, how to load it, where its limits lie."""

from itertools import groupby

from .configuration_trine_recurrent import RECURRENT_ATTENTIONS
from .input_kinds import INPUT_KINDS
from .kinds import ATTENTION_KINDS, FEED_FORWARD_KINDS


CARD = """\
---
library_name: transformers
license: unknown  # say under which licence the weights may be used: apache-2.0, mit, cc-by-4.0, ...
pipeline_tag: {task}
tags:
- trine
---

# {title}

A `{class_name}` with {num_parameters:,} parameters, made with Trine.

| part | choice |
|---|---|
{rows}

## How to load it

```python
from transformers import {imported}

model = {auto_class}.from_pretrained("PATH_OR_REPOSITORY", trust_remote_code=True)
{prepared}```

Where the package `trine` is installed, `import trine` makes the same lines work without `trust_remote_code`.

## Limits

* The model knows what its training data held, which is not described here unless its author adds it.
{length_limits}
* Output may be wrong, biased or unsafe. Evaluate the model before you rely on it.
"""


def describe_runs(names: list[str]) -> str:
    """`["sliding", "sliding", "full"]` becomes `2 x sliding, full`."""
    runs = [(name, len(list(group))) for name, group in groupby(names)]
    return ", ".join(name if count == 1 else f"{count} x {name}" for name, count in runs)


def architecture_rows(config) -> list[tuple[str, str]]:
    """Part and choice for each part of the architecture that `config` describes."""
    mlp = f"{config.hidden_act}, {'gated' if config.gated_mlp else 'plain'}, {config.intermediate_size} wide"
    rows = [
        ("shape", "decoder" if config.is_causal else "encoder"),
        *([("prompt", "read both ways")] if config.prefix_lm else []),
        ("layers", f"{config.num_hidden_layers}, {config.hidden_size} wide"),
        ("attention", describe_runs(config.attention_types)),
        (
            "heads",
            f"{config.num_attention_heads} query, {config.num_key_value_heads} key-value, size {config.head_dim}",
        ),
        ("positions", config.position_type),
        ("feed-forward", f"{describe_runs(config.mlp_layer_types)} ({mlp})"),
        ("norm", f"{config.norm_type}, {config.norm_position}"),
        reading_row(config),
    ]
    used = {*config.attention_types, *config.mlp_layer_types}
    kinds = [*ATTENTION_KINDS.items(), *FEED_FORWARD_KINDS.items()]
    cards = [row.card for kind, row in kinds if kind in used and row.card]
    return rows + [(part, template.format(config)) for part, template in cards]


def reading_row(config) -> tuple[str, str]:
    """Part and choice for what is read: the vocabulary, or the patches."""
    row = INPUT_KINDS[config.input_type]
    return (row.card[0], row.card[1].format(config)) if row.card else ("vocabulary", f"{config.vocab_size:,}")


def length_limit(config) -> str:
    """The sentence of the model card about input that is longer than `config` is made for."""
    if config.input_type == "series":
        return f"It reads {config.context_length} steps, no more and no fewer; steps that are missing are marked."
    if config.input_type != "tokens":
        return "Inputs of other sizes than it was trained on run, and quality may fall."
    if config.position_type == "learned":
        return f"It has positions for {config.max_position_embeddings} tokens; longer input is an error."
    return f"It is meant for up to {config.max_position_embeddings} tokens; beyond them quality may fall."


def pair_rows(config) -> list[tuple[str, str]]:
    """Part and choice for both stacks of an encoder-decoder."""
    stacks = {"encoder": config.encoder, "decoder": config.decoder}
    rows = [(f"{name}: {part}", choice) for name, stack in stacks.items() for part, choice in architecture_rows(stack)]
    rows = [row for row in rows if not row[0].endswith(": shape")]
    if config.encoder.vocab_size != config.decoder.vocab_size:
        load = '`AutoTokenizer.from_pretrained("PATH_OR_REPOSITORY", subfolder="target_tokenizer")`'
        rows.append(("tokenizers", f"one for what is read, and for what is written {load}"))
    return rows if config.decoder_is_causal else [*rows, ("decoder: order", "all tokens at once, by mask-predict")]


def recurrent_rows(config) -> list[tuple[str, str]]:
    """Part and choice for each part of a recurrent model."""
    directions = "both directions" if config.bidirectional_encoder else "one direction"
    return [
        ("shape", f"LSTM encoder, which reads in {directions}, and LSTM decoder"),
        ("layers", f"{config.num_hidden_layers} each, {config.hidden_size} wide"),
        ("attention", f"{config.attention} ({RECURRENT_ATTENTIONS[config.attention]})"),
        ("vocabulary", f"{config.vocab_size:,}"),
    ]


def pair_limits(config) -> list[str]:
    """The sentences about long input, one for each stack."""
    return [f"Of the {name}: {length_limit(getattr(config, name))}" for name in ("encoder", "decoder")]


def dual_rows(config) -> list[tuple[str, str]]:
    """Part and choice for both stacks of a dual encoder, and for what makes vectors of their states."""
    stacks = {"texts": config.text_config, "images": config.vision_config}
    rows = [(f"{name}: {part}", choice) for name, stack in stacks.items() for part, choice in architecture_rows(stack)]
    return [
        *rows,
        ("texts: pooling, projection", f"{config.text_pooling}, {config.text_projection}"),
        ("images: pooling, projection", f"{config.vision_pooling}, {config.vision_projection}"),
        ("vectors", f"of {config.projection_dim} features, trained with the {config.contrastive_loss} loss"),
    ]


def image_text_rows(config) -> list[tuple[str, str]]:
    """Part and choice for the decoder, the encoder of images, and what stands between them."""
    stacks = {"decoder": config.text_config, "images": config.vision_config}
    rows = [(f"{name}: {part}", choice) for name, stack in stacks.items() for part, choice in architecture_rows(stack)]
    return [*rows, ("projector", f"two layers, {config.projector_hidden_act}; token {config.image_token_id} a patch")]


def dual_limits(config) -> list[str]:
    """The sentences about long texts and images of other sizes."""
    return [f"Of texts: {length_limit(config.text_config)}", f"Of images: {length_limit(config.vision_config)}"]


def recurrent_limits(config) -> list[str]:
    """The sentence about long input to a recurrent model."""
    return ["It reads texts of any length; quality falls on longer ones than it was trained on."]


# Of each model type the rows of the table, and what there is to say of long input.
DESCRIPTIONS = {
    "trine": (architecture_rows, lambda config: [length_limit(config)]),
    "trine_seq2seq": (pair_rows, pair_limits),
    "trine_recurrent": (recurrent_rows, recurrent_limits),
    "trine_dual_encoder": (dual_rows, dual_limits),
    "trine_image_text": (image_text_rows, dual_limits),
}
# The `pipeline_tag` of what a model of an Auto class does. The Hub has none for encoder-decoders: where one translates
# or summarises, its author may write `translation` or `summarization`.
TASKS = {
    "AutoModelForCausalLM": "text-generation",
    "AutoModelForAudioClassification": "audio-classification",
    "AutoModelForImageClassification": "image-classification",
    "AutoModelForMaskedImageModeling": "image-feature-extraction",
    "AutoModelForMaskedLM": "fill-mask",
    "AutoModelForPreTraining": "fill-mask",
    "AutoModelForSeq2SeqLM": "text-generation",
    "AutoModelForSequenceClassification": "text-classification",
    "AutoModelForTimeSeriesPrediction": "time-series-forecasting",
    "AutoModelForTokenClassification": "token-classification",
    "AutoModelForQuestionAnswering": "question-answering",
    "AutoModelForMultipleChoice": "multiple-choice",
    "AutoModelForImageTextToText": "image-text-to-text",
    "AutoModelForZeroShotImageClassification": "zero-shot-image-classification",
}


# What makes a model's inputs, by their kind: transformers' Auto class, and what the card calls it.
PREPARERS = {
    "image": ("AutoImageProcessor", "processor"),
    "audio": ("AutoFeatureExtractor", "feature_extractor"),
    "series": ("", ""),
}
# The same of models of several inputs, by their type.
PROCESSORS = dict.fromkeys(("trine_dual_encoder", "trine_image_text"), ("AutoProcessor", "processor"))


def model_card(config, class_name: str, auto_class: str, num_parameters: int) -> str:
    """Renders the card as Markdown with the Hub's metadata block."""
    describe, limit = DESCRIPTIONS[config.model_type]
    prepared = PREPARERS.get(getattr(config, "input_type", "tokens"), ("AutoTokenizer", "tokenizer"))
    preparer, variable = PROCESSORS.get(config.model_type, prepared)
    imported = f"{auto_class}, {preparer}" if preparer else auto_class
    prepared = f'{variable} = {preparer}.from_pretrained("PATH_OR_REPOSITORY")\n' if preparer else ""
    return CARD.format(
        task=TASKS.get(auto_class, "feature-extraction"),
        title=class_name,
        class_name=class_name,
        auto_class=auto_class,
        imported=imported,
        prepared=prepared,
        num_parameters=num_parameters,
        rows="\n".join(f"| {part} | {choice} |" for part, choice in describe(config)),
        length_limits="\n".join(f"* {line}" for line in limit(config)),
    )

"""The rows of what a model can read, and the heads that only models of patches have."""

from .choices import Choices
from .kind_fields import KindField
from .kind_rows import AboutInput, InputKind


# transformers' Auto classes of heads that read tokens, and that no checkpoint of a model of patches names.
TEXT_HEADS = dict.fromkeys(
    (
        "AutoModelForCausalLM",
        "AutoModelForMaskedLM",
        "AutoModelForPreTraining",
        "AutoModelForNextSentencePrediction",
        "AutoModelForTextEncoding",
        "AutoModelForSequenceClassification",
        "AutoModelForTokenClassification",
        "AutoModelForQuestionAnswering",
        "AutoModelForMultipleChoice",
    )
)

LEARNED_TOKENS = (
    ("use_cls_token", KindField(True, "Whether a learned token stands before the patches.")),
    ("num_register_tokens", KindField(0, "Further learned tokens that nothing reads out.", minimum=0)),
    ("use_mask_token", KindField(False, "Whether `bool_masked_pos` may hide patches.")),
)

INPUT_KINDS = Choices(
    "input_type",
    {
        "tokens": InputKind(
            reads=("input_ids",),
            about=AboutInput(
                description="ids of a vocabulary, each with a vector of its own",
                patch="a token",
                source="Bengio et al. 2003, A neural probabilistic language model",
            ),
        ),
        "image": InputKind(
            reads=("pixel_values", "bool_masked_pos"),
            card=("images", "of {0.image_size} pixels squared, {0.num_channels} channels, patches of {0.patch_size}"),
            fields=(
                ("image_size", KindField(224, "Height and width of an image that positions are made for.", minimum=1)),
                ("patch_size", KindField(16, "Height and width of a patch, in pixels.", minimum=1)),
                ("num_channels", KindField(3, "Channels of an image: 3 of colours, 1 of grey.", minimum=1)),
                *LEARNED_TOKENS,
            ),
            about=AboutInput(
                description="pictures of any size, in patches of `patch_size` pixels squared",
                patch="a square of pixels",
                source="Dosovitskiy et al. 2020, ViT, arXiv 2010.11929",
            ),
        ),
        "audio": InputKind(
            reads=("input_values", "bool_masked_pos"),
            aliases=("input_features",),
            card=("sounds", "spectrograms of {0.num_mel_bins} mel bands, patches of {0.patch_size}"),
            fields=(
                ("num_mel_bins", KindField(128, "Mel bands of a spectrogram.", minimum=1)),
                ("num_frames", KindField(1024, "Frames of a spectrogram that positions are made for.", minimum=1)),
                ("patch_size", KindField(16, "Mel bands and frames of a patch.", minimum=1)),
                *LEARNED_TOKENS,
            ),
            about=AboutInput(
                description="log-mel spectrograms of any length, in patches of `patch_size` bands and frames",
                patch="some bands of some frames",
                source="Gong et al. 2021, AST, arXiv 2104.01778",
            ),
        ),
        "series": InputKind(
            reads=("past_values", "past_observed_mask"),
            card=("series", "{0.context_length} steps, {0.num_input_channels} channels, patches of {0.patch_length}"),
            fields=(
                ("context_length", KindField(96, "Steps of the past that are read.", minimum=1)),
                ("prediction_length", KindField(24, "Steps of the future that are predicted.", minimum=1)),
                ("num_input_channels", KindField(1, "Series that are read side by side.", minimum=1)),
                ("patch_length", KindField(16, "Steps of a patch.", minimum=1)),
                ("patch_stride", KindField(8, "Steps from one patch to the next.", minimum=1)),
                ("scaling", KindField("std", "How each window is normalised.", choices=("std", "mean", "none"))),
                ("minimum_scale", KindField(1e-5, "The least variance, or mean size, of a window.", above=0)),
                ("loss", KindField("mse", "What training minimises.", choices=("mse", "mae", "quantile"))),
                (
                    "num_quantiles",
                    KindField(9, "Odd number n of levels i / (n + 1) of `quantile`.", minimum=1),
                ),
            ),
            about=AboutInput(
                description="windows of series, each by itself, in patches of `patch_length` steps",
                patch="some steps of one series",
                source="Nie et al. 2023, PatchTST, arXiv 2211.14730",
            ),
        ),
    },
)

# By input: a field that its models alone have, and their classes by transformers' Auto class.
INPUT_HEADS = Choices(
    "input_type",
    {
        "image": (
            "image_size",
            {
                **TEXT_HEADS,
                "AutoModelForImageClassification": "TrineForImageClassification",
                "AutoModelForMaskedImageModeling": "TrineForMaskedImageModeling",
            },
        ),
        "audio": (
            "num_mel_bins",
            {**TEXT_HEADS, "AutoModelForAudioClassification": "TrineForAudioClassification"},
        ),
        "series": (
            "context_length",
            {**TEXT_HEADS, "AutoModelForTimeSeriesPrediction": "TrineForTimeSeriesPrediction"},
        ),
    },
)

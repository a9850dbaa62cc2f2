"""Values that no config may have: the class, its fields, and how the message must begin."""

from trine import TrineConfig, TrineRecurrentConfig, TrineSeq2SeqConfig
from trine.configuration.bounds import DTYPES


NAN, INFINITY = float("nan"), float("inf")
ROPE = "rope_parameters"
VALUE_ERRORS = {
    "input": (TrineConfig, {"input_type": "imag"}, "input_type='imag' is not one of ['tokens', 'image'"),
    "images of texts": (
        TrineConfig,
        {"image_size": 32},
        "image_size=32 is read with input_type='image' only, but inp",
    ),
    "part of a patch": (
        TrineConfig,
        {"input_type": "image", "image_size": 30},
        "image_size=30 is not a multiple of patch_size=16. The nearest that are: [16, 32].",
    ),
    "no patch": (TrineConfig, {"input_type": "image", "patch_size": 0}, "patch_size=0 must be at least 1."),
    "half a channel": (TrineConfig, {"input_type": "image", "num_channels": 1.5}, "num_channels=1.5 must be an int."),
    "segments of images": (
        TrineConfig,
        {"input_type": "image", "type_vocab_size": 2},
        "type_vocab_size=2 is a number of segments of texts, but input_type='image': it must be 0.",
    ),
    "scaled grid": (
        TrineConfig,
        {"input_type": "image", "rope_parameters": {"rope_type": "linear", "factor": 2.0}},
        "rope_parameters={",
    ),
    "odd grid": (
        TrineConfig,
        {"input_type": "image", "head_dim": 6},
        "head_dim=6 rotates 6 features, but with input_type='image' rows and columns share them in pairs",
    ),
    "odd waves": (
        TrineConfig,
        {"input_type": "image", "position_type": "sinusoidal", "hidden_size": 10, "num_attention_heads": 5},
        "hidden_size=10 must be a multiple of 4: with position_type='sinusoidal' rows and columns",
    ),
    "pooler without class token": (
        TrineConfig,
        {"input_type": "image", "use_cls_token": False, "add_pooling_layer": True, "is_causal": False},
        "add_pooling_layer=True reads the class token, but use_cls_token=False.",
    ),
    "window of a patch": (
        TrineConfig,
        {"input_type": "series", "patch_length": 97},
        "patch_length=97 is above context_length=96.",
    ),
    "pooler of series": (
        TrineConfig,
        {"input_type": "series", "add_pooling_layer": True, "is_causal": False},
        "add_pooling_layer=True reads a first token, but with input_type='series' there is none.",
    ),
    "quantiles without a median": (
        TrineConfig,
        {"input_type": "series", "num_quantiles": 4},
        "num_quantiles=4 must be odd: the middle one is the median.",
    ),
    "places of a window": (
        TrineConfig,
        {"input_type": "series", "position_type": "learned", "max_position_embeddings": 10},
        "max_position_embeddings=10 is below the 11 patches of a window.",
    ),
    "scaling": (TrineConfig, {"input_type": "series", "scaling": "max"}, "scaling='max' is not one of ['std', 'mean'"),
    "steps of texts": (TrineConfig, {"context_length": 96}, "context_length=96 is read with input_type='series' only"),
    "count": (
        TrineConfig,
        {"attention_types": "full*1000000000"},
        "attention_types has the part 'full*1000000000', but 10,000 layers are the most.",
    ),
    "digits": (
        TrineConfig,
        {"mlp_layer_types": "dense, sparse*" + "9" * 5000},
        "mlp_layer_types has the part ' sparse*9999",
    ),
    "layers": (TrineConfig, {"num_hidden_layers": 10**9}, "num_hidden_layers=1000000000 must be at most 10,000."),
    "product": (
        TrineConfig,
        {"vocab_size": 10**9, "hidden_size": 10**6},
        "vocab_size=1000000000 and hidden_size=1000000 ask for 1.0e+15 weights; 1e+14 is the most.",
    ),
    "huge": (
        TrineConfig,
        {"hidden_size": 10**400},
        "hidden_size=an integer of 1329 bits must be at most 1,000,000,000.",
    ),
    "huge factor": (TrineConfig, {"norm_eps": 10**400}, "norm_eps=an integer of 1329 bits must be at most"),
    "lstm product": (
        TrineRecurrentConfig,
        {"hidden_size": 10**8},
        "hidden_size=100000000 and hidden_size=100000000 ask for 3.2e+17 weights",
    ),
    "labels": (TrineConfig, {"num_labels": 10**9}, "num_labels=1000000000 must be at least 1, and at most 1,000,000."),
    "no labels": (TrineConfig, {"num_labels": 0}, "num_labels=0 must be at least 1, and at most 1,000,000."),
    "labels in words": (TrineConfig, {"num_labels": "two"}, "num_labels='two' must be an integer."),
    "label names": (
        TrineConfig,
        {"id2label": {}},
        "id2label={} must map the number of each label to its name, or be None.",
    ),
    "label numbers": (
        TrineConfig,
        {"id2label": {"good": "0"}},
        "id2label={'good': '0'} must map the number of each label to its name, or be None.",
    ),
    "dtype": (TrineConfig, {"dtype": "float23"}, f"dtype='float23' is not one of {list(DTYPES)}."),
    "old dtype": (TrineConfig, {"torch_dtype": "bf"}, f"torch_dtype='bf' is not one of {list(DTYPES)}."),
    "list": (TrineConfig, {"architectures": "TrineModel"}, "architectures='TrineModel' must be list or None."),
    "problem": (
        TrineRecurrentConfig,
        {"problem_type": "classification"},
        "problem_type='classification' is not one of ['regression', 'single_label_classification', ",
    ),
    "chunks": (
        TrineRecurrentConfig,
        {"chunk_size_feed_forward": -1},
        "chunk_size_feed_forward=-1 must be an integer of at least 0.",
    ),
    "two stacks": (
        TrineConfig,
        {"is_encoder_decoder": True},
        "is_encoder_decoder=True: a TrineConfig is one stack. Use TrineSeq2SeqConfig for two.",
    ),
    "prefixes of an encoder": (
        TrineConfig,
        {"prefix_lm": True, "is_causal": False},
        "prefix_lm=True is for a decoder by itself, but is_causal=False, add_cross_attention=False.",
    ),
    "prefixes without masks": (
        TrineConfig,
        {"prefix_lm": True, "num_hidden_layers": 2, "attention_types": "full, linear"},
        "prefix_lm=True needs layers with a mask of pairs of tokens, but attention_types[1]='linear' is not one of "
        "['full', 'sliding', 'chunked'].",
    ),
    "one stack": (
        TrineSeq2SeqConfig,
        {"is_encoder_decoder": False},
        "is_encoder_decoder=False: use TrineConfig for one stack.",
    ),
    "another family": (
        TrineSeq2SeqConfig,
        {"encoder": TrineRecurrentConfig()},
        "encoder is a TrineRecurrentConfig, but must be a TrineConfig.",
    ),
    "no pointer": (
        TrineSeq2SeqConfig,
        {"pointer_size": 0},
        "pointer_size=0 must be at least 1, or None for no pointer.",
    ),
    "two vocabularies": (
        TrineSeq2SeqConfig,
        {"pointer_size": 8, "encoder": {"vocab_size": 9}, "share_embeddings": False},
        "pointer_size=8 copies tokens of the source into the target, which need one vocabulary, but "
        "encoder.vocab_size=9 and decoder.vocab_size=32000.",
    ),
    "coverage of nothing": (
        TrineSeq2SeqConfig,
        {"coverage_loss_coef": 1.0},
        "coverage_loss_coef=1.0 must not be negative, and needs a pointer: pointer_size=None.",
    ),
    "negative coverage": (
        TrineSeq2SeqConfig,
        {"coverage_loss_coef": -1.0, "pointer_size": 8},
        "coverage_loss_coef=-1.0 must not be negative, and needs a pointer: pointer_size=8.",
    ),
    "no such vectors": (
        TrineConfig,
        {"retrieval_outputs": ["dens"], "is_causal": False},
        "retrieval_outputs[0]='dens' is not one of ['dense', 'sparse', 'multi_vector']. Did you mean 'dense'?",
    ),
    **{
        f"vectors {outputs}": (
            TrineConfig,
            {"retrieval_outputs": outputs, "is_causal": False},
            f"retrieval_outputs={outputs} must name some of ['dense', 'sparse', 'multi_vector'], each once",
        )
        for outputs in ([], ["dense", "dense"])
    },
    "vectors of a decoder": (
        TrineConfig,
        {"retrieval_outputs": ["dense"]},
        "retrieval_outputs=['dense'] are those of an encoder: they need is_causal=False.",
    ),
    "special tokens": (
        TrineConfig,
        {"retrieval_outputs": ["sparse"], "is_causal": False},
        "unscored_token_ids=None, but retrieval_outputs=['sparse'] give tokens scores: name the special tokens, "
        "tokenizer.all_special_ids, or [] for none.",
    ),
    "special tokens beyond": (
        TrineConfig,
        {"unscored_token_ids": [0, 32000]},
        "unscored_token_ids=[0, 32000] has 32000, but must lie in the vocabulary, 0 to 31999.",
    ),
    "a stack": (TrineSeq2SeqConfig, {"decoder": {"norm_eps": NAN}}, "decoder: norm_eps=nan must be a finite number"),
    "no end": (TrineConfig, {"eos_token_id": []}, "eos_token_id=[] must hold one id at least, or be None."),
    **{
        f"{family.__name__}.{field}": (
            family,
            {field: 32000},
            f"{field}=32000 must lie in the vocabulary, 0 to 31999.",
        )
        for family in (TrineSeq2SeqConfig, TrineRecurrentConfig)
        for field in ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id")
    },
    "dropout": (
        TrineSeq2SeqConfig,
        {"classifier_dropout": 1.0},
        "classifier_dropout=1.0 must be at least 0 and below 1.",
    ),
    "activation": (TrineConfig, {"hidden_act": "sillu"}, "hidden_act='sillu' is not one of ['gelu', "),
    "rope type": (
        TrineConfig,
        {ROPE: {"rope_type": "defualt"}},
        "rope_parameters['rope_type']='defualt' is not one of ['default', 'linear', ",
    ),
    "rope of a layer": (
        TrineConfig,
        {ROPE: {"full_attention": {"rope_type": "liner", "factor": 2}}},
        "rope_parameters['full_attention']['rope_type']='liner' is not one of",
    ),
    "no rope of a layer": (
        TrineConfig,
        {ROPE: {"full_attention": 5}},
        "rope_parameters['full_attention']=5 must be a dict of rotary parameters.",
    ),
    "needed": (
        TrineConfig,
        {ROPE: {"rope_type": "linear"}},
        "rope_parameters has no 'factor', which rope_type='linear' needs.",
    ),
    "no number": (TrineConfig, {"rope_theta": "1e4"}, "rope_parameters['rope_theta']='1e4' must be a number."),
    "theta": (TrineConfig, {ROPE: {"rope_theta": 0}}, "rope_parameters['rope_theta']=0 must be above 0."),
    "factor": (
        TrineConfig,
        {ROPE: {"rope_type": "dynamic", "factor": 0.5}},
        "rope_parameters['factor']=0.5 must be at least 1.",
    ),
    **{
        f"rotated {fraction}": (
            TrineConfig,
            {ROPE: {"partial_rotary_factor": fraction}},
            f"rope_parameters['partial_rotary_factor']={fraction} must be at most 1, and rotate 2 of the "
            "head_dim=64 features at least with rope_type='default'.",
        )
        for fraction in (1.5, 0.02)
    },
    "dynamic": (
        TrineConfig,
        {"head_dim": 2, ROPE: {"rope_type": "dynamic", "factor": 2.0}},
        "rope_parameters['partial_rotary_factor']=1 must be at most 1, and rotate 4 of the head_dim=2 features",
    ),
    "llama3": (
        TrineConfig,
        {ROPE: {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 1.0}},
        "rope_parameters['high_freq_factor']=1.0 must be above low_freq_factor=4.0.",
    ),
    "yarn": (
        TrineConfig,
        {ROPE: {"rope_type": "yarn", "factor": 8.0, "beta_fast": 1, "beta_slow": 32}},
        "rope_parameters['beta_fast']=1 must be above beta_slow=32.",
    ),
    "longrope": (
        TrineConfig,
        {ROPE: {"rope_type": "longrope", "short_factor": [1.0], "long_factor": [1.0]}},
        "rope_parameters['short_factor']=[1.0] must be a list of 32 numbers, one for each rotated pair.",
    ),
}

"""Pretraining objectives: the model's head, its tokenizer and its data, chosen by `--objective`."""

import math
from collections.abc import Callable, Sized
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from transformers import DataCollatorForLanguageModeling, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from ...configuration.configuration_trine import TrineConfig
from ...configuration.configuration_trine_seq2seq import TrineSeq2SeqConfig
from ...modeling.heads.causal_lm import TrineForCausalLM
from ...modeling.heads.masked_lm import TrineForMaskedLM, TrineForPreTraining
from ...modeling.heads.seq2seq import TrineForConditionalGeneration
from ...tokenization.training import train_byte_level_bpe, train_unigram, train_wordpiece
from ..data.cache_folders import DEFAULT_CACHE, find_or_make
from ..data.corpus import PARTS, Corpus, Part
from ..data.packing import PackedBlocks
from ..data.padding_free import PaddingFreeCollator
from ..data.token_store import TokenStore, read_tokens, tokenizer_identity, write_tokens
from ..data.word_cache import TokenEncoder
from ..measures.baselines import ngram_losses
from .masked_text import MaskedPairs, MaskedSequences, MaskedText, sentence_pieces
from .prefixes import PrefixCollator
from .span_corruption import SENTINELS, SpanCorruptionCollator, check_spans, text_length
from .starts import PRESET, start_config
from .whole_words import WORDS, WholeWordMaskingCollator, WordEncoder


# Training tokens that the counting baselines count at most: memory is theirs alone.
BASELINE_TOKENS = 10_000_000


@dataclass
class ObjectiveOptions:
    """Options of pretraining: objective and size of the model, its tokenizer, and the making of examples."""

    objective: str = field(
        default="causal",
        metadata={
            "help": "What is learned: 'causal', a decoder tells the next token; 'prefix_lm', of texts whose beginning "
            "it reads both ways; 'masked', an encoder restores masked tokens; 'masked_next_token', from the state "
            "before each, as a lifted decoder does; 'masked_next_sentence', and also tells whether two segments "
            "belong together, as BERT; "
            "'span_corruption', an encoder-decoder writes the spans that are left out of a text, as T5."
        },
    )
    cache_dir: str | None = field(
        default=None,
        metadata={
            "help": "Folder of tokenizers and tokens, which later runs on the same files find again. "
            "Default: trine in the folder of Hugging Face's caches (HF_HOME)."
        },
    )
    preprocessing_num_workers: int | None = field(
        default=None, metadata={"help": "Processes that tokenise a long text. Default: one for each core."}
    )
    vocab_size: int = field(default=8192, metadata={"help": "Number of tokens of the tokenizer that is trained."})
    model: str | None = field(
        default=None,
        metadata={
            "help": "Folder or Hub id of a checkpoint whose weights training goes on from, with its tokenizer and a "
            "schedule of its own; a converted one, too. By default the model is new."
        },
    )
    preset: str | None = field(
        default=None, metadata={"help": f"Named size that a new model starts from. Default: {PRESET}."}
    )
    block_length: int = field(
        default=512, metadata={"help": "Tokens in one training sequence; masked ones may be shorter."}
    )
    document_boundaries: bool = field(
        default=False, metadata={"help": "Keep the documents of a block apart: none sees the one before it."}
    )
    mlm_probability: float = field(
        default=0.3, metadata={"help": "Share of the tokens, or of the words, that is masked (arXiv 2202.08005)."}
    )
    whole_words: str | None = field(
        default=None,
        metadata={"help": "Mask whole words: those of the 'tokenizer', or in Chinese those that 'jieba' finds."},
    )
    noise_density: float = field(
        default=0.15, metadata={"help": "Share of the tokens that span corruption leaves out."}
    )
    mean_span_length: float = field(default=3.0, metadata={"help": "Tokens of such a span, on average."})
    validation_fraction: float = field(
        default=0.05, metadata={"help": "Share of the text, in whole documents, that is held out."}
    )

    def __post_init__(self):
        if self.model is not None and self.preset is not None:
            raise ValueError(f"preset='{self.preset}' is the size of a new model: leave it out with --model.")
        if self.preprocessing_num_workers is not None and self.preprocessing_num_workers < 1:
            raise ValueError(f"preprocessing_num_workers={self.preprocessing_num_workers} must be at least 1.")


class CausalObjective:
    """A decoder tells the next token; the text is one stream, cut into blocks."""

    model: ClassVar[type[PreTrainedModel]] = TrineForCausalLM
    train_tokenizer: ClassVar[Callable] = staticmethod(train_byte_level_bpe)
    ends_documents = True  # whether each document ends with the EOS token
    splits_sentences = False  # whether the pieces of the store are sentences
    is_causal = True
    fields: ClassVar[dict[str, Any]] = {}  # of the config, where it has no others

    def __init__(self, options: ObjectiveOptions, seed: int = 0):
        self.options, self.seed = options, seed
        self.cache = Path(options.cache_dir or DEFAULT_CACHE)
        self.check()

    def check(self) -> None:
        """Raises a ValueError for an option that has no meaning for this objective."""
        if self.options.whole_words is not None:
            raise ValueError(
                f"whole_words='{self.options.whole_words}' masks words, and "
                f"objective='{self.options.objective}' masks none."
            )

    def make_config(self, **overrides: Any) -> PreTrainedConfig:
        """The config of the preset, or of the checkpoint to go on from, with those fields.

        Raises:
            OSError: there is no such checkpoint.
            ValueError: it is not of the shape that the objective needs, besides the errors of the config.
        """
        role = {"is_causal": self.is_causal} if self.options.model is None else {}  # no checkpoint is turned around
        config = self.start(TrineConfig, {**role, **overrides})
        unset = [name for name in self.fields if getattr(config, name) == getattr(TrineConfig, name)]
        missing = {name: self.fields[name] for name in unset}
        if missing:
            config = self.start(TrineConfig, {**role, **missing, **overrides})
        if config.is_causal != self.is_causal:
            raise ValueError(
                f"is_causal={config.is_causal}, but objective='{self.options.objective}' needs {self.is_causal}."
            )
        return config

    def start(self, config_class: Any, overrides: dict[str, Any]) -> Any:
        """The config of the preset, or of the checkpoint to go on from; see `start_config`."""
        return start_config(config_class, self.options.preset, self.options.model, overrides)

    def make_tokenizer(self, corpus: Corpus, show_progress: bool) -> PreTrainedTokenizerBase:
        """A tokenizer trained on the training part; an earlier one, where nothing has changed since."""

        def make(folder: Path) -> None:
            texts = corpus.texts("training")
            self.train_tokenizer(texts, self.options.vocab_size, show_progress=show_progress).save_pretrained(folder)

        from transformers import AutoTokenizer

        kind = f"{type(self).__name__} {self.options.vocab_size}"
        key = {"tokenizer": kind, **corpus.identity}
        return AutoTokenizer.from_pretrained(find_or_make(self.cache, key, make))

    def tokenize(
        self, corpus: Corpus, tokenizer: PreTrainedTokenizerBase, show_progress: bool
    ) -> dict[Part, TokenStore]:
        """The tokens of each part; those of an earlier run, where nothing has changed since.

        Raises:
            ValueError: there is no text.
        """
        end: Any = tokenizer.eos_token_id if self.ends_documents else None
        description = "Tokenising the text" if show_progress else None
        words = self.options.whole_words
        encode = WordEncoder(tokenizer, words) if words else TokenEncoder(tokenizer)
        pieces = sentence_pieces(corpus.pieces()) if self.splits_sentences else corpus.pieces()
        how = {"end": end, "words": words, "sentences": self.splits_sentences}
        key = {**how, "by": tokenizer_identity(tokenizer), **corpus.identity}
        write: Any = partial(
            write_tokens,
            pieces=pieces,
            encode=encode,
            ends_with=end,
            description=description,
            processes=self.options.preprocessing_num_workers,
        )
        folder = find_or_make(self.cache, key, write)
        return {part: read_tokens(folder / part) for part in PARTS}

    def make_data(self, part: Part, store: TokenStore, tokenizer: PreTrainedTokenizerBase) -> Sized:
        """The training or validation data.

        Raises:
            ValueError: there is too little text.
        """
        separator: Any = tokenizer.eos_token_id if self.options.document_boundaries else None
        return self.make_blocks(part, store, separator)

    def make_blocks(self, part: Part, store: TokenStore, separator: int | None) -> PackedBlocks:
        """Cuts the stored tokens into blocks; a ValueError if there are fewer tokens than one block."""
        length = self.text_length()
        if len(store.tokens) < length:
            raise ValueError(
                f"The {part} text has {len(store.tokens)} tokens, fewer than one block of {length} (block_length="
                f"{self.options.block_length}): give more text, or change block_length or validation_fraction="
                f"{self.options.validation_fraction}."
            )
        return PackedBlocks(store.tokens, length, separator)

    def text_length(self) -> int:
        """Tokens of text in one block."""
        return self.options.block_length

    def make_collator(self, tokenizer: PreTrainedTokenizerBase) -> Callable | None:
        """The collator that makes batches; None for the trainer's own."""
        return None

    def count_tokens(self, data: Any) -> int:
        """The number of tokens in the data."""
        return data.blocks.numel()

    def baselines(self, train: Any, validation: Any, vocab_size: int) -> dict[str, float]:
        """Losses of unigram and bigram models on the validation data, in nats per token."""
        ngrams = ngram_losses(train.blocks.flatten()[:BASELINE_TOKENS], validation.blocks, vocab_size)
        return {"unigram": ngrams.unigram, "bigram": ngrams.bigram}


class PrefixObjective(CausalObjective):
    """A decoder reads the beginning of a block both ways, and tells the rest, token by token."""

    fields: ClassVar[dict[str, Any]] = {"prefix_lm": True}

    def check(self) -> None:
        """Raises a ValueError for document boundaries: a block has one prefix."""
        super().check()
        if self.options.document_boundaries:
            raise ValueError(
                "document_boundaries=True does not apply to objective='prefix_lm': a block has one prefix."
            )

    def make_collator(self, tokenizer: PreTrainedTokenizerBase) -> Callable:
        """A collator that draws prefixes."""
        return PrefixCollator()


class MaskedObjective(CausalObjective):
    """An encoder restores masked tokens, in sequences of their own lengths, which batches pack without padding."""

    model = TrineForMaskedLM
    train_tokenizer = staticmethod(train_wordpiece)
    ends_documents = False
    is_causal = False

    def check(self) -> None:
        """Raises a ValueError for unknown words, a probability out of range, or document boundaries."""
        words = self.options.whole_words
        if words is not None and words not in WORDS:
            raise ValueError(f"whole_words='{words}' is not among {list(WORDS)}.")
        if not 0 < self.options.mlm_probability < 1:
            raise ValueError(f"mlm_probability={self.options.mlm_probability} must lie between 0 and 1.")
        if self.options.document_boundaries:
            raise ValueError(
                "document_boundaries=True says nothing new: masked sequences never reach beyond a document."
            )

    def make_data(self, part: Part, store: TokenStore, tokenizer: PreTrainedTokenizerBase) -> Sized:
        """Sequences, each within one document."""
        whole_words = self.options.whole_words is not None
        return MaskedSequences(store, tokenizer, self.options.block_length, whole_words=whole_words)

    def make_collator(self, tokenizer: PreTrainedTokenizerBase) -> Callable:
        """A collator that masks tokens or whole words, and packs sequences without padding."""
        probability = self.options.mlm_probability
        if self.options.whole_words:
            return PaddingFreeCollator(WholeWordMaskingCollator(tokenizer, probability))
        return PaddingFreeCollator(DataCollatorForLanguageModeling(tokenizer, mlm_probability=probability))

    def count_tokens(self, data: Any) -> int:
        """The number of tokens in all sequences, special ones included."""
        return data.num_tokens

    def baselines(self, train: MaskedText, validation: MaskedText, vocab_size: int) -> dict[str, float]:
        """The loss of a unigram model, in nats per token."""
        losses = ngram_losses(train.text(BASELINE_TOKENS), validation.text(BASELINE_TOKENS)[None], vocab_size)
        return {"unigram": losses.unigram}


class MaskedNextTokenObjective(MaskedObjective):
    """An encoder that was a decoder restores each masked token from the state before it (arXiv 2404.05961)."""

    fields: ClassVar[dict[str, Any]] = {"masked_lm_head": "next_token"}


class NextSentenceObjective(MaskedObjective):
    """BERT's objectives: masked tokens, and whether the second of two segments follows the first."""

    model = TrineForPreTraining
    fields: ClassVar[dict[str, Any]] = {"type_vocab_size": 2}
    splits_sentences = True

    def make_data(self, part: Part, store: TokenStore, tokenizer: PreTrainedTokenizerBase) -> Sized:
        """Pairs of segments; a ValueError if there is only one document."""
        length = self.options.block_length
        whole_words = self.options.whole_words is not None
        if (documents := len(store.ends.unique())) < 2:
            raise ValueError(
                f"The {part} text has {documents} document; objective='masked_next_sentence' takes segments from "
                "others, too, so that 2 are needed: give more texts, or change validation_fraction="
                f"{self.options.validation_fraction}."
            )
        return MaskedPairs(store, tokenizer, length, whole_words=whole_words, seed=self.seed)

    def baselines(self, train: Any, validation: Any, vocab_size: int) -> dict[str, float]:
        """Losses of counting for masked tokens, plus that of a coin for the second loss, in nats."""
        losses = super().baselines(train, validation, vocab_size)
        return {name: loss + math.log(2) for name, loss in losses.items()}


class SpanCorruptionObjective(CausalObjective):
    """T5's objective: an encoder-decoder reads a text with spans left out, and writes the spans."""

    model = TrineForConditionalGeneration
    train_tokenizer = staticmethod(partial(train_unigram, extra_special_tokens=list(SENTINELS)))

    def check(self) -> None:
        """Raises a ValueError for a density or a length of spans out of range, or document boundaries."""
        super().check()
        check_spans(self.options.noise_density, self.options.mean_span_length)
        if self.options.document_boundaries:
            raise ValueError("document_boundaries=True does not apply to objective='span_corruption'.")

    def make_config(self, **overrides: Any) -> PreTrainedConfig:
        """The config of the preset, whose decoder begins with the padding token as in T5."""
        # As in T5: a sentinel follows it, not a text, so that the token that begins texts would say nothing.
        if "decoder_start_token_id" not in overrides and overrides.get("pad_token_id") is not None:
            overrides["decoder_start_token_id"] = overrides["pad_token_id"]
        config = self.start(TrineSeq2SeqConfig, overrides)
        if config.encoder.vocab_size != config.decoder.vocab_size:
            raise ValueError(
                f"objective='{self.options.objective}' reads and writes pieces of one text, but encoder.vocab_size="
                f"{config.encoder.vocab_size} and decoder.vocab_size={config.decoder.vocab_size}."
            )
        return config

    def text_length(self) -> int:
        """Tokens of text in one block: more than the input has, as spans are left out."""
        return text_length(self.options.block_length, self.options.noise_density, self.options.mean_span_length)

    def make_collator(self, tokenizer: PreTrainedTokenizerBase) -> Callable:
        """A collator that leaves spans out."""
        return SpanCorruptionCollator(tokenizer, self.options.noise_density, self.options.mean_span_length)

    def baselines(self, train: Any, validation: Any, vocab_size: int) -> dict[str, float]:
        """No baselines: half of the predicted tokens are sentinels, whose order is known."""
        return {}  # half of what is predicted are marks, whose order is known


OBJECTIVES: dict[str, type[CausalObjective]] = {
    "causal": CausalObjective,
    "prefix_lm": PrefixObjective,
    "masked": MaskedObjective,
    "masked_next_token": MaskedNextTokenObjective,
    "masked_next_sentence": NextSentenceObjective,
    "span_corruption": SpanCorruptionObjective,
}

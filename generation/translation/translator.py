"""Turns texts into texts with an encoder-decoder: translations and summaries, with alignments of words."""

# Shapes: B batch, S source tokens, T target tokens.

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoTokenizer, PreTrainedTokenizerBase

from ...tokenization.loading import check_target_tokenizer, load_target_tokenizer
from ...tokenization.special_tokens import language_tag
from ...tokenization.token_labels import token_labels
from ..coverage import CoverageBeamSearch
from ..ensembles.model import Ensemble
from ..mask_predict import MaskPredict
from .post_processing import check_language, post_process
from .respelling import folds_case, respell


_UNLIMITED = 1_000_000  # transformers' number for a tokenizer without a limit is larger
_MOST_TOKENS = 512  # of a text, where neither model nor tokenizer has a limit


@dataclass(frozen=True)
class Translation:
    """A written text and, where asked for, its alignment to the source.

    `alignment` (source tokens, target tokens) is the weight of each source token when a target token was written, a
    mean over heads and layers; a column sums to 1.
    """

    text: str
    source_tokens: list[str]
    target_tokens: list[str]
    alignment: torch.Tensor | None = None


class Translator:
    """Tokenises texts, writes with an encoder-decoder, decodes and post-processes.

    `Translator.from_pretrained("my-translator", language="en")(["你好。"], num_beams=5)` returns a list of texts.

    Args:
        model: An encoder-decoder of this package or of transformers, or an `Ensemble` of them, in evaluation mode.
        tokenizer: Its tokenizer.
        target_tokenizer: That of what it writes, if its vocabulary is not that of what it reads. Default: the same.
        language: Language that is written, for the rules of `post_processing`; None for white space alone.
        max_length: Most tokens of a text, read or written. Default: the least of what tokenizer and model allow.
        respell: Whether words that the source has are spelled as there (`respelling.respell`). Default: yes, if the
            model copies by a pointer, and its tokenizer folds case.

    Raises:
        ValueError: The model is no encoder-decoder, or needs a second tokenizer; there are no rules for the language;
            or `max_length` is below 2 or above what the model allows.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: PreTrainedTokenizerBase,
        *,
        target_tokenizer: PreTrainedTokenizerBase | None = None,
        language: str | None = None,
        max_length: int | None = None,
        respell: bool | None = None,
    ):
        check_language(language)
        if not model.config.is_encoder_decoder:
            raise ValueError(f"{type(model).__name__} is no encoder-decoder, which reads one text and writes another.")
        for member in getattr(model, "members", [model]):
            check_target_tokenizer(member.config, target_tokenizer)
        self.model, self.tokenizer, self.language = model, tokenizer, language
        self.target_tokenizer = target_tokenizer or tokenizer
        copies = getattr(model.config, "pointer_size", None) is not None
        self.respell = copies and folds_case(self.target_tokenizer) if respell is None else respell
        limits = _limits(model, tokenizer, self.target_tokenizer)
        self.max_length = min(limits.values(), default=_MOST_TOKENS) if max_length is None else max_length
        positions = limits.get("max_position_embeddings", _UNLIMITED)
        if not 2 <= self.max_length <= positions:
            raise ValueError(
                f"max_length={max_length} must be at least 2, and at most max_position_embeddings={positions}."
            )

    @classmethod
    def from_pretrained(
        cls,
        folders: str | Path | Sequence[str | Path],
        *,
        language: str | None = None,
        max_length: int | None = None,
        device: str | torch.device | None = None,
        **options: Any,
    ) -> "Translator":
        """Loads a model and its tokenizer, or its two, from a folder or the Hub; several are an ensemble.

        Args:
            device: By default the accelerator, if there is one.
            options: Those of transformers' `from_pretrained`: `dtype`, `trust_remote_code`, and, for alignments and
                coverage, `attn_implementation="eager"`.

        Raises:
            ValueError: No folder is named, or those of an ensemble have not the same vocabulary.
            OSError: A folder holds no model or no tokenizer.
        """
        names = [folders] if isinstance(folders, (str, Path)) else [*folders]
        if not names:
            raise ValueError("folders is empty: name one folder, or several for an ensemble.")
        models, *sides = zip(*[_load(name, device, options) for name in names], strict=True)
        for side in sides:
            for name, tokenizer in zip(names[1:], side[1:], strict=True):
                if _vocabulary(tokenizer) != _vocabulary(side[0]):
                    raise ValueError(f"'{name}' and '{names[0]}' have not the same vocabulary: they are no ensemble.")
        model = models[0] if len(models) == 1 else Ensemble(models)
        source, target = (side[0] for side in sides)
        return cls(model, source, target_tokenizer=target, language=language, max_length=max_length)

    def __call__(self, texts: str | Sequence[str], **options: Any) -> Any:
        """The translation of a text, or the list of those of a list; options are those of `translate`."""
        found = self.translate([texts] if isinstance(texts, str) else texts, **options)
        return found[0].text if isinstance(texts, str) else [item.text for item in found]

    @torch.no_grad()
    def translate(
        self,
        texts: Sequence[str],
        *,
        target_language: str | None = None,
        batch_size: int = 32,
        truncation: bool = False,
        alignments: bool = False,
        coverage_penalty: float = 0.0,
        max_new_tokens: int | None = None,
        show_progress: bool = False,
        **options: Any,
    ) -> list[Translation]:
        """Translates texts, in batches of similar lengths; results are in the order of `texts`.

        Args:
            target_language: Language whose tag, such as <2zh>, is put before each text, for a model trained with tags.
            truncation: Cut off what is longer than `max_length`, instead of refusing it.
            alignments: Return alignments, too. They need `attn_implementation="eager"`.
            coverage_penalty: beta of `CoverageBeamSearch`; it needs `num_beams` and `attn_implementation="eager"`.
            max_new_tokens: Default: `max_length`.
            options: Those of transformers' `generate`: `num_beams`, `length_penalty`, `generation_config`... A model
                that was trained for it writes by `custom_generate=MaskPredict()`.

        Raises:
            TypeError: `texts` is one string.
            ValueError: There is no text, one is empty or too long, the language has no tag, or `batch_size` is
                below 1.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size} must be at least 1.")
        sources = self.encode(texts, target_language, truncation)
        if coverage_penalty:
            options["custom_generate"] = CoverageBeamSearch(coverage_penalty)
        elif not getattr(self.model.config, "decoder_is_causal", True):
            options.setdefault("custom_generate", MaskPredict())
        options["max_new_tokens"] = self.max_length if max_new_tokens is None else max_new_tokens
        order = sorted(range(len(sources)), key=lambda index: -len(sources[index]))
        found: dict[int, Translation] = {}
        with tqdm(total=len(sources), unit="texts", disable=not show_progress) as progress:
            for start in range(0, len(order), batch_size):
                chosen = order[start : start + batch_size]
                found |= zip(
                    chosen, self._write([sources[index] for index in chosen], alignments, options), strict=True
                )
                progress.update(len(chosen))
        if self.respell:
            found = {index: replace(item, text=respell(item.text, texts[index])) for index, item in found.items()}
        return [found[index] for index in range(len(sources))]

    def encode(
        self, texts: Sequence[str], target_language: str | None = None, truncation: bool = False
    ) -> list[list[int]]:
        """The ids of each text, at most `max_length`. Errors are those of `translate`."""
        if isinstance(texts, str):
            raise TypeError(f"texts={texts!r} is one string; pass a list of strings.")
        if not texts:
            raise ValueError("texts is empty: there is nothing to translate.")
        for index, text in enumerate(texts):
            if not text.strip():
                raise ValueError(f"texts[{index}]={text!r} is empty.")
        tag = "" if target_language is None else find_tag(self.tokenizer, target_language)
        settings: dict[str, Any] = (
            {"truncation": True, "max_length": self.max_length} if truncation else {"verbose": False}
        )
        ids: Any = self.tokenizer([tag + text for text in texts], **settings)["input_ids"]
        for index, row in enumerate(ids):
            if len(row) > self.max_length:
                raise ValueError(
                    f"texts[{index}] has {len(row)} tokens, more than max_length={self.max_length}: split it, or cut "
                    "it off with truncation=True."
                )
        return ids

    def _write(self, sources: list[list[int]], alignments: bool, options: dict[str, Any]) -> list[Translation]:
        """The translations of one batch."""
        inputs = self.tokenizer.pad({"input_ids": sources}, padding_side="right", return_tensors="pt").to(
            self.model.device
        )
        inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        written = self.model.generate(**inputs, **options)  # (B, 1 + T), the start token first
        weights = self._attention(inputs, written) if alignments else [None] * len(sources)
        found = []
        for source, row, weight in zip(sources, written, weights, strict=True):
            text = self.target_tokenizer.decode(row, skip_special_tokens=True)
            target = _until_end(row[1:].tolist(), self.model.generation_config.eos_token_id)
            sides = (self.tokenizer, source), (self.target_tokenizer, target)
            labels = [token_labels(*side) for side in sides] if alignments else [[], []]
            matrix = None if weight is None else weight[: len(target), : len(source)].T
            found.append(Translation(post_process(str(text), self.language), labels[0], labels[1], matrix))
        return found

    def _attention(self, inputs: dict[str, torch.Tensor], written: torch.Tensor) -> torch.Tensor:
        """Attention to the source of each step that wrote a token, (B, T, S), in float32 on the CPU."""
        outputs = self.model(**inputs, decoder_input_ids=written[:, :-1], output_attentions=True, use_cache=False)
        layers = [layer for layer in outputs.get("cross_attentions") or [] if layer is not None]
        if not layers:
            raise ValueError(
                "alignments need attention weights, and the model returns none: load it with "
                "attn_implementation='eager'; a recurrent model needs attention='dot'."
            )
        return torch.stack([layer.float().mean(1) for layer in layers]).mean(0).cpu()


def _load(name: str | Path, device: str | torch.device | None, options: dict[str, Any]) -> tuple[Any, Any, Any]:
    """A model in evaluation mode, its tokenizer, and that of what it writes, or None.

    Transformers' errors do not always name what was not found.
    """
    code = {"trust_remote_code": options.get("trust_remote_code", False)}
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, **code)
        model = AutoModelForSeq2SeqLM.from_pretrained(name, **options)
    except OSError as error:
        raise OSError(f"'{name}' holds no encoder-decoder with its tokenizer: {error}") from error
    except ValueError as error:
        config = AutoConfig.from_pretrained(name, **code)
        if config.is_encoder_decoder:
            raise
        raise ValueError(f"'{name}' is no encoder-decoder: its model_type is {config.model_type!r}.") from error
    shares = getattr(model.config, "share_embeddings", True)
    target = None if shares else load_target_tokenizer(name, **code)
    return model.to(device or torch.accelerator.current_accelerator() or "cpu").eval(), tokenizer, target


def _vocabulary(tokenizer: PreTrainedTokenizerBase | None) -> dict[str, int] | None:
    """The ids of a tokenizer's tokens; None without a tokenizer."""
    return None if tokenizer is None else tokenizer.get_vocab()


def known_languages(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The languages whose tags are in the vocabulary."""
    return sorted(found[1] for token in tokenizer.get_vocab() if (found := re.fullmatch("<2([A-Za-z0-9_-]+)>", token)))


def find_tag(tokenizer: PreTrainedTokenizerBase, language: str) -> str:
    """The tag of a language, such as <2zh>.

    Raises:
        ValueError: The vocabulary does not have it.
    """
    known = known_languages(tokenizer)
    if language not in known:
        choices = f"is not one of {known}" if known else "is unknown: the tokenizer has no language tags"
        raise ValueError(f"target_language={language!r} {choices}.")
    return language_tag(language)


def _limits(model: Any, *tokenizers: PreTrainedTokenizerBase) -> dict[str, int]:
    """The most tokens that the parts allow, by the names of the limits."""
    configs = [member.config for member in getattr(model, "members", [model])]
    sides = [config.get_text_config(**{side: True}) for config in configs for side in ("encoder", "decoder")]
    found = [getattr(side, "max_position_embeddings", None) for side in sides]
    limits = {"model_max_length": min(tokenizer.model_max_length for tokenizer in tokenizers)}
    limits["max_position_embeddings"] = min((limit for limit in found if limit is not None), default=_UNLIMITED)
    return {name: limit for name, limit in limits.items() if limit < _UNLIMITED}


def _until_end(ids: list[int], ends: int | list[int] | None) -> list[int]:
    """The ids to the first end token, with it."""
    ends = [ends] if isinstance(ends, int) else ends or []
    return ids[: next((index + 1 for index, token in enumerate(ids) if token in ends), len(ids))]

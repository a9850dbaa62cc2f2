"""Configs that refuse keywords which nothing reads."""

from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from transformers.utils import logging

from .validation import unknown_keywords


logger = logging.get_logger(__name__)


class StrictKeywordsMixin:
    """For config classes: an unknown keyword is an error in code, and a warning in a `config.json`."""

    @classmethod
    def unknown_keywords(cls, keywords: Iterable[str]) -> dict[str, str]:
        """Maps each keyword that is no field to a message about it."""
        names = [field.name for field in fields(cls)]  # pyright: ignore[reportArgumentType] the next base is a dataclass
        return unknown_keywords(keywords, names, cls.__name__)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs):
        """Builds the config of a `config.json`.

        There, unlike in code, a key that is no field is kept with a warning: people and tools leave notes in the file,
        and a checkpoint must not be lost to one.
        """
        unknown = cls.unknown_keywords(config_dict)
        for message in unknown.values():
            logger.warning(f"{message} It is kept in the config, but changes nothing.")
        known = {key: value for key, value in config_dict.items() if key not in unknown}
        result = super().from_dict(known, **kwargs)  # pyright: ignore[reportAttributeAccessIssue] the next base has it
        config = result[0] if isinstance(result, tuple) else result
        for key in unknown:
            setattr(config, key, config_dict[key])
        return result

    @classmethod
    def check_keywords(cls, keywords: Iterable[str]) -> None:
        """Raises a `ValueError` at the first unknown keyword."""
        for message in cls.unknown_keywords(keywords).values():
            raise ValueError(message)

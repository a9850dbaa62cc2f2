"""The declaration of a family of sources: its classes, the mapping of config fields, and the rules of weights."""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import transformers
from transformers import PreTrainedConfig

from ...configuration.configuration_trine import TrineConfig
from ...configuration.configuration_trine_seq2seq import TrineSeq2SeqConfig
from ...configuration.patterns import check_choice
from ..config_rules import COMMON_FIELDS, check_source
from ..weight_rules import Rule


@dataclass(frozen=True)
class Head:
    """A class of transformers, and the Trine class that computes the same.

    Args:
        source: Name of transformers' class.
        trine: Name of our class.
        rules: Rules of the tensors outside of the trunk.
        tied: The source's name of a weight that is left out where it is the token embeddings.
        fields: Fields of our config that the class asks for.
    """

    source: str
    trine: str
    rules: Sequence[Rule] = ()
    tied: str | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_base(self) -> bool:
        """Whether it is the bare model, without a head."""
        return self.trine in ("TrineModel", "TrineSeq2SeqModel", "TrineDualEncoder")


def no_fields(*args) -> dict[str, Any]:
    """No further fields: the default of `Family.read` and `Family.write`."""
    return {}


@dataclass(frozen=True)
class Family:
    """How one `model_type` of transformers maps to Trine.

    Args:
        model_type: Transformers' name of the family.
        heads: Its classes, the bare model first.
        trunk: The rules of the trunk's tensors, for a source's config.
        names: Maps fields of the source's config to fields of ours with another name.
        constants: Fields of ours that all of the family have.
        read: Further fields of ours, from a source's config, a head and the names of the tensors.
        write: Further fields of the source, from our config and a head.
        read_fields: Fields of the source that `read` looks at.
        fixed: Fields of the source with the values that can be represented, and why not others.
        ignored: Fields of the source that change no output.
        training: Fields of the source that act in training only and have no counterpart; a warning names them.
        buffers: Patterns of tensors that carry no information.
        old_names: Patterns of former names of tensors, and their replacements.
    """

    model_type: str
    heads: Sequence[Head]
    trunk: Callable[[Any], Sequence[Rule]]
    names: Mapping[str, str] = field(default_factory=dict)
    constants: Mapping[str, Any] = field(default_factory=dict)
    read: Callable[[Any, Head, Collection[str]], dict[str, Any]] = no_fields
    write: Callable[[Any, Head], dict[str, Any]] = no_fields
    read_fields: Collection[str] = ()
    fixed: Mapping[str, tuple[Sequence[Any], str]] = field(default_factory=dict)
    ignored: Collection[str] = ()
    training: Collection[str] = ()
    buffers: Sequence[str] = ()
    old_names: Sequence[tuple[str, str]] = ()

    def choose_head(self, name: str | None, side: str = "source") -> Head:
        """The head whose class, on either side, is called `name`; without a name that of the bare model.

        Raises:
            ValueError: There is no such class; the message lists those that there are.
        """
        heads = {getattr(head, side): head for head in self.heads}
        if name is None:
            return self.heads[0]
        check_choice(f"the class of a '{self.model_type}'", name, heads)
        return heads[name]

    def read_config(self, config: PreTrainedConfig, head: Head, tensors: Collection[str]) -> dict[str, Any]:
        """Our config's fields for a source's config.

        Raises:
            ValueError: A field has a value that cannot be represented; the message names both and tells why.
        """
        names = {**COMMON_FIELDS, **self.names}
        check_source(config, {*names, *self.read_fields}, self.fixed, self.ignored, self.training)
        fields = {ours: getattr(config, theirs) for theirs, ours in names.items() if hasattr(config, theirs)}
        if head.tied is not None:
            fields["tie_word_embeddings"] = config.tie_word_embeddings and head.tied not in tensors
        return {**fields, **self.constants, **head.fields, **self.read(config, head, tensors)}

    def write_config(self, config: TrineConfig | TrineSeq2SeqConfig, head: Head) -> dict[str, Any]:
        """Makes the source's config fields from ours. The caller reads them back to see that nothing is lost."""
        names = {**COMMON_FIELDS, **self.names}
        fields = {theirs: getattr(config, ours) for theirs, ours in names.items() if hasattr(config, ours)}
        return {**fields, **self.write(config, head)}

    def prefix(self, head: Head) -> str:
        """The prefix of the trunk's tensors in the source."""
        return "" if head.is_base else f"{getattr(transformers, head.source).base_model_prefix}."

    def rules(self, config: PreTrainedConfig, head: Head) -> list[Rule]:
        """The rules of all tensors of a head, for a source's config."""
        places = ("" if head.is_base else "model.", self.prefix(head))
        return [*head.rules, *(rule.below(*places) for rule in self.trunk(config))]

    def new_name(self, head: Head, tensors: Collection[str]) -> Callable[[str], str | None]:
        """A function that maps the names in a source's files to those of today: prefix, old names, buffers.

        The trunk's prefix is missing where the bare model was saved, and superfluous where the bare model is wanted of
        a checkpoint with a head.
        """
        target = self.prefix(head)
        prefix = target or next((self.prefix(other) for other in self.heads if not other.is_base), "")
        has_prefix = bool(prefix) and any(name.startswith(prefix) for name in tensors)
        own = [pattern for rule in head.rules for pattern in rule.source_patterns()]

        def new_name(name: str) -> str | None:
            for old, new in self.old_names:
                name = re.sub(old, new, name)
            if any(re.search(pattern, name) for pattern in self.buffers):
                return None
            if has_prefix and name.startswith(prefix):
                return target + name.removeprefix(prefix)
            is_own = any(re.fullmatch(pattern, name) for pattern in own)
            return name if has_prefix or is_own or name == head.tied else target + name

        return new_name

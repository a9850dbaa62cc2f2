"""Configs that hold complete configs of Trine stacks: reading, overriding, checking."""

from copy import deepcopy
from typing import Any

from huggingface_hub.errors import StrictDataclassError

from .configuration_trine import TrineConfig


class NestedConfigsMixin:
    """Base of a config in which the fields that `stacks` names are `TrineConfig`s, each with defaults of its own.

    A stack may be given as a config or as its fields. `from_pretrained(..., vision_config={...})` changes some fields
    of one stack, and leaves its others as they were saved.
    """

    stacks: dict[str, dict[str, Any]] = {}  # field to what its config has unless something else is given
    needed: dict[str, dict[str, Any]] = {}  # field to what its config must have

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs):
        """Builds the config of a `config.json`. Unknown keys of a stack are kept in that stack, with a warning."""
        saved = {name: config_dict[name] for name in cls.stacks if isinstance(config_dict.get(name), dict)}
        split = {name: TrineConfig.without_notes(stack) for name, stack in saved.items()}
        known = {**config_dict, **{name: own for name, (own, _) in split.items()}}
        result = super().from_dict(known, **kwargs)  # pyright: ignore[reportAttributeAccessIssue] the next base has it
        config = result[0] if isinstance(result, tuple) else result
        for name, (_, notes) in split.items():
            getattr(config, name).keep_notes(notes)
        return result

    @classmethod
    def override(cls, saved: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
        """The fields of a saved config with `changes` applied; a dict of a stack's fields changes these alone."""
        merged = {**saved, **changes}
        for name in cls.stacks:
            if isinstance(changes.get(name), dict) and isinstance(saved.get(name), dict):
                merged[name] = TrineConfig.override(saved[name], changes[name])
        return merged

    def settle_stacks(self) -> None:
        """Makes the stacks of what was given for them."""
        for name, defaults in self.stacks.items():
            setattr(self, name, as_stack(name, getattr(self, name), defaults))

    def check_stacks(self) -> None:
        """Applies the rules of each stack, and compares it with what is needed of it.

        Raises:
            ValueError: A stack is no `TrineConfig`, breaks a rule, or has another value of a field than is needed.
        """
        for name in self.stacks:
            stack = getattr(self, name)
            check_stack(name, stack)
            for field, value in self.needed[name].items():
                if getattr(stack, field) != value:
                    raise ValueError(
                        f"{name}.{field}={getattr(stack, field)!r}, but a {type(self).__name__} needs {value!r}."
                    )
            stack.check()


def check_stack(name: str, stack: object) -> None:
    """Raises a `ValueError` for what is no `TrineConfig`. Remote code may have several classes of that name."""
    if getattr(stack, "model_type", None) != TrineConfig.model_type:
        raise ValueError(f"{name} is a {type(stack).__name__}, but must be a TrineConfig, or its fields.")


def as_stack(name: str, stack: Any, defaults: dict[str, Any]) -> TrineConfig:
    """The config of a stack, from a config or its fields, with its defaults where only fields are given.

    Raises:
        ValueError: For what `TrineConfig` refuses, after the name of the stack, or a config of another family.
    """
    if stack is None or isinstance(stack, dict):
        try:
            return TrineConfig(**{**defaults, **(stack or {})})
        except (ValueError, StrictDataclassError) as error:
            raise ValueError(f"{name}: {error}") from error
    check_stack(name, stack)
    return deepcopy(stack)  # it may serve another model, too


__all__ = ["NestedConfigsMixin"]

"""Saving and loading with a model card, atomic writes, and errors that name the damaged file."""

from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel

from ..configuration.choices import in_package
from .loading import CheckedLoading


CARD = "README.md"
# Of `save_pretrained(push_to_hub=True)`, for the upload.
PUSH_OPTIONS = ("repo_id", "commit_message", "commit_description", "private", "token", "revision", "create_pr", "tags")


def damaged_files(folder: str | Path) -> list[str]:
    """Names of the safetensors files in `folder` that cannot be opened, because they are truncated for example."""
    damaged = []
    for path in sorted(Path(folder).glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt"):
                pass
        except SafetensorError:
            damaged.append(path.name)
    return damaged


class CheckpointedModel(CheckedLoading):
    """A `PreTrainedModel` that saves a model card and reads checkpoints with clear errors. A card in place stays."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *model_args, **kwargs):
        """As of its base, which names no weight file that is damaged.

        Raises:
            OSError: A file is damaged, or lacks a tensor that the saved model had.
        """
        try:
            return super().from_pretrained(pretrained_model_name_or_path, *model_args, **kwargs)
        except SafetensorError as error:
            names = ", ".join(damaged_files(pretrained_model_name_or_path)) or "a weight file"
            raise OSError(
                f"{pretrained_model_name_or_path}: {names} is damaged or incomplete ({error}). "
                "Copy or download the checkpoint again, or load an earlier one."
            ) from error

    @staticmethod
    def _load_pretrained_model(model, state_dict, checkpoint_files, load_config, *args, **kwargs):
        """Called while a checkpoint is loaded, before its tensors are read."""
        from .checks.checkpoints import check_shards

        source = load_config.pretrained_model_name_or_path
        if checkpoint_files and source is not None and Path(source).is_dir():
            from ..configuration.plugin_copies import warn_of_other_code

            warn_of_other_code(model.config, Path(checkpoint_files[0]).parent)
        check_shards(model, checkpoint_files, load_config)
        return PreTrainedModel._load_pretrained_model(
            model, state_dict, checkpoint_files, load_config, *args, **kwargs
        )

    def render_card(self) -> str:
        """The card of this model, as Markdown."""
        from ..configuration.model_card import model_card

        name = type(self).__name__
        optional = [row for row in self.config.hub_optional.values() if name in row.values()]
        auto_classes = [key for row in (self.config.hub_auto_map, *optional) for key in row if row[key] == name]
        return model_card(self.config, name, next(iter(auto_classes), "AutoModel"), self.num_parameters())

    def save_pretrained(
        self, save_directory, is_main_process=True, state_dict=None, push_to_hub=False, *args, **kwargs
    ):
        """Saves so that the folder holds the older model or this one, whole, also if the process is killed.

        Arguments are those of transformers. With `push_to_hub` the model is saved first, and then uploaded.

        Raises:
            OSError: The folder cannot be written, because the disk is full for example. It is as it was.
            ValueError: `push_to_hub` with `variant`, or with options of the upload that `push_to_hub` does not have;
                weights that were quantised in memory.
        """
        push = {name: kwargs.pop(name) for name in PUSH_OPTIONS if push_to_hub and name in kwargs}
        if push_to_hub and kwargs.get("variant"):
            raise ValueError(f"variant={kwargs['variant']!r} cannot be pushed. Save it, and upload the folder.")
        if not is_main_process or kwargs.get("distributed_checkpoint"):  # processes that write together
            return super().save_pretrained(save_directory, is_main_process, state_dict, False, *args, **kwargs)
        from ..configuration.atomic_saving import saving
        from .quantized import quantized_saving

        folder = Path(save_directory)
        try:
            with saving(folder) as made, quantized_saving(self) as options:
                super().save_pretrained(str(made), is_main_process, state_dict, False, *args, **kwargs, **options)
                if not (folder / CARD).exists():
                    (made / CARD).write_text(self.render_card(), encoding="utf-8")
        except (OSError, SafetensorError) as error:
            raise OSError(f"{folder}: the model was not saved: {error}. What the folder held is unchanged.") from error
        if push_to_hub:
            options = {"max_shard_size": kwargs["max_shard_size"]} if "max_shard_size" in kwargs else {}
            self.push_to_hub(push.pop("repo_id", folder.name), **push, **options)

    def _upload_modified_files(self, working_dir, *args, **kwargs):
        """Called by every way of pushing, after transformers put its card into `working_dir`."""
        card = Path(working_dir) / CARD
        if not card.exists() or "This model card has been automatically generated" in card.read_text(encoding="utf-8"):
            card.write_text(self.render_card(), encoding="utf-8")
        return super()._upload_modified_files(working_dir, *args, **kwargs)


# A base of all models, before `CheckedLoading`. A checkpoint's code saves as transformers does.
CHECKPOINTED = in_package((CheckpointedModel,))

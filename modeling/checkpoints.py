"""What saving and loading add to the library's: a model card, and the name of the file that is damaged."""

from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel

from ..configuration.model_card import model_card


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


class CheckpointedModel(PreTrainedModel):
    """A `PreTrainedModel` with both. A card that somebody wrote is never replaced."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *model_args, **kwargs):
        try:
            return super().from_pretrained(pretrained_model_name_or_path, *model_args, **kwargs)
        except SafetensorError as error:
            names = ", ".join(damaged_files(pretrained_model_name_or_path)) or "a weight file"
            raise OSError(
                f"{pretrained_model_name_or_path}: {names} is damaged or incomplete ({error}). "
                "Copy or download the checkpoint again, or load an earlier one."
            ) from error

    def render_card(self) -> str:
        """The card of this model, as Markdown."""
        name = type(self).__name__
        auto_classes = {path.rsplit(".", 1)[-1]: auto_class for auto_class, path in self.config.hub_auto_map.items()}
        return model_card(self.config, name, auto_classes.get(name, "AutoModel"), self.num_parameters())

    def save_pretrained(self, save_directory, *args, **kwargs):
        super().save_pretrained(save_directory, *args, **kwargs)
        card = Path(save_directory) / "README.md"
        if kwargs.get("is_main_process", True) and not card.exists():
            card.write_text(self.render_card(), encoding="utf-8")

    def _upload_modified_files(self, working_dir, *args, **kwargs):
        """Called by every way of pushing, after the library put its card into `working_dir`."""
        card = Path(working_dir) / "README.md"
        if not card.exists() or "This model card has been automatically generated" in card.read_text(encoding="utf-8"):
            card.write_text(self.render_card(), encoding="utf-8")
        return super()._upload_modified_files(working_dir, *args, **kwargs)

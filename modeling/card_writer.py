"""Saves a model card with the weights, and sends it in place of the library's empty template."""

from pathlib import Path

from ..configuration.model_card import model_card


class CardWriterMixin:
    """Comes before `PreTrainedModel`. A card that somebody wrote is never replaced."""

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

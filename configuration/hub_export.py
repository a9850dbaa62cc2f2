"""Writes two files of code beside every saved config, so that a checkpoint loads where Trine is not installed.

Every way of saving (models, `push_to_hub`, `Trainer`, sentence-transformers) passes through `config.save_pretrained`,
which is where the files are written. Where the classes were themselves loaded from such files, it copies these,
whatever part of the model is saved: its head may be exchanged for another later.
"""

import re
import shutil
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from .choices import in_package


REMOTE = "transformers_modules."  # how the modules begin that transformers made of a checkpoint's files


def saving(folder: Path) -> AbstractContextManager[Path]:
    """See `atomic_saving.saving`, which is imported when something is saved."""
    from .atomic_saving import saving

    return saving(folder)


SAVING = in_package((saving,))


def copy_code(module: str, folder: Path) -> str:
    """Copies the files that `module` was loaded with; returns what their names end with."""
    path = Path(str(sys.modules[module].__file__))
    stem = path.stem.removeprefix("configuration_")
    files = [f"configuration_{stem}.py", f"modeling_{stem}.py"]
    for name in files:  # the list grows by those that they import: files of mechanisms that are not the package's
        imported = re.findall(r"^ *from \.(\w+) import", path.with_name(name).read_text(encoding="utf-8"), re.M)
        files += [f"{other}.py" for other in dict.fromkeys(imported) if f"{other}.py" not in files]
        shutil.copyfile(path.with_name(name), folder / name)
    return stem


class HubExportMixin:
    """First base of every config class: saves the code and the whole `auto_map` with the config."""

    hub_auto_map: dict[str, str] = {}  # Auto class to the name of ours
    hub_optional: dict[str, dict[str, str]] = {}  # the same for configs with a field, in place of others
    hub_roles: dict[bool, set[str]] = {}  # classes that need such a value of `is_causal`
    hub_entry_modules: tuple[str, ...] = ()  # absolute names, that of the config first
    export_code: bool = True

    def save_pretrained(self, save_directory, push_to_hub: bool = False, **kwargs):
        if push_to_hub:
            kwargs.setdefault("repo_id", Path(save_directory).name)
        with (*SAVING, nullcontext)[0](Path(save_directory)) as folder:
            folder.mkdir(parents=True, exist_ok=True)
            if self.export_code:
                stem = self.write_code(folder)
                vars(self).pop("auto_map", None)
                if stem is not None:
                    self.auto_map = self.auto_map_of(stem, self)
            super().save_pretrained(str(folder), push_to_hub=push_to_hub, **kwargs)  # pyright: ignore[reportAttributeAccessIssue] the next base has it

    @classmethod
    def auto_map_of(cls, stem: str, config=None) -> dict[str, str]:
        """Auto class to file and class, for files whose names end with `stem`."""
        optional = [names for field, names in cls.hub_optional.items() if getattr(config, field, None)]
        classes = {key: name for names in (cls.hub_auto_map, *optional) for key, name in names.items()}
        models = {key: f"modeling_{stem}.{name}" for key, name in classes.items() if name}
        return {"AutoConfig": f"configuration_{stem}.{cls.__name__}", **models}

    def write_code(self, folder: Path) -> str | None:
        """Writes the two files; returns what their names end with, or None where something cannot go along."""
        if type(self).__module__.startswith(REMOTE):
            return copy_code(type(self).__module__, folder)
        from .bundle import write_bundle

        return write_bundle(self, folder)

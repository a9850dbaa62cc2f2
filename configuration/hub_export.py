"""Writes the code of the package beside every saved config, so that a checkpoint loads where Trine is not installed.

The library's own exporter follows relative imports within one folder only. Trine's modules lie in folders, so they
are flattened first: every module that is reachable from the entry modules becomes a sibling file, and
`from ..a.b import c` becomes `from .b import c`. Every way of saving (models, `push_to_hub`, `Trainer`,
sentence-transformers) passes through `config.save_pretrained`, which is where the files are written.

Where the classes were themselves loaded from such files, the same place copies all of them, whatever part of the model
is saved: its head may be exchanged for another later.
"""

import ast
import importlib.util
import shutil
import sys
from functools import cache
from pathlib import Path

from .atomic_saving import saving


HEADER = """\
# Copyright 2026 The Trine authors. All rights reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""
# At the end of the config's file, which every class imports: transformers copies the files that are imported, by their
# text, so that each class brings all of the code with it.
KEEP_TOGETHER = """

if False:  # never imported here: it tells transformers which files belong together
{imports}
"""


@cache  # each save of a checkpoint asks for all modules again
def relative_imports(source: str, module: str) -> list[tuple[ast.ImportFrom, str]]:
    """Lists the relative imports of `module`, each with the absolute name of what it imports from."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.level:
            if node.module is None:
                raise ValueError(f"{module}, line {node.lineno}: write `from .module import name`.")
            found.append((node, ".".join(module.split(".")[: -node.level] + [node.module])))
    return found


def flatten(entry_modules: tuple[str, ...]) -> dict[str, str]:
    """Collects every module reachable from `entry_modules` by relative imports, as sibling files.

    Args:
        entry_modules: Absolute module names, that of the config first.

    Returns:
        File name to source text, sorted by name.

    Raises:
        ValueError: When two modules share a file name, or an import cannot be rewritten.
    """
    files: dict[str, str] = {}
    owners: dict[str, str] = {}
    queue = list(entry_modules)
    while queue:
        module = queue.pop()
        name = module.rsplit(".", 1)[-1] + ".py"
        if owners.setdefault(name, module) != module:
            raise ValueError(f"{owners[name]} and {module} would both become {name}.")
        if name in files:
            continue
        spec = importlib.util.find_spec(module)
        if spec is None or spec.origin is None or spec.origin.endswith("__init__.py"):
            raise ValueError(f"{module} is not a module with a file of its own.")
        source = Path(spec.origin).read_text(encoding="utf-8")
        lines = source.split("\n")
        for node, target in relative_imports(source, module):
            old = f"from {'.' * node.level}{node.module} "
            line = lines[node.lineno - 1]
            if not line.startswith(old, node.col_offset):
                raise ValueError(f"{module}, line {node.lineno}: cannot rewrite {line!r}.")
            new = f"from .{target.rsplit('.', 1)[-1]} "
            lines[node.lineno - 1] = line[: node.col_offset] + new + line[node.col_offset + len(old) :]
            queue.append(target)
        files[name] = HEADER + "\n".join(lines)
    first, *others = (module.rsplit(".", 1)[-1] for module in entry_modules)
    if others:
        imports = "\n".join(f"    from .{other} import __name__" for other in others)
        files[f"{first}.py"] += KEEP_TOGETHER.format(imports=imports)
    return dict(sorted(files.items()))


def copy_code(module: str, folder: Path) -> None:
    """Copies the exported files that `module` was loaded with into a folder."""
    for path in Path(str(sys.modules[module].__file__)).parent.glob("*.py"):
        if path.name != "__init__.py":
            shutil.copyfile(path, folder / path.name)


def existing_entries(auto_map: dict[str, str], folder: Path) -> dict[str, str]:
    """The entries of an `auto_map` whose files are in `folder`."""
    return {
        auto_class: path for auto_class, path in auto_map.items() if (folder / f"{path.split('.')[0]}.py").is_file()
    }


class HubExportMixin:
    """First base of every config class: saves the flattened code and the whole `auto_map` with the config."""

    hub_auto_map: dict[str, str] = {}  # Auto class name to "file.Class"
    hub_entry_modules: tuple[str, ...] = ()  # absolute names
    export_code: bool = True

    def save_pretrained(self, save_directory, push_to_hub: bool = False, **kwargs):
        module = type(self).__module__
        if push_to_hub:
            kwargs.setdefault("repo_id", Path(save_directory).name)
        with saving(Path(save_directory)) as folder:
            if self.export_code and module.startswith("transformers_modules."):
                copy_code(module, folder)
            elif self.export_code:
                for name, text in flatten(self.hub_entry_modules).items():
                    (folder / name).write_text(text, encoding="utf-8")
            if self.export_code:
                self.auto_map = existing_entries(self.hub_auto_map, folder)
            super().save_pretrained(str(folder), push_to_hub=push_to_hub, **kwargs)  # pyright: ignore[reportAttributeAccessIssue] the next base has it

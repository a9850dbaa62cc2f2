"""The `trine` command. It is a package of its own, as help must not wait for `import trine`, which imports torch."""

from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path


def main() -> int | None:
    """Run `scripts/cli.py` by its path, and so without the package around it; return its exit status."""
    package = find_spec("trine")
    assert package is not None and package.submodule_search_locations
    file = Path(package.submodule_search_locations[0], "scripts", "cli.py")
    spec = spec_from_file_location(f"{__name__}.cli", file)
    assert spec is not None and spec.loader is not None
    cli = module_from_spec(spec)
    spec.loader.exec_module(cli)
    return cli.main()

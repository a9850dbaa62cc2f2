"""Fails at once, with one message, where the Hub cannot be reached, in place of a minute of retries."""

import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from huggingface_hub import constants, set_client_factory
from huggingface_hub.errors import HFValidationError, OfflineModeIsEnabled
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils._http import default_client_factory
from huggingface_hub.utils._validators import validate_repo_id


# The arguments that name a folder or an id of the Hub.
CHECKPOINTS = (
    *("model", "models", "encoder", "tokenizer", "target_tokenizer", "teacher", "student"),
    *("embedding_model", "rerank_model", "rerank"),
)


def ask_once(given: Mapping[str, Any]) -> None:
    """Turns the Hub's offline mode on at the first connection that fails, for the rest of this process.

    Files in the cache still load; for others, transformers and datasets raise the errors of that mode. Where that mode
    is on from the start, a line names what is neither a folder nor in the cache, for those errors do not.

    Args:
        given: The arguments of the command.

    Raises:
        ValueError: An argument names a folder that is not there, and can be no id of the Hub.
    """
    absent = no_folders(given)
    if constants.is_offline_mode() and (unknown := [name for name in absent if not is_cached(name)]):
        print(
            f"{' and '.join(map(repr, unknown))}: there is no such folder, nor such a checkpoint in the cache of the "
            "Hub, which HF_HUB_OFFLINE says not to ask.",
            file=sys.stderr,
        )
    set_client_factory(partial(make_client, absent))


def is_cached(name: str) -> bool:
    """Whether anything of a repository is in the cache of the Hub."""
    return Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=name, repo_type="model")).is_dir()


def no_folders(given: Mapping[str, Any]) -> list[str]:
    """Of the arguments that name a folder or an id of the Hub, those that are no folder here. Raises as `ask_once`."""
    absent = []
    for name in CHECKPOINTS:
        value = given.get(name) or []
        for source in [value] if isinstance(value, str) else value:
            if Path(source).exists():
                continue
            try:
                validate_repo_id(source)
            except HFValidationError as error:
                raise ValueError(
                    f"{name}={source!r}: there is no such folder, and an id of the Hub is NAME or OWNER/NAME."
                ) from error
            absent.append(source)
    return absent


def make_client(absent: Sequence[str] = ()) -> Any:
    """The ordinary client of huggingface_hub, which gives up after the first connection that cannot be made.

    Args:
        absent: Names that are no folders here, of which the message tells.
    """
    folders = f", where there is no folder {' or '.join(map(repr, absent))}" if absent else ""
    client: Any = default_client_factory()
    library = sys.modules[type(client).__module__.partition(".")[0]]  # httpx, or a successor
    failures, send = (library.ConnectError, library.ConnectTimeout), client.send

    def send_once(request: Any, **options: Any) -> Any:
        try:
            return send(request, **options)
        except failures as error:
            place = f"{request.url.scheme}://{request.url.host}"
            if not constants.is_offline_mode():
                print(
                    f"{place} cannot be reached ({error}): only what is on this computer is used{folders}. "
                    "With HF_HUB_OFFLINE=1 it is not asked.",
                    file=sys.stderr,
                )
            constants.HF_HUB_OFFLINE = True
            raise OfflineModeIsEnabled(f"{place} cannot be reached: {error}") from error

    client.send = send_once
    return client

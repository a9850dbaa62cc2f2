"""Fails at once, with one message, where the Hub cannot be reached, in place of a minute of retries."""

import sys
from typing import Any

from huggingface_hub import constants, set_client_factory
from huggingface_hub.errors import OfflineModeIsEnabled
from huggingface_hub.utils._http import default_client_factory


def ask_once() -> None:
    """Turns the Hub's offline mode on at the first connection that fails, for the rest of this process.

    Files in the cache still load; for others, transformers and datasets raise the errors of that mode.
    """
    set_client_factory(make_client)


def make_client() -> Any:
    """The ordinary client of huggingface_hub, which gives up after the first connection that cannot be made."""
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
                    f"{place} cannot be reached ({error}): only what is on this computer is used. "
                    "With HF_HUB_OFFLINE=1 it is not asked.",
                    file=sys.stderr,
                )
            constants.HF_HUB_OFFLINE = True
            raise OfflineModeIsEnabled(f"{place} cannot be reached: {error}") from error

    client.send = send_once
    return client

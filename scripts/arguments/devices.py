"""Where a command computes."""

from collections.abc import Iterable

import torch

from trine.configuration.patterns import check_choice


def check_device(device: str | None, others: Iterable[str] = ()) -> None:
    """Checks, before anything is loaded, that this computer has a device.

    Args:
        device: Such as cpu or cuda:1; None is the default.
        others: What may stand in its place.

    Raises:
        ValueError: It has not.
    """
    choices, accelerator = ["cpu"], torch.accelerator.current_accelerator(check_available=True)
    if accelerator is not None:
        count = torch.accelerator.device_count()
        choices += [accelerator.type, *(f"{accelerator.type}:{number}" for number in range(count))]
    if device is not None:
        check_choice("device", device, [*choices, *others])

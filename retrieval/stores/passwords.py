"""Keeps passwords out of what is printed."""

import re


def without_password(address: str) -> str:
    """An address with `***` in place of its password."""
    hidden = re.sub(r"(://[^:/@]*):.*@", r"\1:***@", address)
    return re.sub(r"(password\s*=\s*)('[^']*'|[^\s&]+)", r"\1***", hidden)


def hide_password(text: str, address: str, token: str = "") -> str:
    """A text of another library without the password of an address, or of a token `user:password`."""
    found = [*re.findall(r"://[^:/@]*:(.*)@", address), *re.findall(r"password\s*=\s*'?([^'\s&]+)", address)]
    for secret in [*found, token.partition(":")[2] or token]:
        text = text.replace(secret, "***") if secret else text
    return text

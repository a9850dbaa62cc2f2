"""Names of operators that are registered with PyTorch, which knows each name once in a process."""

import torch


def free_name(name: str) -> str:
    """`trine::name`, or with a number behind `trine` where another copy of this code has registered that already.

    Every checkpoint that is loaded as remote code brings a copy. To register a name again would take the operator from
    under the models of the copy before, which then read memory that is freed.
    """
    namespace, copies = "trine", 1
    while hasattr(getattr(torch.ops, namespace), name):
        copies += 1
        namespace = f"trine_{copies}"
    return f"{namespace}::{name}"

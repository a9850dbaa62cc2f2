"""The memory of a command's process."""

import ctypes
import platform


def keep_freed_memory() -> None:
    """Lets this process keep the memory of freed tensors for the next, as other allocators do.

    The C library of Linux returns blocks above 32 MiB at once. The pages of each new tensor are then made anew, which
    can take as long as its computation, from one size on. Elsewhere this does nothing.
    """
    adjust = getattr(ctypes.CDLL(None), "mallopt", None) if platform.system() == "Linux" else None
    if adjust is not None:
        adjust(-4, 0)  # M_MMAP_MAX: no block is taken from the system by itself
        adjust(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: nothing is given back

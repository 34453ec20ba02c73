"""Memory that networks on the CPU use again and again."""

from __future__ import annotations

import ctypes

# From glibc's malloc.h, and the most that its int takes.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_MOST = 2**31 - 1


def keep_memory() -> None:
    """Have this process keep the memory that its main thread frees, up to 2 GiB.

    By default glibc takes every activation from the kernel and gives it back, which clears each
    page anew: a third of the time of a small U-Net at 512×512, a quarter of that of its training at
    128×128, and worse in several processes at once. Other C libraries are left as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, _MOST)
        mallopt(_M_TOP_PAD, 1 << 26)

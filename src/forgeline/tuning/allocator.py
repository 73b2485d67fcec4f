"""How the C library hands out memory on a processor."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # of glibc's malloc.h
KEEPING = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: 2**31 - 1, M_TOP_PAD: 2**26}
DEFAULT = {M_MMAP_MAX: 65536, M_TRIM_THRESHOLD: 2**17, M_TOP_PAD: 2**17}


@contextmanager
def kept_memory() -> Iterator[None]:
    """Let the C library keep what is freed for the next step, and give it back at the end.

    By default it gives each large tensor back to the system at once and asks for it anew: clearing those
    pages took a quarter of a training step. Only glibc can be told.
    """
    library = ctypes.CDLL(None)
    if sys.platform != "linux" or not hasattr(library, "gnu_get_libc_version"):
        yield
        return
    for option, value in KEEPING.items():
        library.mallopt(option, value)
    try:
        yield
    finally:
        for option, value in DEFAULT.items():
            library.mallopt(option, value)
        library.malloc_trim(0)

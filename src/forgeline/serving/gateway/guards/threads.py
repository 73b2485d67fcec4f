"""Threads for work that may never end: what takes too long is interrupted, and what cannot be is left behind."""

from __future__ import annotations

import asyncio
import ctypes
import threading
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")
MOST_LEFT = 8  # threads of one pool that ended neither in time nor when interrupted


class _Interrupted(SystemExit):
    """Raised in a thread whose time is over; `except Exception` does not hold it up, and no traceback is printed."""


class Overdue(Exception):
    """The work was not done in time, or so much is overdue that it was not begun."""


class Threads:
    """Runs functions in daemon threads, each for a limited time.

    A loop of Python is interrupted (PyThreadState_SetAsyncExc); a call of C that never returns keeps its thread,
    and once `MOST_LEFT` are kept, nothing more is begun until one returns.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._left: set[threading.Thread] = set()

    async def run(self, work: Callable[[], Result], limit: float) -> Result:
        """Return what `work` returns, or raise what it raises.

        Raises:
            Overdue: after `limit` seconds.
        """
        self._left = {thread for thread in self._left if thread.is_alive()}
        if len(self._left) >= MOST_LEFT:
            raise Overdue(f"{MOST_LEFT} earlier ones still hang")
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Result] = loop.create_future()

        def deliver(result: Result | None, fault: BaseException | None) -> None:
            if not done.done():
                done.set_exception(fault) if fault else done.set_result(result)  # type: ignore[arg-type]

        def target() -> None:
            result, fault = None, None
            try:
                result = work()
            except Exception as raised:
                fault = raised
            except BaseException:
                fault = Overdue("it was interrupted")
            if not loop.is_closed():
                loop.call_soon_threadsafe(deliver, result, fault)

        thread = threading.Thread(target=target, name=self._name, daemon=True)
        thread.start()
        try:
            return await asyncio.wait_for(done, limit)
        except TimeoutError:
            raise Overdue(f"it took more than {limit:g} s") from None
        finally:
            if done.cancelled():
                self._left.add(thread)
                _interrupt(thread)


def _interrupt(thread: threading.Thread) -> None:
    """Have an exception raised in a thread at its next instruction of Python."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(_Interrupted))

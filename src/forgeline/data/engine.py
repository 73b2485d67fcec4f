"""Where the work on parts runs: this process, a pool of processes, or a Ray cluster."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import cache, partial
from itertools import islice
from multiprocessing import get_context
from typing import Any, TypeVar

from forgeline.config.schema import Data
from forgeline.errors import DataError
from forgeline.progress import progress_bar

FEW = 8  # tasks for which starting other processes costs more than it saves

Task = TypeVar("Task")
Done = TypeVar("Done")


def run(function: Callable[[Task], Done], tasks: Sequence[Task], config: Data, title: str) -> Iterator[Done]:
    """Yield what a function returns for each task, in the order of the tasks.

    A task names files and returns counts: rows pass by file. The function must be importable, or a
    partial of one that is; and write whole files, so that a task may run twice.
    """
    with progress_bar(title, len(tasks), "parts") as bar:
        if config.engine == "ray":
            results = _on_ray(function, tasks, config.workers)
        elif len(tasks) >= FEW and (config.workers or os.cpu_count() or 1) > 1:
            results = _in_pool(function, tasks, config.workers or os.cpu_count() or 1)
        else:
            results = map(function, tasks)
        for result in results:
            bar.advance(1, 1)
            yield result


def _in_pool(function: Callable[[Task], Done], tasks: Sequence[Task], workers: int) -> Iterator[Done]:
    pool = _pool(workers)
    waiting = iter(tasks)
    futures = [pool.submit(function, task) for task in islice(waiting, 2 * workers)]
    try:
        while futures:
            yield futures.pop(0).result()
            futures += [pool.submit(function, task) for task in islice(waiting, 1)]
    except BrokenProcessPool:
        _pool.cache_clear()
        raise DataError(
            "A process of the data line was killed, most likely for want of memory: set workers in configs/data.yaml "
            "to fewer, and run again."
        ) from None
    finally:
        for future in futures:
            future.cancel()


@cache
def _pool(workers: int) -> ProcessPoolExecutor:
    """Return the pool of this process: its start costs seconds, so that all passes share it."""
    # Spawned, not forked: the libraries that work on the batches hold threads and locks.
    return ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_one_thread)


def _one_thread() -> None:
    """Leave a process of the pool one thread: there is one process a core."""
    os.environ["POLARS_MAX_THREADS"] = "1"
    import pyarrow

    pyarrow.set_cpu_count(1)
    pyarrow.set_io_thread_count(1)


def _on_ray(function: Callable[[Task], Done], tasks: Sequence[Task], workers: int | None) -> Iterator[Done]:
    """Yield results from the cluster of $RAY_ADDRESS, or of this machine; every node must see the project's folder.

    A task whose node is lost runs again elsewhere: it writes the same files.
    """
    try:
        import ray
    except ImportError:
        raise DataError("data.engine is ray, and Ray is not installed: pip install 'forgeline[ray]'.") from None
    if not ray.is_initialized():
        ray.init(os.environ.get("RAY_ADDRESS", "local"), log_to_driver=False, logging_level="ERROR")
    from ray import cloudpickle

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    numbers = ray.data.range(len(tasks), override_num_blocks=len(tasks))
    for row in numbers.map(partial(_numbered, function, tasks), concurrency=workers).iter_rows():
        yield cloudpickle.loads(row["done"])


def _numbered(function: Callable[[Any], Any], tasks: Sequence[Any], row: dict[str, Any]) -> dict[str, bytes]:
    """Return what a task came to as bytes, in the form in which Ray sends everything else: rows hold no objects."""
    from ray import cloudpickle

    return {"done": cloudpickle.dumps(function(tasks[row["id"]]))}

"""Jobs in several processes, which end with the program that started them."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any

from system.storage import S3FileManager


def map_in_processes(
    function: Callable[..., Any],
    jobs: Sequence[tuple],
    num_proc: int,
    start: Callable[[], None],
    preload: Sequence[str] = (),
) -> Iterator[tuple[int, Any]]:
    """Yield (index of the job, result) as jobs finish. The first error stops the rest and is raised.

    Workers come from a fork server that has imported `preload` and has none of our locks or threads. They end with
    their parent, however it ends, so nothing is written after a `kill -9`. Each calls `start` first.
    """
    if num_proc == 1 or len(jobs) <= 1:
        for i, job in enumerate(jobs):
            yield i, function(*job)
        return
    context = multiprocessing.get_context("forkserver")
    if preload:
        context.set_forkserver_preload(list(preload))
    init_args = (start, S3FileManager.live())
    with ProcessPoolExecutor(min(num_proc, len(jobs)), context, initializer=_start_worker, initargs=init_args) as pool:
        try:
            with _delay_signals():  # an interrupted start would leave a worker that nobody waits for
                futures = {pool.submit(function, *job): i for i, job in enumerate(jobs)}
            for future in as_completed(futures):
                yield futures.pop(future), future.result()  # pop, so that the result can be freed
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


@contextlib.contextmanager
def _delay_signals() -> Iterator[None]:
    """Delay Ctrl-C and SIGTERM until the end of the block. Processes started in it never get Ctrl-C."""
    # Blocking the signals is not enough: another thread may receive them, and Python runs the handler in the main
    # thread all the same.
    received: list[int] = []
    handlers = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            handlers[number] = signal.signal(number, lambda number, frame: received.append(number))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number in received[:1]:
            signal.raise_signal(number)


def _start_worker(start: Callable[[], None], files: S3FileManager | None) -> None:
    """Share the parent's local copies of remote files, and end when the parent ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; only the parent reacts, and ends them
    start()
    S3FileManager.adopt(files)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def exit_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=exit_with_parent, daemon=True).start()

"""Signals while worker processes start."""

import os
import signal
import threading

import pytest

from system.worker_pool import _delay_signals


@pytest.mark.parametrize(("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_a_signal_received_by_another_thread_waits_for_the_end_of_the_block(
    number: int, error: type[BaseException]
) -> None:
    # A thread that existed before the block does not block the signal, for example a thread of a library.
    done = threading.Event()
    other = threading.Thread(target=done.wait)
    other.start()

    def leave(number: int, frame: object) -> None:
        raise error

    before = signal.signal(number, leave)
    started = []
    try:
        with pytest.raises(error), _delay_signals():
            os.kill(os.getpid(), number)
            started = [sum(range(100)) for _ in range(10_000)]  # Python runs signal handlers between instructions
        assert len(started) == 10_000
        assert signal.getsignal(number) is leave
    finally:
        signal.signal(number, before)
        done.set()
        other.join()

"""End a process after a signal: at once, or, in a training, once its step is finished and saved."""

import contextlib
import os
import signal
import threading

# SIGHUP comes when the terminal is gone, SIGUSR1 from Slurm before a job's end. Windows has neither.
ENDING = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name)]


def print_at_once(text):
    """Print a line to standard error, even if a print or a log line has just been interrupted by a signal."""
    with contextlib.suppress(OSError):
        os.write(2, f"{text}\n".encode())


class StoppedBySignal(KeyboardInterrupt):
    """Raised after SIGINT once every process has finished its step."""


class EndedBySignal(SystemExit):
    """Raised in the main thread, wherever it is, when a signal ends the process."""


def exit_status(number):
    """Return a process's exit status after a signal: 130 after SIGINT, 143 after any other."""
    return 130 if number == signal.SIGINT else 143


class EndingSignals:
    """A context in which SIGTERM, SIGHUP and SIGUSR1 end the process with status 143, after cleanup.

    Ignored signals stay ignored. Outside the main thread nothing changes.
    """

    numbers = ENDING

    def __enter__(self):
        self.previous = {}
        if threading.current_thread() is threading.main_thread():
            for number in self.numbers:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self.previous[number] = signal.signal(number, self.handle)
        return self

    def __exit__(self, *exception):
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def handle(self, number, frame):
        """End the process."""
        raise EndedBySignal(exit_status(number))


class StopSignals(EndingSignals):
    """A context that only records SIGINT and the ending signals, in ``received``.

    A second SIGINT interrupts at once.
    """

    numbers = (signal.SIGINT, *ENDING)
    received = None

    def handle(self, number, frame):
        """Record the signal."""
        self.received = number
        signal.signal(signal.SIGINT, signal.default_int_handler)
        name = signal.Signals(number).name
        print_at_once(f"\n{name}: finishing this step and saving; Ctrl-C now would stop at once")

    def raise_stop(self):
        """Raise KeyboardInterrupt (exit status 130) after SIGINT, else SystemExit (143).

        A process that received no signal, but trains together with one that did, ends as after SIGTERM.
        """
        if self.received == signal.SIGINT:
            raise StoppedBySignal
        raise SystemExit(exit_status(signal.SIGTERM))

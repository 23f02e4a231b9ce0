"""End a training after SIGINT or SIGTERM, once its step is finished and saved."""

import signal
import threading

from detlite.console import warn_of_signal


class StoppedBySignal(KeyboardInterrupt):
    """Raised after SIGINT once every process has finished its step."""


class StopSignals:
    """A context that only records SIGINT and SIGTERM, in ``received``.

    A second SIGINT interrupts at once. Ignored signals stay ignored. Outside the main thread nothing changes.
    """

    received = None

    def __enter__(self):
        self.previous = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self.previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exception):
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def _note(self, number, frame):
        self.received = number
        signal.signal(signal.SIGINT, signal.default_int_handler)
        text = f"\n{signal.Signals(number).name}: finishing this step and saving; Ctrl-C now would stop at once\n"
        warn_of_signal(text)

    def raise_stop(self):
        """Raise KeyboardInterrupt (exit status 130) after SIGINT, else SystemExit (143).

        A process that received no signal, but trains together with one that did, ends as after SIGTERM.
        """
        if self.received == signal.SIGINT:
            raise StoppedBySignal
        raise SystemExit(128 + signal.SIGTERM)

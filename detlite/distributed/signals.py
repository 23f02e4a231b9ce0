"""SIGINT and SIGTERM: the step under way is finished and saved before the process ends."""

import os
import signal
import threading

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StoppedBySignal(KeyboardInterrupt):
    """SIGINT, after the step under way, in all processes of the run, and not in the middle of anything."""


class StopSignals:
    """A context in which SIGINT and SIGTERM are noted in ``received`` only; a second SIGINT interrupts at once.

    Signals that are ignored stay so. Only a process's main thread can do this; in any other nothing changes.
    """

    received = None

    def __enter__(self):
        self.previous = {}
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
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
        os.write(2, text.encode())  # a handler must not enter the log, which may be what it interrupted

    def raise_stop(self):
        """Raise what ends the process as the signal asks: KeyboardInterrupt (status 130) or SystemExit (143).

        Without a signal of its own, as when another process of the training was told to stop, it is SIGTERM.
        """
        if self.received == signal.SIGINT:
            raise StoppedBySignal
        raise SystemExit(128 + signal.SIGTERM)

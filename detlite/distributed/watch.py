"""A thread that watches a run: it names what does not answer, and ends a process that hangs.

The main thread may hang inside C++, for example while it waits for a stopped process. Then it runs no signal handler.
"""

import contextlib
import json
import logging
import multiprocessing
import os
import select
import signal
import socket
import threading
import time

from detlite.signals import EndingSignals, exit_status, print_at_once

logger = logging.getLogger("detlite")

PERIOD = 5  # seconds between two looks at all processes
NOTICE = 60  # seconds of silence before a warning
GRACE = 15  # seconds from a signal to the end by this thread, and then
SAVING = 10  # seconds for saving
LIFE = 0.2  # seconds of computing that are a sign of life; threads that only wait need less in half an hour
OTHERS = "the other processes"

_waits = []  # what the main thread waits for: texts, and functions that return one
_watches = []  # the running Watch, if any


@contextlib.contextmanager
def waiting_for(what):
    """Note what a block waits for: a text, or a function that returns one."""
    _waits.append(what)
    try:
        yield
    finally:
        _waits.pop()


@contextlib.contextmanager
def called_before_end(rescue):
    """Let a running watch call ``rescue(reason)``, which returns a text, if it ends this process during a block."""
    for watch in _watches:
        watch.rescue = rescue
    try:
        yield
    finally:
        for watch in _watches:
            watch.rescue = None


def _leave_parents_wakeup():
    with contextlib.suppress(ValueError):  # another thread than the main one forked
        signal.set_wakeup_fd(-1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_parents_wakeup)  # a worker's signals are not its parent's


class Watch(threading.Thread):
    """A context in which a thread watches this process and, with a store, all processes of the run.

    A process gives a sign of life if it computes, or if it waits for others. Processes publish theirs in the store. Of
    all that do, the lowest reports a silent one after NOTICE seconds. After ``limit`` minutes all processes end with
    the reason and status 1. After SIGINT, SIGTERM, SIGHUP or SIGUSR1, what is stopped is continued, so that the main
    thread can end the process. If it has not done so in GRACE seconds, this thread does, after ``rescue(reason)``.
    ``store`` belongs to this start of the run, and this thread alone uses it. It is None for one process.
    """

    def __init__(self, limit, rank=0, count=1, store=None):
        super().__init__(daemon=True, name="detlite watch")
        self.limit = limit
        self.rank = rank
        self.store = store
        self.ranks = range(count) if store else [rank]
        self.statuses, self.marks = {}, {}  # the last status of each rank; the one of the last sign of life
        self.looked = time.monotonic()
        self.heard = dict.fromkeys(self.ranks, self.looked)
        self.reported = set()
        self.rescue = None
        self.is_over = False

    def __enter__(self):
        self.reader, self.writer = socket.socketpair()
        self.writer.setblocking(False)
        self.catches = threading.current_thread() is threading.main_thread()
        if self.catches:
            self.previous = signal.set_wakeup_fd(self.writer.fileno(), warn_on_full_buffer=False)
        _watches.append(self)
        self.start()
        return self

    def __exit__(self, *exception):
        _watches.remove(self)
        if self.catches:
            signal.set_wakeup_fd(self.previous)
        self.is_over = True
        self.writer.send(b"\0")
        self.join()
        self.reader.close()
        self.writer.close()

    def run(self):
        """Wait for signals, and look at all processes every PERIOD seconds."""
        next_look, end, number = time.monotonic() + PERIOD, None, None
        while not self.is_over:
            if select.select([self.reader], [], [], PERIOD / 5)[0]:
                for received in self.reader.recv(64):
                    if end is None and _is_ours(received):
                        number, end = received, time.monotonic() + GRACE
                        self._continue_stopped()
            now = time.monotonic()
            if end and now > end:
                name = signal.Signals(number).name
                reason = f"{name}: the step, or an evaluation, did not end within {GRACE} s"
                saving = 60 * self.limit if number == signal.SIGINT else SAVING
                self._end(exit_status(number), reason, saving, tell=self.rank == 0)
            if now > next_look:
                next_look = now + PERIOD
                with contextlib.suppress(RuntimeError):  # the launcher, which holds the store, has ended
                    self._look(now)

    def _look(self, now):
        """Exchange signs of life, and report silence or end the run."""
        if now - self.looked > NOTICE:  # this process was stopped itself, as by Ctrl-Z
            self.heard = dict.fromkeys(self.ranks, now)
        self.looked = now
        if self.store and self.store.check(["end"]):
            self._end(1, self.store.get("end").decode(), 60 * self.limit, tell=False)
        self._exchange(now)
        fresh = {rank: status for rank, status in self.statuses.items() if status["seen"] > now - 3 * PERIOD}
        waiting = [rank for rank, status in fresh.items() if status["waits"] == OTHERS]
        for rank, status in fresh.items():
            mark = self.marks.get(rank)
            is_new = mark is None or status["time"] != mark["time"]
            computes = mark is None or status["computed"] >= mark["computed"] + LIFE
            if is_new and (computes or (rank in waiting and len(waiting) < len(self.ranks))):
                self.marks[rank], self.heard[rank] = status, now
                self.reported.discard(rank)

        # A process that is stopped, or whose machine is gone, publishes no new time. The lowest of the others reports.
        silent = [rank for rank in self.ranks if now - self.heard[rank] > NOTICE]
        if not silent or self.rank != min(fresh):
            return
        longest = min(silent, key=lambda rank: self.heard[rank])
        if now - self.heard[longest] > 60 * self.limit:
            reason = f"{self._describe(longest, fresh)} has not answered for {self.limit:g} min (TIMEOUT)"
            if self.store:
                self.store.set("end", reason)
            self._end(1, reason, 60 * self.limit)
        for rank in set(silent) - self.reported:
            self.reported.add(rank)
            seconds = now - self.heard[rank]
            text = f"{self._describe(rank, fresh)} has not answered for {seconds:.0f} s; "
            text += f"after {self.limit:g} min of silence (TIMEOUT) the run ends"
            if self.rank == 0:
                _try_to(logger.warning, text)
            else:
                _try_to(print_at_once, f"warning: {text}")

    def _exchange(self, now):
        """Publish this process's status, and read the others'."""
        waits = (_waits[-1:] or [""])[0]  # the main thread may empty the list at any time
        own = {
            "time": time.time(),
            "computed": time.process_time() - time.thread_time(),  # without this thread
            "waits": waits() if callable(waits) else waits,
            "host": socket.gethostname(),
            "pid": os.getpid(),
        }
        read = {self.rank: own}
        if self.store:
            self.store.set(f"status/{self.rank}", json.dumps(own))
        for rank in self.ranks:
            if rank != self.rank and self.store.check([f"status/{rank}"]):
                read[rank] = json.loads(self.store.get(f"status/{rank}"))
        for rank, status in read.items():
            old = self.statuses.get(rank)
            is_new = old is None or old["time"] != status["time"]
            self.statuses[rank] = {**status, "seen": now if is_new else old["seen"]}

    def _describe(self, rank, fresh):
        """Name a process by its rank, and what it waits for, unless it is stopped itself."""
        waits = fresh.get(rank, {}).get("waits")
        if len(self.ranks) == 1:
            return waits or "the main thread"
        text = f"process {rank} of {len(self.ranks)}"
        return f"{text}, which waits for {waits}," if waits else text

    def _continue_stopped(self):
        """Continue loader workers and processes on this machine that SIGSTOP stopped. Others ignore SIGCONT."""
        pids = [worker.pid for worker in multiprocessing.active_children()]
        pids += [status["pid"] for status in self.statuses.values() if status["host"] == socket.gethostname()]
        for pid in pids:
            with contextlib.suppress(OSError, AttributeError):  # Windows has no SIGCONT
                os.kill(pid, signal.SIGCONT)

    def _end(self, status, reason, seconds, tell=True):
        """End this process. Save the state first, if that takes no longer than some seconds."""
        timer = threading.Timer(seconds, os._exit, [status])
        timer.daemon = True
        timer.start()
        try:
            if self.rescue:
                reason += self.rescue(reason)
        except Exception as error:  # whatever it is, the process ends
            reason += f"; the state could not be saved: {error}"
        if self.is_over:  # the main thread did it in the meantime
            return
        self._continue_stopped()
        if tell:
            _try_to(logger.debug, f"error: {reason}")  # to the file
            _try_to(print_at_once, f"error: {reason}")
        for worker in multiprocessing.active_children():
            worker.kill()
        os._exit(status)


def _try_to(say, text):
    """Say a text in a thread: a reader of the console that hangs, or a lock, may block it."""
    thread = threading.Thread(target=say, args=[text], daemon=True)
    thread.start()
    thread.join(1)


def _is_ours(number):
    """Return whether a signal ends the run: it is SIGINT, or its handler is detlite's."""
    handler = signal.getsignal(number) if number in signal.valid_signals() else None
    return number == signal.SIGINT or isinstance(getattr(handler, "__self__", None), EndingSignals)

"""Start the processes of a run, let them meet, and leave notes for later ones.

The launcher (torchrun or :func:`launch`) starts the processes, and starts all anew if one dies. It keeps a key-value
store, which outlives the processes of one start.
"""

import contextlib
import datetime
import hashlib
import os
import signal
import socket
import subprocess
import sys
import time
import uuid

import torch
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.errors import record

from detlite.errors import UserError
from detlite.signals import StopSignals, exit_status

SHUTDOWN = 27  # seconds for a last checkpoint after a failure or SIGTERM; a Watch ends a process that hangs before
LOOPBACK = "127.0.0.1"
STOPPED = (exit_status(signal.SIGINT), exit_status(signal.SIGTERM))
# Where none is named, torch takes the GPUs' backend alone, which cannot reduce tensors on the CPU.
BACKENDS = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}
ERROR_FILE = "TORCHELASTIC_ERROR_FILE"


def usable_cores():
    """Return the number of cores that this process may use. A batch system may allow fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # macOS and Windows do not say which are allowed


def python_arguments(*arguments):
    """Return the arguments with which Python runs ``detlite``, without modules from the current folder."""
    code = "import sys; sys.path[:] = filter(None, sys.path); from detlite.cli import main; sys.exit(main())"
    safe_path = ["-P"] if sys.version_info >= (3, 11) else []  # also for the processes that it starts
    return [*safe_path, "-c", code, *arguments]


def launch(arguments, processes):
    """Run ``detlite`` in several processes on this machine, and return the exit status.

    They listen on the loopback interface only. The usable cores are divided among them, unless OMP_NUM_THREADS is set.
    """
    server = socket.create_server((LOOPBACK, 0))
    port = server.getsockname()[1]
    # The libuv store of torch 2.6 takes no open socket.
    options = {"master_listen_fd": server.detach(), "use_libuv": torch.__version__ >= "2.10"}
    store = dist.TCPStore(LOOPBACK, port, is_master=True, wait_for_workers=False, **options)
    command = [sys.executable, *python_arguments(*arguments)]
    started = []
    with _PassedOnSignals(started) as signals:
        try:
            for number in range(processes):
                # A new session: a terminal's Ctrl-C comes to the processes only once, from this one.
                environment = _environment(number, processes, port)
                started.append(subprocess.Popen(command, env=environment, start_new_session=True))
            failures = _wait(started, signals)
        finally:
            for process in started:
                process.kill()
    del store
    if signals.received:
        return exit_status(signals.received)
    for number, status in failures.items():
        if status in STOPPED:  # a signal came to this process alone
            return status
        if status != 1:  # a process with status 1 has printed why
            print(f"error: process {number} of {processes} {_reason(status)}", file=sys.stderr)
    return 1 if failures else 0


def _environment(number, processes, port):
    """Return the environment of a process, with the variables that torchrun sets."""
    defaults = {"OMP_NUM_THREADS": str(max(1, usable_cores() // processes))}
    for _, name in socket.if_nameindex():
        if name.startswith("lo"):
            defaults |= {"GLOO_SOCKET_IFNAME": name, "NCCL_SOCKET_IFNAME": name}
    places = {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
    torchrun = {"TORCHELASTIC_RUN_ID": "detlite", "TORCHELASTIC_RESTART_COUNT": 0, "TORCHELASTIC_USE_AGENT_STORE": True}
    variables = {**places, **torchrun, "MASTER_ADDR": LOOPBACK, "MASTER_PORT": port}
    return defaults | os.environ | {name: str(value) for name, value in variables.items()}


class _PassedOnSignals(StopSignals):
    """A context that passes stop signals on to processes: SIGINT unchanged, others as SIGTERM."""

    def __init__(self, processes):
        self.processes = processes

    def handle(self, number, frame):
        """Record the signal, and send it to all processes."""
        self.received = number
        for process in self.processes:
            process.send_signal(signal.SIGINT if number == signal.SIGINT else signal.SIGTERM)


def _wait(processes, signals):
    """Wait for processes, and return {number: status} of those that failed by themselves.

    After a failure or a signal, end all, and kill those that remain after SHUTDOWN seconds.
    """
    failures, deadline = {}, None
    while True:
        ended = {number: process.returncode for number, process in enumerate(processes) if process.poll() is not None}
        if deadline is None and not signals.received:
            failures = {number: status for number, status in ended.items() if status}
        if len(ended) == len(processes):
            return failures

        # After Ctrl-C, nothing is killed as long as all processes run: they may save something large.
        is_over = failures or (signals.received and (ended or signals.received != signal.SIGINT))
        if is_over and deadline is None:
            deadline = time.monotonic() + SHUTDOWN
            if failures:
                for process in processes:
                    process.terminate()
        if deadline and time.monotonic() > deadline:
            for process in processes:
                process.kill()
        time.sleep(0.05)


def _reason(status):
    """Return in words how a process ended."""
    if status > 0:
        return f"ended with status {status}"
    if status == -9:  # Windows has no SIGKILL
        return "was ended by SIGKILL, as when the machine's memory is full"
    return f"was ended by {signal.Signals(-status).name}"


def run_recorded(run, options):
    """Run, and leave an exception in a file for torchrun's summary: a whole file, or none if a signal comes meanwhile.

    torchrun ends, instead of starting the processes anew, if it reads half a file.
    """
    file = os.environ.get(ERROR_FILE, "")
    part = os.environ[ERROR_FILE] = file and f"{file}.part"
    try:
        record(run)(options)
    except Exception:
        with contextlib.suppress(OSError):
            os.replace(part, file)
        raise


def remember(fact):
    """Leave a note in the launcher, also for later starts. Return how often it was left, or 0 without a launcher."""
    return _count_in_launcher(fact, 1)


def remembers(fact):
    """Return whether a process of an earlier start left that note (--max-restarts)."""
    return _count_in_launcher(fact, 0) > 0


def _count_in_launcher(fact, more):
    """Add to a fact's count in the launcher's store, and return it, or 0 without one."""
    try:
        store = _launchers_store(datetime.timedelta(seconds=10))
        return store.add(f"fact/{hashlib.sha256(fact.encode()).hexdigest()}", more) if store else 0
    except RuntimeError:  # the launcher has ended
        return 0


def meet(device="cpu", limit=30):
    """Make one group of all processes, or raise a UserError if one is missing after ``limit`` minutes.

    Returns:
        a store for the :class:`~detlite.distributed.watch.Watch` of this process; None without a launcher's store.
    """
    limit = datetime.timedelta(minutes=limit)
    store = _launchers_store(limit)
    if store is None:
        dist.init_process_group(BACKENDS[device], timeout=limit)
        return None
    places = {"rank": int(os.environ["RANK"]), "world_size": int(os.environ["WORLD_SIZE"])}
    prefix = _agree_on_prefix(store, **places, deadline=time.monotonic() + limit.total_seconds())
    # The main process may score a test for longer than the limit. The watch, not the group, finds who is silent.
    group_store, forever = dist.PrefixStore(prefix, store), datetime.timedelta(days=30)
    dist.init_process_group(BACKENDS[device], timeout=forever, store=group_store, **places)
    return dist.PrefixStore(f"watch {prefix}", _launchers_store(datetime.timedelta(seconds=5)))


def _agree_on_prefix(store, rank, world_size, deadline):
    """Return a prefix of keys that belongs to this start of the processes alone.

    The launcher's store still holds the keys of earlier starts (https://github.com/pytorch/pytorch/issues/135712), and
    the machines count restarts differently, so that a count cannot tell the starts apart. Process 0 therefore creates a
    unique prefix for this start and sends it to each process until that process has confirmed it.
    """
    if rank:
        # The token is new in each start, so an answer to it is never stale.
        token = uuid.uuid4().hex
        store.set(f"token/{rank}", token)
        prefix = store.get(f"prefix for {token}").decode()  # waits until process 0 has set it
        store.set(f"{prefix}/{rank}", "confirmed")
        return prefix

    prefix = uuid.uuid4().hex
    for other in range(1, world_size):
        while not store.check([f"{prefix}/{other}"]):
            if time.monotonic() > deadline:
                raise UserError(f"process {other} of {world_size} has not come (TIMEOUT)")
            if store.check([f"token/{other}"]):  # perhaps one of an earlier start, which does no harm
                token = store.get(f"token/{other}").decode()
                store.set(f"prefix for {token}", prefix)
            time.sleep(0.05)
    return prefix


def _launchers_store(timeout):
    """Return a client of the launcher's key-value store, or None if there is none."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    return dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False, timeout=timeout)

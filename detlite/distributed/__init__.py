"""One run in several processes, on one machine or many.

Every process reads the same config and works on its share of the images. Only the main process, which has rank 0,
writes files. In a run of one process nothing here has an effect.
"""

import contextlib
import ctypes
import functools
import gc
import importlib
import io
import os
import tempfile
import traceback

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from detlite.distributed.launcher import meet, usable_cores
from detlite.distributed.watch import OTHERS, Watch, waiting_for
from detlite.errors import UserError
from detlite.signals import StoppedBySignal

LONGEST_TEMPORARY = 71  # bytes; sockets add /pymp-12345678/listener-12345678, and macOS ends their paths at 103


def loader_workers(setting):
    """Return the number of loader workers for this process: ``setting``, which is DATASETS.NUM_WORKERS.

    For auto, it is half of this process's share of the cores, from 1 to 8. If the path of the workers' sockets would be
    too long for the system, raise a UserError.
    """
    length = len(os.fsencode(tempfile.gettempdir()))
    if setting != 0 and length > LONGEST_TEMPORARY:
        limit = f"{length} characters, and the sockets of loader workers allow {LONGEST_TEMPORARY}"
        raise UserError(f"TMPDIR is too long: {limit}; choose another folder, or no workers (DATASETS.NUM_WORKERS 0)")
    if setting != "auto":
        return setting
    processes = int(os.environ["LOCAL_WORLD_SIZE"]) if count() > 1 else 1  # on this machine
    cores = usable_cores() // processes
    return min(8, max(1, cores // 2))


def share():
    """Return (rank of this process, number of processes)."""
    if not dist.is_initialized():
        return 0, 1
    return dist.get_rank(), dist.get_world_size()


def rank():
    """Return the rank of this process, from 0."""
    return share()[0]


def count():
    """Return the number of processes."""
    return share()[1]


def is_main():
    """Return whether this is the process that writes files."""
    return rank() == 0


def in_every_process(run):
    """Decorate a function so that it runs in the group of all processes.

    The function's first argument is the config, whose MODEL.DEVICE decides how the processes communicate.
    """

    @functools.wraps(run)
    def joined(cfg, *args, **kwargs):
        if dist.is_initialized():
            return run(cfg, *args, **kwargs)
        if not dist.is_torchelastic_launched():
            with Watch(cfg.TIMEOUT):
                return run(cfg, *args, **kwargs)

        # Import this module before the group exists. Its functions have the group as a default argument, so a later
        # import would keep the group alive after it is destroyed.
        importlib.import_module("torch.distributed.nn")
        device = _take_device(cfg.MODEL.DEVICE, int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"]))
        with Watch(cfg.TIMEOUT), waiting_for("process 0, at the start,"):
            store = meet(device, cfg.TIMEOUT)
        with Watch(cfg.TIMEOUT, *share(), store):
            return _run_in_group(functools.partial(run, cfg, *args, **kwargs))

    return joined


def _run_in_group(run):
    """Call a function, and end the group of processes in the way that its outcome allows."""
    try:
        result = run()
    except (SystemExit, StoppedBySignal) as stop:
        # All processes stop after the same step, so the group can end as it does after a whole run.
        traceback.clear_frames(stop.__traceback__)
        _destroy_group()
        raise
    except BaseException as error:
        # Python destroys the group at exit, and this waits for pending operations. The other processes may never
        # answer them, so the exit would hang (https://github.com/pytorch/torchtitan/pull/1342). One more reference
        # keeps the group alive.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(dist.group.WORLD))
        is_gloo_error = isinstance(error, RuntimeError) and "gloo" in str(error)
        if isinstance(error, dist.DistError) or is_gloo_error:
            message = f"process {rank()} of {count()} lost the connection to another process: {error}"
            raise UserError(message) from error
        raise
    _destroy_group()
    return result


def _destroy_group():
    """Destroy the group. Otherwise its threads could abort the process at exit."""
    gc.collect()  # frees objects that hold the group, such as the trainer
    dist.destroy_process_group()


def _take_device(device, local_rank, processes):
    """Select this process's GPU, if it uses one, and return "cuda" or "cpu"."""
    if device.startswith("cuda:"):
        if processes > 1:
            raise UserError(f"MODEL.DEVICE: {device} is one GPU, but there are {processes} processes; set it to cuda")
        return "cuda"
    if device == "cuda" or (device == "auto" and torch.cuda.is_available()):
        gpus = torch.cuda.device_count()
        if processes > gpus:
            found = f"{processes} processes on a machine with {gpus} GPUs"
            raise UserError(f"{found}: start one process per GPU, or set MODEL.DEVICE to cpu")
        torch.cuda.set_device(local_rank)
        return "cuda"
    return "cpu"


def parallel(model):
    """Wrap a model so that a backward pass averages its gradients over the processes.

    All processes start with the weights of the main one. In a run of one process the model itself is returned.
    """
    if count() == 1:
        return model
    with waiting_for(OTHERS):
        return DistributedDataParallel(model, gradient_as_bucket_view=True)


def waiting():
    """Return a context for a block in which all processes wait for each other."""
    return waiting_for(OTHERS) if count() > 1 else contextlib.nullcontext()


def check_trained(model):
    """Raise a UserError if a parameter has no gradient. The other processes would wait for that gradient."""
    idle = [name for name, value in model.named_parameters() if value.requires_grad and value.grad is None]
    if idle and count() > 1:
        found = f"no loss depends on {', '.join(idle[:5])} ({len(idle)} parameters in all)"
        rule = "but in a run of several processes every parameter needs a gradient"
        raise UserError(f"{found}, {rule}; freeze them (requires_grad_(False)) or remove them")


def averaging(model, enabled):
    """Return a context for a pass of a model from :func:`parallel`. Unless ``enabled``, it only adds up gradients."""
    return contextlib.nullcontext() if enabled or count() == 1 else model.no_sync()


def mean(values):
    """Average each number of a dict over all processes. The keys must be the same in all."""
    if count() == 1:
        return values
    numbers = torch.tensor([*values.values()], dtype=torch.float64)
    with waiting_for(OTHERS):
        dist.all_reduce(numbers)
    means = (numbers / count()).tolist()
    return dict(zip(values, means, strict=True))


def total(number):
    """Return the sum of a whole number over the processes."""
    average = mean({"number": number})["number"]
    return round(average * count())


def wait_for_all():
    """Wait until every process has called this function."""
    mean({"arrived": 1.0})  # returns only after every process has called it


def gather(value):
    """Return the values of all processes in order of rank. Only the main process gets them, others get None.

    A value consists of tensors, numbers, strings, and lists, tuples and dicts of these. Nothing else is unpickled.
    """
    if count() == 1:
        return [value]
    own = _to_bytes(value)
    sizes = torch.zeros(count(), dtype=torch.int64)
    sizes[rank()] = len(own)
    with waiting_for(OTHERS):
        dist.all_reduce(sizes)
        if not is_main():
            dist.send(own, 0)
            return None
        values = [value]
        for sender in range(1, count()):
            content = torch.empty(sizes[sender], dtype=torch.uint8)
            dist.recv(content, sender)
            values.append(_from_bytes(content))
    return values


def from_main(function):
    """Call a function in the main process alone, and return its result, of :func:`gather`'s types, in all processes."""
    if count() == 1:
        return function()
    content = _to_bytes(function()) if is_main() else None
    size = torch.tensor(len(content) if is_main() else 0)
    with waiting_for(OTHERS):
        dist.broadcast(size, 0)
        content = content if is_main() else torch.empty(size, dtype=torch.uint8)
        dist.broadcast(content, 0)
    return _from_bytes(content)


def _to_bytes(value):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return torch.frombuffer(buffer.getbuffer(), dtype=torch.uint8)


def _from_bytes(content):
    return torch.load(io.BytesIO(content.numpy()), weights_only=True)


def share_buffers(model):
    """Copy the main process's buffers, such as BatchNorm's statistics, to all others."""
    if count() > 1:
        with waiting_for(OTHERS):
            for buffer in model.buffers():
                dist.broadcast(buffer, 0)

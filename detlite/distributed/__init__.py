"""One run in several processes, on one machine or many.

Every process reads the same config and works on its share of the images. Only the main process, which has rank 0,
writes files. In a run of one process nothing here has an effect.
"""

import contextlib
import ctypes
import functools
import gc
import importlib
import os
import traceback

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from detlite.distributed.launcher import is_launched, meet, usable_cores
from detlite.distributed.signals import StoppedBySignal
from detlite.errors import UserError


def loader_workers(setting):
    """Return the number of loader processes of this process: DATASETS.NUM_WORKERS, or half of its cores for auto."""
    if setting != "auto":
        return setting
    processes = int(os.environ["LOCAL_WORLD_SIZE"]) if count() > 1 else 1
    return min(8, max(1, usable_cores() // processes // 2))


def share():
    """Return (number of this process, number of processes)."""
    if not dist.is_initialized():
        return 0, 1
    return dist.get_rank(), dist.get_world_size()


def rank():
    """Return the number of this process, from 0."""
    return share()[0]


def count():
    """Return the number of processes."""
    return share()[1]


def is_main():
    """Return whether this is the process that writes files."""
    return rank() == 0


def in_every_process(run):
    """Decorate a function of a config so that it first joins the other processes."""

    @functools.wraps(run)
    def joined(cfg, *args, **kwargs):
        if not is_launched() or dist.is_initialized():
            return run(cfg, *args, **kwargs)

        # Imported after the group exists, this module would keep the group in default arguments of its functions.
        importlib.import_module("torch.distributed.nn")
        meet(_take_device(cfg.MODEL.DEVICE, int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])))
        try:
            result = run(cfg, *args, **kwargs)
        except (SystemExit, StoppedBySignal) as stop:
            # All processes stop after the same step, so the group can end as it does after a whole run.
            traceback.clear_frames(stop.__traceback__)
            _destroy_group()
            raise
        except BaseException as error:
            # A group that is destroyed waits for its pending operations, which the others may never answer
            # (https://github.com/pytorch/torchtitan/pull/1342). Python would destroy the group at exit and hang there.
            # One more reference to the group prevents that.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(dist.group.WORLD))
            if isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error)):
                raise UserError(f"process {rank()} of {count()} lost the connection to another: {error}") from error
            raise
        _destroy_group()
        return result

    return joined


def _destroy_group():
    """End the group. Its threads could abort the process while the interpreter ends."""
    gc.collect()  # frees objects that hold the group, such as the trainer
    dist.destroy_process_group()


def _take_device(device, number, processes):
    """Return "cuda" or "cpu", after selecting this process's GPU if there is one."""
    if device.startswith("cuda:"):
        if processes > 1:
            raise UserError(f"MODEL.DEVICE: {device} is one GPU, but there are {processes} processes; set it to cuda")
        return "cuda"
    if device == "cuda" or (device == "auto" and torch.cuda.is_available()):
        gpus = torch.cuda.device_count()
        if processes > gpus:
            raise UserError(
                f"{processes} processes on a machine with {gpus} GPUs: start one process per GPU, or set MODEL.DEVICE "
                "to cpu"
            )
        torch.cuda.set_device(number)
        return "cuda"
    return "cpu"


def parallel(model):
    """Wrap a model so that a backward pass averages its gradients over the processes.

    All processes start with the weights of the main one. In a run of one process the model itself is returned.
    """
    if count() == 1:
        return model
    return DistributedDataParallel(model, gradient_as_bucket_view=True)


def check_trained(model):
    """Raise a UserError if a parameter lacks a gradient that others wait for."""
    idle = [name for name, value in model.named_parameters() if value.requires_grad and value.grad is None]
    if not idle or count() == 1:
        return
    raise UserError(
        f"no loss depends on {', '.join(idle[:5])} ({len(idle)} parameters in all), but several processes need a "
        "gradient of each; freeze them (requires_grad_(False)) or remove them"
    )


def averaging(model, enabled):
    """Return a context for one pass of the model that :func:`parallel` returned.

    If not enabled, the gradients are averaged together with those of a later pass.
    """
    if enabled or not isinstance(model, DistributedDataParallel):
        return contextlib.nullcontext()
    return model.no_sync()


def mean(values):
    """Return the mean over all processes of each number in a dict of equal keys."""
    if count() == 1:
        return values
    numbers = torch.tensor([*values.values()], dtype=torch.float64)
    dist.all_reduce(numbers)
    return dict(zip(values, (numbers / count()).tolist(), strict=True))


def total(number):
    """Return the sum of a whole number over the processes."""
    return round(mean({"number": number})["number"] * count())


def wait_for_all():
    """Wait until every process has called this function."""
    mean({"arrived": 1.0})


def gather(value):
    """Return the values of all processes, by rank, in the main one (others: None)."""
    if count() == 1:
        return [value]
    values = [None] * count() if is_main() else None
    dist.gather_object(value, values)
    return values


def from_main(function):
    """Call a function in the main process alone, and return its result in all."""
    value = [function()] if is_main() else [None]
    if count() > 1:
        dist.broadcast_object_list(value)
    return value[0]


def share_buffers(model):
    """Copy the main process's buffers, such as BatchNorm's statistics, to all others."""
    if count() > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)

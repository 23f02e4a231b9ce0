"""Try one clause of a contract with one input, and report how a part breaks it."""

import contextlib

import torch
from torch.utils._pytree import tree_map_only

from detlite.contracts import CONTRACTS, Output
from detlite.description import describe
from detlite.seeding import seeded, torch_seeded

# Three disjoint objects in an image of (height, width) (96, 128).
OBJECTS = [[10.0, 10.0, 40.0, 34.0], [60.0, 20.0, 92.0, 84.0], [12.0, 50.0, 48.0, 90.0]]
IMAGE_SIZE = (96, 128)


class ContractError(AssertionError):
    """A part breaks its slot's contract. The message names clause, input and result."""


class Case(Output):
    """One clause of a slot's contract, tried on a part with one input.

    Every method except ``message`` raises a :class:`ContractError` if the part breaks the clause.

    Messages name the part's class, and describe the clause with ``clause``. ``given`` has the input by name, in the
    order of the part's parameters.
    """

    finite = True

    def __init__(self, registry, part, clause, **given):
        self.registry, self.part, self.clause, self.given = registry, part, clause, given

    def run(self, function=None, seed=None):
        """Call the part, or another function, with the input, and return the result.

        The call must neither raise an exception nor change its input. A seed is for random, numpy and torch.
        """
        before = copied(self.given)
        with contextlib.ExitStack() as stack:
            if seed is not None:
                stack.enter_context(seeded(seed))
                stack.enter_context(torch_seeded(seed))  # on a GPU, too
            stack.enter_context(self.watch())
            result = (function or self.part)(*self.given.values())
        for name, value in self.given.items():
            self.require(same(value, before[name]), f"{name} unchanged", value)
        return result

    def checked(self, method="call", function=None, seed=None):
        """Run twice, and return the result, which must be the same both times and as CONTRACTS promises.

        ``method`` is its name there. The other arguments are for :meth:`run`.
        """
        if method != "call":
            function = function or getattr(self.part, method)
        result = self.run(function, seed)
        CONTRACTS[self.registry.slot][method](self, result, *self.given.values())
        first = copied(result)  # a data set may return the same tensors again
        what = "the same result again" if seed is None else "the same result for the same seeds"
        self.repeats(first, self.run(function, seed), what)
        return result

    @contextlib.contextmanager
    def watch(self):
        """Report any exception inside the context as a :class:`ContractError`."""
        try:
            yield
        except ContractError:
            raise
        except Exception as error:
            kind = type(error).__name__
            raise ContractError(self.message(f"no exception; see {kind} above", f"{kind}: {error}")) from error

    def require(self, condition, expected, got):
        """Raise an error with the expected and actual result if a condition is false."""
        if not condition:
            raise ContractError(self.message(expected, got if isinstance(got, str) else describe(got)))

    def message(self, expected, got):
        """Return an error's text: part, clause, input, expected and actual result, and the contract."""
        name = getattr(self.part, "__name__", type(self.part).__name__)
        given = ", ".join(f"{key} {describe(value)}" for key, value in self.given.items()) or "nothing"
        return (
            f"{name} breaks the contract of {self.registry.slot}: {self.clause}\n"
            f"  given    {given}\n  expected {expected}\n  got      {got}\n"
            f"the contract: {self.registry.contract}"
        )

    def attributes(self):
        """Require the attributes that the registry asks for."""
        with self.watch():
            self.registry.check_attributes(self.part, type(self.part).__name__)

    def repeats(self, expected, result, what="the same result again"):
        """Require two results that are equal to the last bit."""
        self.require(same(expected, result), f"{what}: {describe(expected)}", result)

    def close(self, result, expected, what):
        """Require two tensors that are equal up to rounding."""
        near = result.shape == expected.shape and torch.allclose(result, expected, rtol=1e-3, atol=1e-3)
        self.require(near, f"{what}: {describe(expected)}", result)

    def gradients(self, loss, named):
        """Run a loss's backward pass, and require finite gradients that are not all 0.

        ``named`` has (name, tensor) pairs. A tensor that requires no gradient must not get one.
        """
        with self.watch():
            loss.backward()
        for name, tensor in named:
            if not tensor.requires_grad:
                self.require(tensor.grad is None, f"no gradient in {name}, which is frozen", "a gradient")
                continue
            self.require(tensor.grad is not None, f"a gradient in {name}", "none")
            self.require(bool(tensor.grad.isfinite().all()), f"a finite gradient in {name}", tensor.grad)
            self.require(bool(tensor.grad.any()), f"a gradient in {name} that is not 0 everywhere", tensor.grad)


def devices():
    """Return the devices on which parts without weights are checked."""
    return ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


def objects(device="cpu"):
    """Return OBJECTS as a tensor (3, 4)."""
    return torch.tensor(OBJECTS, device=device)


def boxes_near_objects(device="cpu", count=40):
    """Return the objects, and random boxes around them: (3 + count, 4)."""
    generator = torch.Generator().manual_seed(0)
    copies = objects().repeat(count, 1)[:count]
    near = copies + torch.randn(count, 4, generator=generator) * 6
    low = near[:, :2].clamp(min=0)
    high = torch.maximum(near[:, 2:], low + 4).minimum(torch.tensor([128.0, 96.0]))  # the image's width and height
    return torch.cat([objects(), torch.cat([low, high], dim=1)]).to(device)


def noise(*shape, device="cpu", seed=0):
    """Return numbers from a normal distribution, equal for the same seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(device)


def copied(value):
    """Copy a value's tensors, also inside lists, tuples and dicts."""
    return tree_map_only(torch.Tensor, lambda tensor: tensor.detach().clone(), value)


def same(first, second):
    """Return whether two results are equal to the last bit."""
    if isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        return first.dtype == second.dtype and first.shape == second.shape and bool(torch.equal(first, second))
    if isinstance(first, dict) and isinstance(second, dict):
        return list(first) == list(second) and same(list(first.values()), list(second.values()))
    if isinstance(first, (list, tuple)) and isinstance(second, (list, tuple)):
        return len(first) == len(second) and all(map(same, first, second))
    return first is second or bool(first == second)

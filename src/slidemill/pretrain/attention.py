"""Exact softmax attention within each sequence of a packed row.

Nothing is read or written. Three backends give the same result and never hold an N x N matrix.

- `sdpa`: PyTorch's scaled_dot_product_attention, one call for neighbours of equal length. Any
  device and dtype.
- `varlen`: PyTorch's variable-length kernel, all sequences in one call. CUDA, half precision.
- `flash-attn`: the same from the package flash-attn, for a PyTorch that has no such kernel.

Both functions for callers are opaque to torch.compile: lengths differ in every batch, and a graph
that saw them would be compiled again for each.
"""

import functools
import importlib
import importlib.util
import inspect
import itertools
import logging
from collections.abc import Callable, Iterator
from typing import Literal, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from slidemill.errors import UserError
from slidemill.pretrain.packing import Sequences

log = logging.getLogger(__name__)

Backend = Literal["sdpa", "varlen", "flash-attn"]

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

_AMPERE = (8, 0)  # the oldest GPUs that the variable-length kernels run on
_LOGITS_AT_ONCE = 2**24


def opaque(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """A function that torch.compile calls and does not look into.

    What torch.compiler.disable does, without loading the compiler (seconds) where nothing is
    compiled.
    """

    @functools.wraps(function)
    def called(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        if torch.compiler.is_dynamo_compiling():
            hidden: Callable[Arguments, Result] = torch.compiler.disable(function)
            return hidden(*args, **kwargs)
        return function(*args, **kwargs)

    return called


@opaque
def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    sequences: Sequences,
    backend: Backend | None = None,
) -> Tensor:
    """Softmax attention within each sequence.

    Args:
        query: (T, H, d), the tokens of all sequences.
        key: (T, H, d).
        value: (T, H, d).
        sequences: Where each sequence lies; T tokens in all.
        backend: What computes it; None for what `choose_backend` says.

    Returns:
        (T, H, d), in the dtype of the query.

    Raises:
        UserError: If the backend that was asked for is not to be had here.
        ValueError: If the shapes do not belong together.
    """
    _check(query, key, value, sequences)
    chosen = _usable(backend, query)
    if chosen == "sdpa":
        return torch.cat([_sdpa(*run) for run in _runs(query, key, value, sequences)])
    kernel = _varlen if chosen == "varlen" else _flash
    return kernel(query, key, value, sequences, False)[0]


@opaque
def attend_lse(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    sequences: Sequences,
    backend: Backend | None = None,
) -> tuple[Tensor, Tensor]:
    """Softmax attention within each sequence, and the log of each softmax's denominator.

    Args:
        query: (T, H, d), the tokens of all sequences.
        key: (T, H, d).
        value: (T, H, d).
        sequences: Where each sequence lies; T tokens in all.
        backend: What computes it; None for what `choose_backend` says.

    Returns:
        (T, H, d) as of `attend`, and (T, H), the log of the sum over keys of exp(q k / sqrt(d)),
        without gradient; float32, or float64 for float64 queries.

    Raises:
        UserError: If the backend that was asked for is not to be had here.
        ValueError: If the shapes do not belong together.
    """
    _check(query, key, value, sequences)
    chosen = _usable(backend, query)
    if chosen == "sdpa":
        parts = [_sdpa_lse(*run) for run in _runs(query, key, value, sequences)]
        return torch.cat([out for out, _ in parts]), torch.cat([lse for _, lse in parts])
    kernel = _varlen if chosen == "varlen" else _flash
    out, lse = kernel(query, key, value, sequences, True)
    return out, _tokens_first(lse, len(query), query.shape[1])


def choose_backend(device: torch.device, dtype: torch.dtype) -> Backend:
    """What computes attention where nothing was asked for.

    `varlen` wherever it fits, or `flash-attn` where this PyTorch has no `varlen`; `sdpa` for
    everything else. Where one would fit and neither is installed, a warning says so.
    """
    kernels: tuple[Backend, ...] = ("varlen", "flash-attn")
    if any(unfit(backend, device, dtype) is not None for backend in kernels):
        return "sdpa"
    for backend in kernels:
        if missing(backend) is None:
            return backend
    _warn_slow()
    return "sdpa"


def unfit(backend: Backend, device: torch.device, dtype: torch.dtype) -> str | None:
    """Why a backend does not take tensors of this device and dtype, or None if it does."""
    if backend == "sdpa":
        return None
    if device.type != "cuda" or dtype not in (torch.float16, torch.bfloat16):
        return f"it takes float16 or bfloat16 on CUDA, not {dtype} on {device.type}"
    if torch.cuda.get_device_capability(device) < _AMPERE:
        return "it takes GPUs of compute capability 8.0 or newer"
    return None


@functools.cache
def missing(backend: Backend) -> str | None:
    """Why a backend cannot be used in this installation, or None if it can."""
    if backend == "varlen":
        if importlib.util.find_spec("torch.nn.attention.varlen") is None:
            return f"PyTorch {torch.__version__} has no torch.nn.attention.varlen"
        from torch.nn.attention.varlen import varlen_attn

        # Older ones have no scale: head widths that are not a multiple of 8 could not be padded.
        if not {"return_aux", "scale"} <= set(inspect.signature(varlen_attn).parameters):
            return f"varlen_attn of PyTorch {torch.__version__} lacks return_aux or scale"
    if backend == "flash-attn" and importlib.util.find_spec("flash_attn") is None:
        return "the package flash-attn is not installed"
    return None


@functools.cache
def _warn_slow() -> None:
    log.warning(
        "attention runs one sequence at a time: %s; %s. Update PyTorch for a faster kernel.",
        missing("varlen"),
        missing("flash-attn"),
    )


def _usable(backend: Backend | None, query: Tensor) -> Backend:
    if backend is None:
        return choose_backend(query.device, query.dtype)
    reason = unfit(backend, query.device, query.dtype) or missing(backend)
    if reason is not None:
        raise UserError(
            f"attention backend {backend}: {reason}. Ask for another one, or for none: "
            "slidemill chooses."
        )
    return backend


def _check(query: Tensor, key: Tensor, value: Tensor, sequences: Sequences) -> None:
    if query.ndim != 3 or not query.shape == key.shape == value.shape:
        raise ValueError(
            "attention takes three tensors (T, heads, channels), not "
            f"{tuple(query.shape)}, {tuple(key.shape)}, {tuple(value.shape)}"
        )
    if sequences.total != len(query):
        raise ValueError(f"sequences of {sequences.total} tokens, a row of {len(query)}")


def _runs(
    query: Tensor, key: Tensor, value: Tensor, sequences: Sequences
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Neighbouring sequences of equal length as one batch each: views (B, H, n, d)."""
    runs = [(length, sum(1 for _ in same)) for length, same in itertools.groupby(sequences.lengths)]
    # Not by slices: the gradient of each would be as long as the whole row.
    parts = (x.split([length * count for length, count in runs]) for x in (query, key, value))
    for (length, count), *one in zip(runs, *parts, strict=True):
        q, k, v = (x.unflatten(0, (count, length)).transpose(1, 2) for x in one)
        yield q, k, v


def _sdpa(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention of (B, H, n, d), as (B n, H, d)."""
    mixed = functional.scaled_dot_product_attention(query, key, value)
    return mixed.transpose(1, 2).flatten(0, 1)


def _sdpa_lse(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Attention of (B, H, n, d), as (B n, H, d), and its denominators' logs (B n, H)."""
    if query.device.type == "cpu":
        # What the public function calls on a CPU; only this one gives the denominators, which
        # would cost as much again as the attention itself.
        kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        mixed, lse = kernel(query, key, value)
        return mixed.transpose(1, 2).flatten(0, 1), lse.detach().transpose(1, 2).flatten(0, 1)
    return _sdpa(query, key, value), _lse_by_blocks(query.detach(), key.detach())


def _lse_by_blocks(query: Tensor, key: Tensor) -> Tensor:
    """Logs of the softmax's denominators of (B, H, n, d), as (B n, H); memory is bounded."""
    batch, heads, count, width = query.shape
    rows = max(_LOGITS_AT_ONCE // (batch * heads * count), 1)
    scaled = key.transpose(-1, -2) * width**-0.5
    parts = [torch.logsumexp((q @ scaled).float(), -1) for q in query.split(rows, dim=2)]
    return torch.cat(parts, dim=2).transpose(1, 2).flatten(0, 1)


def _varlen(
    query: Tensor, key: Tensor, value: Tensor, sequences: Sequences, with_lse: bool
) -> tuple[Tensor, Tensor]:
    """PyTorch's kernel; the denominators' logs are empty unless asked for."""
    from torch.nn.attention.varlen import AuxRequest, varlen_attn

    width, longest = query.shape[-1], sequences.longest
    given = varlen_attn(
        _to_multiple_of_8(query),
        _to_multiple_of_8(key),
        _to_multiple_of_8(value),
        sequences.offsets,
        sequences.offsets,
        longest,
        longest,
        return_aux=AuxRequest(lse=True) if with_lse else None,
        scale=width**-0.5,
    )
    out, lse = given if isinstance(given, tuple) else (given, query.new_empty(0))
    return out[..., :width], lse


def _flash(
    query: Tensor, key: Tensor, value: Tensor, sequences: Sequences, with_lse: bool
) -> tuple[Tensor, Tensor]:
    """The kernel of flash-attn; the denominators' logs are empty unless asked for."""
    kernel = importlib.import_module("flash_attn").flash_attn_varlen_func
    width, longest = query.shape[-1], sequences.longest
    given = kernel(
        _to_multiple_of_8(query),
        _to_multiple_of_8(key),
        _to_multiple_of_8(value),
        sequences.offsets,
        sequences.offsets,
        longest,
        longest,
        softmax_scale=width**-0.5,
        return_attn_probs=with_lse,
    )
    out, lse = (given[0], given[1]) if with_lse else (given, query.new_empty(0))
    return out[..., :width], lse


def _to_multiple_of_8(x: Tensor) -> Tensor:
    """Channels of zeros added, as the kernels want them; they change no product."""
    extra = -x.shape[-1] % 8
    return functional.pad(x, (0, extra)) if extra else x


def _tokens_first(lse: Tensor, tokens: int, heads: int) -> Tensor:
    """The denominators' logs as (T, H), from either order that a kernel may give them in."""
    lse = lse.detach()
    if lse.shape == (heads, tokens):
        return lse.transpose(0, 1)
    if lse.shape in ((tokens, heads), (tokens, heads, 1)):
        return lse.reshape(tokens, heads)
    raise UserError(
        f"the attention kernel gave a log-sum-exp of shape {tuple(lse.shape)} for {tokens} tokens "
        f"and {heads} heads. Update flash-attn or PyTorch, whichever it is of."
    )

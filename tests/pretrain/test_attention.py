import subprocess
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch._dynamo.testing import CompileCounter
from torch.utils._python_dispatch import TorchDispatchMode

from slidemill.errors import UserError
from slidemill.pretrain import attention
from slidemill.pretrain.attention import attend, attend_lse, choose_backend, opaque
from slidemill.pretrain.packing import Sequences

CUDA = torch.device("cuda")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def no_cache():
    attention.missing.cache_clear()
    attention._warn_slow.cache_clear()
    yield
    attention.missing.cache_clear()
    attention._warn_slow.cache_clear()


def drawn(lengths, heads=2, channels=8, seed=0):
    rng = np.random.default_rng(seed)
    shape = (sum(lengths), heads, channels)
    made = [torch.from_numpy(rng.normal(size=shape)).requires_grad_() for _ in range(3)]
    return (*made, Sequences.of(lengths))


def dense(query, key, value, lengths):
    outs, lses, start = [], [], 0
    for length in lengths:
        q, k, v = (x[start : start + length].transpose(0, 1) for x in (query, key, value))
        logits = q @ k.transpose(1, 2) / q.shape[-1] ** 0.5
        outs.append((logits.softmax(-1) @ v).transpose(0, 1))
        lses.append(logits.logsumexp(-1).transpose(0, 1))
        start += length
    return torch.cat(outs), torch.cat(lses)


def gradients(out, inputs):
    weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    return torch.autograd.grad((out * weights).sum(), inputs, retain_graph=True)


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=6),
    st.sampled_from([1, 3]),
    st.sampled_from([4, 8, 12]),
)
def test_attention_and_its_gradient_equal_the_formula(lengths, heads, channels):
    *qkv, sequences = drawn(lengths, heads, channels)
    wanted, wanted_lse = dense(*qkv, lengths)
    plain = attend(*qkv, sequences)
    out, lse = attend_lse(*qkv, sequences)
    assert not lse.requires_grad
    torch.testing.assert_close(lse, wanted_lse.detach(), rtol=0, atol=1e-12)
    for got in (plain, out):
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-12)
        for a, b in zip(gradients(got, qkv), gradients(wanted, qkv), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-11)


def test_views_of_one_projection_are_taken_as_they_are():
    mixed = torch.from_numpy(np.random.default_rng(0).normal(size=(7, 24)))
    qkv = mixed.unflatten(-1, (3, 2, 4)).unbind(1)
    sequences = Sequences.of([3, 4])
    torch.testing.assert_close(attend(*qkv, sequences), dense(*qkv, [3, 4])[0])


class Written(TorchDispatchMode):
    """Numbers that operations give, of all results together."""

    total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        if isinstance(found, torch.Tensor) and found._base is None:
            self.total += found.numel()
        return found


def test_the_gradients_work_does_not_grow_with_sequences_times_tokens():
    """Gradients of slices of the row would each be as long as the row."""
    *qkv, sequences = drawn([1, 2] * 100)
    out = attend(*qkv, sequences).sum()
    with Written() as written:
        out.backward()
    assert written.total < 30 * qkv[0].numel()


def test_denominators_by_blocks_equal_those_of_the_cpu_kernel(monkeypatch):
    monkeypatch.setattr(attention, "_LOGITS_AT_ONCE", 50)
    query, key, _, _ = drawn([12])
    q, k = (x.detach().float().unflatten(0, (2, 6)).transpose(1, 2) for x in (query, key))
    wanted = dense(query, key, query, [6, 6])[1]
    torch.testing.assert_close(attention._lse_by_blocks(q, k), wanted.detach().float())


def test_shapes_that_do_not_belong_together_are_refused():
    query, key, value, sequences = drawn([3, 4])
    with pytest.raises(ValueError, match="sequences of 5 tokens"):
        attend(query, key, value, Sequences.of([2, 3]))
    with pytest.raises(ValueError, match="three tensors"):
        attend_lse(query, key[:, :1], value, sequences)


def half_on_a_new_gpu(monkeypatch, capability=(9, 0)):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)


@pytest.mark.parametrize(
    ("device", "dtype", "capability", "absent", "wanted"),
    [
        ("cpu", torch.bfloat16, (9, 0), (), "sdpa"),
        ("mps", torch.float16, (9, 0), (), "sdpa"),
        ("cuda", torch.float32, (9, 0), (), "sdpa"),
        ("cuda", torch.bfloat16, (9, 0), (), "varlen"),
        ("cuda", torch.float16, (8, 0), (), "varlen"),
        ("cuda", torch.float16, (7, 5), (), "sdpa"),
        ("cuda", torch.float16, (8, 0), ("varlen",), "flash-attn"),
        ("cuda", torch.float16, (8, 0), ("varlen", "flash-attn"), "sdpa"),
    ],
)
def test_the_rule_of_choice(monkeypatch, no_cache, device, dtype, capability, absent, wanted):
    half_on_a_new_gpu(monkeypatch, capability)
    with monkeypatch.context() as patch:
        patch.setattr(attention, "missing", lambda name: "absent" if name in absent else None)
        assert choose_backend(torch.device(device), dtype) == wanted


def test_a_slow_choice_is_logged(monkeypatch, no_cache, caplog):
    half_on_a_new_gpu(monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(attention, "missing", lambda name: f"no {name}")
        choose_backend(CUDA, torch.bfloat16)
    assert "one sequence at a time: no varlen; no flash-attn" in caplog.text


def test_a_backend_that_is_not_to_be_had_is_refused(monkeypatch, no_cache):
    *qkv, sequences = drawn([3])
    with pytest.raises(UserError, match="varlen: it takes float16 or bfloat16 on CUDA, not"):
        attend(*qkv, sequences, "varlen")
    monkeypatch.setattr(attention, "unfit", lambda *_: None)
    monkeypatch.setitem(sys.modules, "flash_attn", None)
    monkeypatch.setattr(attention.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="flash-attn is not installed"):
        attend_lse(*qkv, sequences, "flash-attn")
    with pytest.raises(UserError, match=r"has no torch\.nn\.attention\.varlen"):
        attend_lse(*qkv, sequences, "varlen")


def kernel_reference(query, key, value, offsets, offsets_k, longest, longest_k, scale):
    """What both kernels compute, and what they ask of their arguments."""
    lengths = offsets.diff().tolist()
    assert offsets is offsets_k
    assert offsets.dtype == torch.int32
    assert longest == longest_k == max(lengths)
    assert query.shape[-1] % 8 == 0
    scaled = query * (scale * query.shape[-1] ** 0.5)
    out, lse = dense(scaled, key, value, lengths)
    return out, lse


def fake_varlen(lse_of):
    def varlen_attn(
        query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, return_aux=None, scale=None
    ):
        out, lse = kernel_reference(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, scale)
        return (out, lse_of(lse)) if return_aux is not None and return_aux.lse else out

    return varlen_attn


def fake_flash(lse_of):
    def flash_attn_varlen_func(
        q,
        k,
        v,
        cu_seqlens_q,
        cu_seqlens_k,
        max_seqlen_q,
        max_seqlen_k,
        dropout_p=0.0,
        softmax_scale=None,
        causal=False,
        return_attn_probs=False,
    ):
        out, lse = kernel_reference(
            q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, softmax_scale
        )
        return (out, lse_of(lse), None) if return_attn_probs else out

    return flash_attn_varlen_func


def use_fake(monkeypatch, backend, lse_of):
    monkeypatch.setattr(attention, "unfit", lambda *_: None)
    if backend == "varlen":
        monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", fake_varlen(lse_of))
        return
    module = ModuleType("flash_attn")
    module.__spec__ = ModuleSpec("flash_attn", None)
    module.flash_attn_varlen_func = fake_flash(lse_of)
    monkeypatch.setitem(sys.modules, "flash_attn", module)


@pytest.mark.parametrize("backend", ["varlen", "flash-attn"])
@pytest.mark.parametrize(("heads", "channels"), [(2, 8), (2, 12), (1, 8)])
@pytest.mark.parametrize("lse_of", [lambda x: x.T, lambda x: x, lambda x: x[..., None]])
def test_kernels_are_called_as_they_ask(monkeypatch, no_cache, backend, heads, channels, lse_of):
    use_fake(monkeypatch, backend, lse_of)
    *qkv, sequences = drawn([3, 1, 4], heads, channels)
    wanted, wanted_lse = attend_lse(*qkv, sequences, "sdpa")
    out, lse = attend_lse(*qkv, sequences, backend)
    plain = attend(*qkv, sequences, backend)
    assert not lse.requires_grad
    torch.testing.assert_close(lse, wanted_lse)
    for got in (out, plain):
        torch.testing.assert_close(got, wanted)
        for a, b in zip(gradients(got, qkv), gradients(wanted, qkv), strict=True):
            torch.testing.assert_close(a, b)


def test_a_padded_log_sum_exp_is_refused(monkeypatch, no_cache):
    use_fake(monkeypatch, "flash-attn", lambda lse: torch.zeros(2, lse.shape[1], 9))
    *qkv, sequences = drawn([3, 4])
    with pytest.raises(UserError, match="Update flash-attn or PyTorch"):
        attend_lse(*qkv, sequences, "flash-attn")


def test_torchs_kernel_still_has_the_arguments_that_are_given_to_it(no_cache):
    pytest.importorskip("torch.nn.attention.varlen")
    assert attention.missing("varlen") is None


@pytest.mark.parametrize("channels", [48, 12])
def test_torchs_kernel_takes_what_it_is_given(monkeypatch, no_cache, channels):
    """On the meta device: its own checks and shapes, and no numbers."""
    pytest.importorskip("torch.nn.attention.varlen")
    monkeypatch.setattr(attention, "unfit", lambda *_: None)
    mixed = torch.empty(7, 3, 2, channels, dtype=torch.bfloat16, device="meta", requires_grad=True)
    sequences = Sequences.of([3, 4], "meta")
    out, lse = attend_lse(*mixed.unbind(1), sequences, "varlen")
    assert out.shape == (7, 2, channels)
    assert lse.shape == (7, 2)
    assert not lse.requires_grad
    out.sum().backward()
    assert mixed.grad.shape == mixed.shape
    assert attend(*mixed.unbind(1), sequences, "varlen").shape == (7, 2, channels)


def test_lengths_do_not_make_torch_compile_again():
    def block(tokens, sequences):
        return attend(tokens * 2, tokens, tokens, sequences) + tokens

    torch._dynamo.reset()
    counter = CompileCounter()
    compiled = torch.compile(block, backend=counter, dynamic=True)
    for lengths in ([3, 4], [5, 6, 7], [9], [2, 2, 2, 2], [4, 3]):
        tokens, *_, sequences = drawn(lengths)
        torch.testing.assert_close(compiled(tokens, sequences), block(tokens, sequences))
    torch._dynamo.reset()
    assert counter.frame_count == 2  # before attention and after it


def test_an_opaque_function_is_the_function():
    @opaque
    def doubled(x: int) -> int:
        """Twice x."""
        return 2 * x

    assert doubled(2) == 4
    assert doubled.__doc__ == "Twice x."


def test_importing_attention_does_not_load_the_compiler():
    code = "import sys, slidemill.pretrain.dilated; sys.exit('torch._dynamo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

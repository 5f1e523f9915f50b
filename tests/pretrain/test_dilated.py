import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from slidemill.pretrain.attention import attend, attend_lse
from slidemill.pretrain.dilated import Dilation, _branches, attend_dilated
from slidemill.pretrain.packing import Sequences


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def drawn(lengths, heads=4, channels=3, seed=0):
    rng = np.random.default_rng(seed)
    shape = (sum(lengths), heads, channels)
    made = [torch.from_numpy(rng.normal(size=shape)).requires_grad_() for _ in range(3)]
    return (*made, Sequences.of(lengths))


def one_branch(q, k, v, segment, ratio, offset, padding):
    """One head of one branch on one sequence (N, d), token by token: outputs and denominators."""
    count = len(q)
    width = min(segment, count)
    kept = [p for p in range(count) if p % width % ratio == offset]
    outs = [q.new_zeros(v.shape[1])] * count
    lses = [q.new_tensor(-1e8)] * count
    for p in kept:
        start = p // width * width
        near = [other for other in kept if start <= other < start + width]
        logits = k[near] @ q[p] / math.sqrt(q.shape[1])
        values = v[near]
        if padding:
            places = range(math.ceil(width / ratio) * ratio)
            zeros = sum(
                place % ratio == offset and (place >= width or start + place >= count)
                for place in places
            )
            logits = torch.cat([logits, logits.new_zeros(zeros)])
            values = torch.cat([values, values.new_zeros((zeros, v.shape[1]))])
        outs[p] = logits.softmax(0) @ values
        lses[p] = logits.logsumexp(0)
    return torch.stack(outs), torch.stack(lses)


def dense(query, key, value, lengths, dilation):
    """The definition, for each sequence and head."""
    heads = query.shape[1]
    sequences = []
    for q, k, v in zip(*(x.split(lengths) for x in (query, key, value)), strict=True):
        by_head = []
        for h in range(heads):
            branches = [
                one_branch(
                    q[:, h],
                    k[:, h],
                    v[:, h],
                    w,
                    r,
                    h // math.ceil(heads / r),
                    dilation.padding_keys,
                )
                for w, r in zip(dilation.segments, dilation.ratios, strict=True)
            ]
            shares = torch.stack([lse for _, lse in branches]).detach().softmax(0)
            by_head.append(
                sum(s[:, None] * out for s, (out, _) in zip(shares, branches, strict=True))
            )
        sequences.append(torch.stack(by_head, dim=1))
    return torch.cat(sequences)


def agree(lengths, heads, dilation, seed=0):
    *qkv, sequences = drawn(lengths, heads, seed=seed)
    got = attend_dilated(*qkv, sequences, dilation)
    wanted = dense(*qkv, lengths, dilation)
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-10)
    weights = torch.linspace(-1, 1, got.numel(), dtype=got.dtype).view_as(got)
    for a, b in zip(
        torch.autograd.grad((got * weights).sum(), qkv),
        torch.autograd.grad((wanted * weights).sum(), qkv),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


@pytest.mark.parametrize("padding", [False, True])
@pytest.mark.parametrize("heads", [4, 6, 16])
@pytest.mark.parametrize("count", [1, 7, 8, 9, 16, 23, 32, 33])
def test_outputs_and_gradients_equal_the_definition(count, heads, padding):
    agree([count], heads, Dilation((8, 16, 32), (1, 2, 4), padding))


@pytest.mark.parametrize("padding", [False, True])
@pytest.mark.parametrize("heads", [4, 6, 16])
def test_several_sequences_equal_the_definition(heads, padding):
    agree([5, 1, 17, 8, 8, 2], heads, Dilation((4, 7, 12), (1, 3, 16), padding))


branches = st.lists(st.tuples(st.integers(1, 12), st.integers(1, 6)), min_size=1, max_size=3)


@given(
    st.lists(st.integers(1, 14), min_size=1, max_size=4),
    st.integers(1, 7),
    branches,
    st.booleans(),
)
def test_any_branches_equal_the_definition(lengths, heads, chosen, padding):
    segments, ratios = zip(*chosen, strict=True)
    agree(lengths, heads, Dilation(segments, ratios, padding))


@given(st.lists(st.integers(1, 40), min_size=2, max_size=5), st.booleans(), st.integers(0, 9))
def test_a_bag_alone_and_in_a_batch_give_the_same(lengths, padding, seed):
    dilation = Dilation((8, 16, 32), (1, 2, 4), padding)
    *qkv, sequences = drawn(lengths, seed=seed)
    together = attend_dilated(*qkv, sequences, dilation).split(lengths)
    for i, (q, k, v) in enumerate(zip(*(x.split(lengths) for x in qkv), strict=True)):
        alone = attend_dilated(q, k, v, Sequences.of([lengths[i]]), dilation)
        torch.testing.assert_close(alone, together[i], rtol=0, atol=1e-12)


def test_one_branch_over_all_is_exact_attention():
    *qkv, sequences = drawn([5, 9])
    got = attend_dilated(*qkv, sequences, Dilation((16,), (1,)))
    torch.testing.assert_close(got, attend(*qkv, sequences), rtol=0, atol=1e-12)


def test_padding_takes_part_only_where_it_is_asked_to():
    *qkv, sequences = drawn([9])
    plain, padded = (
        attend_dilated(*qkv, sequences, Dilation((8,), (1,), padding)) for padding in (False, True)
    )
    torch.testing.assert_close(plain[8], qkv[2][8])  # alone in its segment
    torch.testing.assert_close(plain[:8], padded[:8])
    share = (qkv[0][8] * qkv[1][8]).sum(-1).div(math.sqrt(3)).exp()
    wanted = qkv[2][8] * (share / (share + 7))[:, None]
    torch.testing.assert_close(padded[8], wanted)


def test_a_token_that_no_branch_keeps_gets_nothing():
    *qkv, sequences = drawn([6], heads=2)
    got = attend_dilated(*qkv, sequences, Dilation((6,), (2,)))
    assert (got[1::2, 0] == 0).all()
    assert (got[0::2, 1] == 0).all()
    assert (got[0::2, 0] != 0).all()


def test_views_of_one_projection_are_taken():
    mixed = torch.from_numpy(np.random.default_rng(0).normal(size=(11, 36)))
    qkv = mixed.unflatten(-1, (3, 4, 3)).unbind(1)
    dilation = Dilation((4, 8), (1, 2))
    got = attend_dilated(*qkv, Sequences.of([11]), dilation)
    torch.testing.assert_close(got, dense(*qkv, [11], dilation), rtol=0, atol=1e-12)


@pytest.mark.parametrize("padding", [False, True])
def test_half_precision_is_mixed_in_single(padding):
    *qkv, sequences = drawn([33, 7], channels=8)
    dilation = Dilation((8, 16, 32), (1, 2, 4), padding)
    half = [x.detach().bfloat16() for x in qkv]
    got = attend_dilated(*half, sequences, dilation)
    wanted = attend_dilated(*(x.double() for x in half), sequences, dilation)
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got.double(), wanted, rtol=0.02, atol=0.02)


def test_tables_made_for_inference_serve_training():
    _branches.cache_clear()
    *qkv, sequences = drawn([9, 4])
    dilation = Dilation((4, 8), (1, 2))
    with torch.inference_mode():
        attend_dilated(*qkv, sequences, dilation)
    assert _branches.cache_info().currsize == 1
    attend_dilated(*qkv, sequences, dilation).sum().backward()
    assert _branches.cache_info().misses == 1
    assert all(x.grad.abs().sum() > 0 for x in qkv)


def test_the_backend_is_handed_on(monkeypatch):
    asked = []

    def listening(*args):
        asked.append(args[4])
        return attend_lse(*args[:4])

    monkeypatch.setattr("slidemill.pretrain.dilated.attend_lse", listening)
    *qkv, sequences = drawn([9])
    attend_dilated(*qkv, sequences, Dilation((4, 8), (1, 2)), "varlen")
    assert asked == ["varlen", "varlen"]


@pytest.mark.parametrize(
    ("segments", "ratios"), [((), ()), ((4, 8), (1,)), ((0,), (1,)), ((4,), (0,))]
)
def test_branches_that_are_none_are_refused(segments, ratios):
    with pytest.raises(ValueError, match="segment"):
        Dilation(segments, ratios)


def test_shapes_that_do_not_belong_together_are_refused():
    query, key, value, _ = drawn([5])
    with pytest.raises(ValueError, match="sequences of 4 tokens"):
        attend_dilated(query, key, value, Sequences.of([4]), Dilation((4,), (1,)))

import hashlib
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slidemill.artifacts.digest import (
    bucket_of,
    canonical_json,
    digest_of,
    file_sha256,
    fingerprint,
)

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=10,
)  # fmt: skip


@given(st.dictionaries(st.text(), values))
def test_order_of_keys_does_not_matter(mapping):
    assert digest_of(mapping) == digest_of(dict(reversed(mapping.items())))


@given(values)
def test_lists_and_tuples_are_one(value):
    assert digest_of([value]) == digest_of((value,))


def test_known_digest():
    assert canonical_json({"b": 1.5, "a": [True, None, "ä"]}) == '{"a":[true,null,"ä"],"b":1.5}'
    assert digest_of({}) == hashlib.sha256(b"{}").hexdigest()


def test_not_a_number_is_refused():
    with pytest.raises(ValueError, match="JSON compliant"):
        digest_of(float("nan"))


def test_buckets_are_the_same_in_every_process():
    ids = [f"slide-{i}" for i in range(50)]
    code = (
        f"from slidemill.artifacts.digest import bucket_of; print([bucket_of(i, 7) for i in {ids}])"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert printed.stdout.strip() == str([bucket_of(i, 7) for i in ids])


@given(st.integers(1, 500))
def test_buckets_are_in_range(buckets):
    assert 0 <= bucket_of("slide", buckets) < buckets


def test_fingerprint_sees_length_head_and_tail(tmp_path):
    path = tmp_path / "slide"
    path.write_bytes(bytes(3_000_000))
    whole = fingerprint(path)
    for position in (0, 2_999_999):
        data = bytearray(3_000_000)
        data[position] = 1
        path.write_bytes(data)
        assert fingerprint(path) != whole
    path.write_bytes(bytes(2_999_999))
    assert fingerprint(path) != whole
    path.write_bytes(b"")
    assert fingerprint(path)


def test_file_sha256(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"abc")
    assert file_sha256(path) == hashlib.sha256(b"abc").hexdigest()

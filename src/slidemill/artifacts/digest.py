"""Digests: what a result is, as a sha256 of canonical JSON.

A stage's digest covers everything that changes values (versions, parameters, upstream digests,
weights) and nothing that does not (paths, batch size, threads, bucket count, package version).
"""

import hashlib
import json
from pathlib import Path

from pydantic import BaseModel

SHORT = 10
"""Digits of a digest that appear in the name of a folder."""


def canonical_json(value: object) -> str:
    """JSON with sorted keys and no blanks: equal values give equal text.

    Tuples become lists and pydantic models their plain values. NaN and infinities are refused,
    since JSON has no word for them.

    Raises:
        ValueError: If a number is not finite.
        TypeError: If something is not JSON.
    """
    return json.dumps(
        value,
        sort_keys=True,
        separators=(",", ":"),
        ensure_ascii=False,
        allow_nan=False,
        default=_plain,
    )


def _plain(value: object) -> object:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    raise TypeError(f"{type(value).__name__} has no canonical JSON")


def digest_of(value: object) -> str:
    """Hexadecimal sha256 of the canonical JSON of `value`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """Hexadecimal sha256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def fingerprint(path: Path, windows: int = 16, window_bytes: int = 65536) -> str:
    """Identity of a slide file from its length and evenly spaced windows of its bytes.

    A whole-slide image has gigabytes, a change of it (another scan, a torn copy) moves its length
    or its header or its tail: 1 MiB at the most is read.

    Returns:
        Hexadecimal sha256 over the length and the windows, first and last bytes included.
    """
    size = path.stat().st_size
    state = hashlib.sha256(str(size).encode())
    span = max(size - window_bytes, 0)
    with path.open("rb") as stream:
        for start in sorted({span * i // (windows - 1) for i in range(windows)}):
            stream.seek(start)
            state.update(stream.read(window_bytes))
    return state.hexdigest()


def bucket_of(slide_id: str, buckets: int) -> int:
    """Bucket of a slide: sha256 of its id modulo the number of buckets.

    It depends on nothing but the id, so an added slide changes one bucket.
    """
    return int.from_bytes(hashlib.sha256(slide_id.encode()).digest(), "big") % buckets

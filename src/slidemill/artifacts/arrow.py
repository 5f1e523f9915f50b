"""Between NumPy and Arrow, without pandas.

Arrow's own conversions import pandas at their first use, only to ask whether they were given one of
its objects: half a second and 50 MB in every job of the per-slide stages. These cover what
artifacts hold: whole numbers, floats, truth values and text, any of them missing.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa


def to_arrow(values: Any, kind: pa.DataType) -> pa.Array:  # noqa: ANN401 - lists, arrays, series
    """Values as an Arrow array.

    Args:
        values: A list, an array or a pandas series; None and NaN are missing values.
        kind: Type of the array.

    Raises:
        TypeError: If values are not of that type.
        ValueError: If whole numbers are asked for, and some are not, or are out of range.
    """
    if pa.types.is_string(kind):
        return _text(values)
    dtype = np.dtype(kind.to_pandas_dtype())
    plain = np.asarray(values)
    if plain.dtype == object:
        missing = np.array([_is_missing(value) for value in plain], np.bool_)
        plain = np.array([value for value in plain if not _is_missing(value)])
    else:
        missing = np.isnan(plain) if plain.dtype.kind == "f" else np.zeros(plain.shape, np.bool_)
        plain = plain[~missing]
    data = np.zeros(len(missing), dtype)
    data[~missing] = _cast(plain, dtype)
    buffer = _bits(data) if dtype == np.bool_ else pa.py_buffer(data)
    return pa.Array.from_buffers(kind, len(data), [_validity(missing), buffer])


def to_numpy(column: pa.ChunkedArray) -> npt.NDArray[Any]:
    """A column as a NumPy array.

    Missing floats are NaN; text, and whole numbers and truth values some of which are missing,
    become objects with None.
    """
    if pa.types.is_string(column.type):
        return np.array(column.to_pylist(), dtype=object)
    dtype = np.dtype(column.type.to_pandas_dtype())
    if column.null_count and dtype.kind != "f":
        return np.array(column.to_pylist(), dtype=object)
    return np.concatenate([np.empty(0, dtype), *(_chunk(chunk, dtype) for chunk in column.chunks)])


def _chunk(chunk: pa.Array, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    validity, data = chunk.buffers()
    stop = chunk.offset + len(chunk)
    if dtype == np.bool_:
        return _unpacked(data, stop)[chunk.offset :]
    values = np.frombuffer(data, dtype, stop)[chunk.offset :]
    if chunk.null_count:
        values = np.where(_unpacked(validity, stop)[chunk.offset :], values, np.nan).astype(dtype)
    return values


def _unpacked(buffer: pa.Buffer, count: int) -> npt.NDArray[np.bool_]:
    return np.unpackbits(np.frombuffer(buffer, np.uint8), count=count, bitorder="little").astype(
        np.bool_
    )


def _text(values: Any) -> pa.Array:  # noqa: ANN401 - as above
    found = [None if _is_missing(value) else value for value in values]
    wrong = next(
        (value for value in found if value is not None and not isinstance(value, str)), None
    )
    if wrong is not None:
        raise TypeError(f"{wrong!r} is no text")
    encoded = [(value or "").encode() for value in found]
    offsets = np.concatenate([[0], np.cumsum([len(one) for one in encoded], dtype=np.int64)])
    if offsets[-1] >= 2**31:
        raise ValueError("more than 2 GB of text in a column")
    return pa.StringArray.from_buffers(
        len(found),
        pa.py_buffer(offsets.astype(np.int32)),
        pa.py_buffer(b"".join(encoded)),
        _validity(np.array([value is None for value in found], np.bool_)),
    )


def _cast(values: npt.NDArray[Any], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    if not values.size:
        return values.astype(dtype)
    if values.dtype.kind not in "biuf" or (dtype.kind == "b") != (values.dtype.kind == "b"):
        raise TypeError(f"{values.dtype} values where {dtype} is needed")
    with np.errstate(invalid="ignore", over="ignore"):
        cast = values.astype(dtype)
    if dtype.kind in "iu" and not np.array_equal(cast, values):
        raise ValueError(f"values that {dtype} cannot hold")
    return cast


def _validity(missing: npt.NDArray[np.bool_]) -> pa.Buffer | None:
    return _bits(~missing) if missing.any() else None


def _bits(values: npt.NDArray[np.bool_]) -> pa.Buffer:
    return pa.py_buffer(np.packbits(values, bitorder="little"))


def _is_missing(value: object) -> bool:
    # NaN is the one float that differs from itself; pandas' NA has no truth value at all.
    if value is None or type(value).__name__ == "NAType":
        return True
    return isinstance(value, float) and value != value

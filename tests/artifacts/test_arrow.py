import subprocess
import sys

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slidemill.artifacts.arrow import to_arrow, to_numpy

KINDS = {
    pa.int64(): st.integers(-(2**63), 2**63 - 1),
    pa.float64(): st.floats(allow_nan=False),
    pa.float32(): st.floats(width=32, allow_nan=False),
    pa.bool_(): st.booleans(),
    pa.string(): st.text(),
}


@pytest.mark.parametrize("kind", KINDS, ids=str)
@given(data=st.data())
def test_values_survive_as_arrows_own_conversion_has_them(kind, data):
    values = data.draw(st.lists(KINDS[kind] | st.none(), max_size=20))
    made = to_arrow(values, kind)
    made.validate(full=True)
    assert made.equals(pa.array(values, kind))
    cut = data.draw(st.integers(0, len(values)))
    column = pa.chunked_array([made[:cut], made[cut:]], kind)
    back = to_numpy(column)
    assert [None if x is None or x != x else x for x in back.tolist()] == column.to_pylist()


@given(st.lists(st.floats(width=32)))
def test_arrays_and_series_are_taken_and_nan_is_missing(values):
    array = np.array(values, np.float32)
    expected = pa.array(array, from_pandas=True)
    assert to_arrow(array, pa.float32()).equals(expected)
    assert to_arrow(pd.Series(array, dtype="float32"), pa.float32()).equals(expected)


def test_series_of_text_and_of_nullable_numbers():
    assert to_arrow(pd.Series(["a", None, "ü"]), pa.string()).to_pylist() == ["a", None, "ü"]
    assert to_arrow(pd.Series([1, None], dtype="Int64"), pa.int64()).to_pylist() == [1, None]
    assert to_arrow(pd.Series([True, False]), pa.bool_()).to_pylist() == [True, False]
    assert to_arrow(np.array([1, 2], np.int32), pa.int64()).to_pylist() == [1, 2]
    assert to_arrow([2.0, 3.0], pa.int64()).to_pylist() == [2, 3]


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["a"], pa.int64()),
        ([1.5], pa.int64()),
        ([1], pa.string()),
        ([1.0], pa.bool_()),
        ([True], pa.int64()),
        ([2**40], pa.int32()),
    ],
)
def test_other_types_are_refused(values, kind):
    with pytest.raises((TypeError, ValueError)):
        to_arrow(values, kind)


def test_pandas_is_not_imported(tmp_path):
    code = (
        "import sys; import numpy as np; from pathlib import Path\n"
        "from slidemill.artifacts import formats\n"
        "from slidemill.artifacts.parquet import read_columns, read_rows, write_parquet\n"
        "from slidemill.artifacts.provenance import Stamp\n"
        "path = Path(sys.argv[1])\n"
        "columns = {'x': np.arange(3), 'y': [1, 2, 3]}\n"
        "write_parquet(path, columns, formats.COORDINATES, Stamp('d', 'i'))\n"
        "assert read_columns(path, 'coordinates')['y'].tolist() == [1, 2, 3]\n"
        "assert read_rows(path, 'coordinates')[2] == {'x': 2, 'y': 3}\n"
        "assert 'pandas' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "x.parquet")], check=True)

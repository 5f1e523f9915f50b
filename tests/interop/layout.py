"""What an HDF5 file is made of, as plain values that can be compared."""

import h5py


def layout_of(path, without=frozenset(), values=None):
    """Datasets with dtypes, chunks and attributes; the numbers too, of those named in values."""
    found = {}
    with h5py.File(path) as file:
        assert not file.attrs
        for name, dataset in file.items():
            attributes = {}
            for key in sorted(set(dataset.attrs) - set(without)):
                kept = dataset.attrs.get_id(key)
                value = dataset.attrs[key]
                plain = value.tolist() if hasattr(value, "tolist") else value
                attributes[key] = (str(kept.dtype), kept.shape, plain)
            found[name] = {
                "shape": dataset.shape,
                "dtype": dataset.dtype.str,
                "chunks": dataset.chunks,
                "maxshape": dataset.maxshape,
                "compression": dataset.compression,
                "attributes": attributes,
                "all": sorted(dataset.attrs),
            }
            if values is None or name in values:
                found[name]["values"] = dataset[:].tolist()
    return found

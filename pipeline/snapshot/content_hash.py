"""What a table says, hashed: the same values give the same digest, however Arrow lays them out in memory.

Validity, lengths and values go in column by column; what lies under a null, before an offset or behind the last value
does not count. Far cheaper than to spell out every row.
"""

from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray


class Digest(Protocol):
    """A hash under way (`hashlib.sha256()`)."""

    def update(self, data: bytes, /) -> None: ...


def add_table(digest: Digest, table: pa.Table) -> None:
    """Add every column of `table`, in order."""
    for column in table.columns:
        add_array(digest, column.combine_chunks() if column.num_chunks != 1 else column.chunk(0))


def add_array(digest: Digest, array: pa.Array) -> None:
    """Add one array: strings, numbers, times, booleans, and lists and structs of them."""
    kind = array.type
    digest.update(len(array).to_bytes(8, "little"))
    digest.update(np.packbits(array.is_valid().to_numpy(zero_copy_only=False)).tobytes())
    if pa.types.is_list(kind):
        digest.update(_numbers(pc.list_value_length(array)))
        add_array(digest, array.flatten())
    elif pa.types.is_struct(kind):
        for child in array.flatten():
            add_array(digest, child)
    elif pa.types.is_string(kind) or pa.types.is_binary(kind):
        digest.update(_numbers(pc.binary_length(array)))
        digest.update(_text(array))
    elif pa.types.is_timestamp(kind):
        digest.update(_numbers(array.cast(pa.int64())))
    else:
        digest.update(_numbers(array))


def _numbers(array: pa.Array) -> bytes:
    filled = array.fill_null(False if pa.types.is_boolean(array.type) else 0)
    values: NDArray[Any] = filled.to_numpy(zero_copy_only=False)
    return values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()


def _text(array: pa.Array) -> bytes:
    """All values, one after another."""
    empty: Any = "" if pa.types.is_string(array.type) else b""
    joined = empty.join(each for each in array.to_pylist() if each is not None)
    return joined.encode() if isinstance(joined, str) else bytes(joined)

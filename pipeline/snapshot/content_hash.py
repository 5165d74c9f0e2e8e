"""What a table says, hashed: the same values give the same digest, however Arrow lays them out in memory.

Validity, lengths and values go in column by column; what lies under a null, before an offset or behind the last value
does not count. Far cheaper than to spell out every row.
"""

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray


class Digest(Protocol):
    """A hash under way (`hashlib.sha256()`)."""

    def update(self, data: bytes | memoryview, /) -> None: ...


def add_table(digest: Digest, table: pa.Table) -> None:
    """Add every column of `table`, in order."""
    for column in table.columns:
        for part in _parts(column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)):
            digest.update(part)


def _parts(array: pa.Array) -> Iterator[bytes | memoryview]:
    """Of one array: strings, numbers, times, booleans, and lists and structs of them."""
    kind = array.type
    yield len(array).to_bytes(8, "little")
    yield np.packbits(array.is_valid().to_numpy(zero_copy_only=False)).tobytes()
    if pa.types.is_list(kind):
        yield _numbers(pc.list_value_length(array))
        yield from _parts(array.flatten())
    elif pa.types.is_struct(kind):
        for child in array.flatten():
            yield from _parts(child)
    elif pa.types.is_string(kind) or pa.types.is_binary(kind):
        yield _numbers(pc.binary_length(array))
        yield _text(array)
    elif pa.types.is_timestamp(kind):
        yield _numbers(array.view(pa.int64()))
    else:
        yield _numbers(array)


def _numbers(array: pa.Array) -> bytes:
    filled = array.fill_null(False if pa.types.is_boolean(array.type) else 0)
    values: NDArray[Any] = filled.to_numpy(zero_copy_only=False)
    return values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()


def _text(array: pa.Array) -> bytes | memoryview:
    """All values, one after another: as they lie in memory, once nothing is under a null."""
    there = array.drop_null() if array.null_count else array
    if not len(there):
        return b""
    _, offsets, values = there.buffers()
    ends = np.frombuffer(offsets, np.int32)
    return memoryview(values)[ends[there.offset] : ends[there.offset + len(there)]]

"""TensorBoard event files of scalars, written without TensorFlow.

The format is TFRecord (length, masked CRC-32C of the length, data, masked CRC-32C of
the data) around `Event` messages of tensorflow/core/util/event.proto. A dependency
would bring more code than the sixty lines below. Columns have their descriptions from
`runs.columns`.
"""

import math
import os
import struct
import time
from collections.abc import Iterator, Mapping
from typing import Any

from gru_mem_jax import storage
from gru_mem_jax.errors import InputError
from gru_mem_jax.runs import columns
from gru_mem_jax.runs.appended import open_appended

_NAME = "events.out.tfevents."
_SCALAR = 1  # DataClass
_STATUS_START = 1  # SessionLog: TensorBoard forgets rows from this step on


class EventWriter:
    """Writes scalars to a new event file of a folder.

    Args:
      folder: created if it does not exist.
      first_step: of a resumed run: earlier files are void from this step on.
      clock: seconds since 1970.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        first_step: int | None = None,
        clock=time.time,
    ):
        folder = storage.locate(folder)
        self._clock = clock
        self._described: set[str] = set()
        try:
            storage.make_folder(folder)
            names = storage.names(folder)
            number = sum(name.startswith(_NAME) for name in names)
            # TensorBoard reads the files of a folder in the order of their names.
            self.path = folder / f"{_NAME}{int(clock()):010d}.{number:06d}"
            self._file = open_appended(self.path)
            self._put(0, _bytes(3, b"brain.Event:2"))
            if first_step is not None:
                self._put(first_step, _bytes(7, _integer(1, _STATUS_START)))
        except OSError as error:
            raise InputError(f"{folder}: {error.strerror}") from error

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Writes the numbers of a row, without strings, booleans and `step`.

        Raises:
          OSError: the file cannot be written.
        """
        summary = b"".join(
            _bytes(
                1,
                _bytes(1, name.encode())
                + _float(2, float(value))
                + self._metadata(name),
            )
            for name, value in values.items()
            if name != "step" and isinstance(value, (int, float))
            if not isinstance(value, bool) and math.isfinite(value)
        )
        if summary:
            self._put(step, _bytes(5, summary))

    def _metadata(self, name: str) -> bytes:
        """SummaryMetadata of a column at its first value, empty later."""
        column = columns.find(name)
        if column is None or name in self._described:
            return b""
        self._described.add(name)
        plugin = _bytes(1, _bytes(1, b"scalars"))
        text = _bytes(3, column.description.encode())
        return _bytes(9, plugin + text + _integer(4, _SCALAR))

    def _put(self, step: int, content: bytes) -> None:
        event = _double(1, self._clock()) + _integer(2, step) + content
        self._file.append(frame(event))


def frame(data: bytes) -> bytes:
    """A TFRecord."""
    length = struct.pack("<Q", len(data))
    return b"".join(
        (
            length,
            struct.pack("<I", masked_crc(length)),
            data,
            struct.pack("<I", masked_crc(data)),
        )
    )


def masked_crc(data: bytes) -> int:
    """CRC-32C (Castagnoli), rotated and shifted as TFRecord wants it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def _table() -> Iterator[int]:
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
        yield crc


_TABLE = tuple(_table())


def _varint(value: int) -> bytes:
    value &= 0xFFFFFFFFFFFFFFFF
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _integer(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _double(field: int, value: float) -> bytes:
    return _varint(field << 3 | 1) + struct.pack("<d", value)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _float(field: int, value: float) -> bytes:
    return _varint(field << 3 | 5) + struct.pack("<f", value)

"""A JSON file that is a list of records, read record by record."""

import codecs
import hashlib
import json
from collections.abc import Iterator
from typing import Any, BinaryIO

from gru_mem_jax.data import files
from gru_mem_jax.errors import InputError

_BLOCK = 1 << 20  # bytes
_LONGEST = 1 << 26  # characters of one record
_WHITE = " \t\n\r"
_BEHIND = frozenset(f"{_WHITE},]")  # a number


class JsonList(Iterator[Any]):
    """The values of the list; memory is that of one of them.

    Args:
      path: of a regular file, or of an object in a bucket.

    Raises:
      InputError: while iterating: the file cannot be read, or is not JSON, or is no
        list; says where.
    """

    def __init__(self, path: str):
        self._path = path
        self._hash = hashlib.sha256()
        self._values = self._read()

    def __next__(self) -> Any:
        return next(self._values)

    def sha256(self) -> str:
        """Of what was read: that of the file behind the last value."""
        return self._hash.hexdigest()

    def _read(self) -> Iterator[Any]:
        with files.opened(self._path) as file:
            text = _Text(file, self._hash)
            try:
                if (first := text.peek()) and first != "[":
                    raise InputError(
                        f"{self._path}: must be a list, begins with {first}"
                    )
                text.take("[")
                if text.peek() != "]":
                    yield text.value()
                    while text.peek() == ",":
                        text.take(",")
                        yield text.value()
                text.take("]")
                if text.peek():
                    raise json.JSONDecodeError("Extra data", "", text.place)
            except UnicodeDecodeError as error:
                raise InputError(f"{self._path}: is not UTF-8 ({error})") from None
            except RecursionError:
                raise InputError(
                    f"{self._path}: is not JSON (nested too deeply: char {text.place})"
                ) from None
            except ValueError as error:
                if isinstance(error, InputError):
                    raise
                reason = getattr(error, "msg", error)
                raise InputError(
                    f"{self._path}: is not JSON ({reason}: char {text.place})"
                ) from None


class _Text:
    """The text of a file, from a place on that moves forward."""

    def __init__(self, file: BinaryIO, digest: Any):
        self._file, self._digest = file, digest
        self._utf8 = codecs.getincrementaldecoder("utf-8-sig")()
        self._json = json.JSONDecoder()
        self._buffer, self._at = "", 0
        self._before = 0  # characters of the file before the buffer
        self._ended = False

    @property
    def place(self) -> int:
        """In characters of the file."""
        return self._before + self._at

    def peek(self) -> str:
        """The next character behind white space; "" at the end."""
        while True:
            rest = self._buffer[self._at : self._at + 256].lstrip(_WHITE)
            if rest:
                self._at = self._buffer.index(rest[0], self._at)
                return rest[0]
            self._at = min(self._at + 256, len(self._buffer))
            if self._at == len(self._buffer) and not self._more():
                return ""

    def take(self, expected: str) -> None:
        """Goes past the next character.

        Raises:
          ValueError: it is another one.
        """
        if self.peek() != expected:
            raise ValueError(f"Expecting {expected!r}")
        self._at += 1

    def value(self) -> Any:
        """The JSON value that comes next.

        Raises:
          ValueError: there is none.
        """
        self.peek()
        while True:
            try:
                value, end = self._json.raw_decode(self._buffer, self._at)
            except ValueError:
                if len(self._buffer) - self._at > _LONGEST or not self._more():
                    raise
                continue
            # A number may go on behind a point, or in the next block.
            behind = self._buffer[end : end + 1]
            if type(value) not in (int, float) or behind in _BEHIND or self._ended:
                self._at = end
                return value
            self._more()

    def _more(self) -> bool:
        """Drops what is behind and reads as much again; whether there was more."""
        data = b"" if self._ended else self._file.read(max(_BLOCK, len(self._buffer)))
        self._ended = not data
        self._digest.update(data)
        self._before += self._at
        self._buffer = self._buffer[self._at :] + self._utf8.decode(data, not data)
        self._at = 0
        return not self._ended

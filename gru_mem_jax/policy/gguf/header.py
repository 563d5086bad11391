"""The header of a GGUF file: metadata and table of tensors, checked as it is scanned.

The format is that of https://github.com/ggml-org/ggml/blob/master/docs/gguf.md,
versions 2 and 3, little-endian. The gguf package's reader takes counts from the file
unchecked, and 2 s and 200 MB for a vocabulary of 49k words.
"""

import dataclasses
import functools
import itertools
import math
import os
import pathlib
import stat
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from gru_mem_jax.errors import PolicyError
from gru_mem_jax.policy.files import lfs_error, lfs_pointer

# Real headers have up to about 15 MB, nearly all of it vocabulary and merges.
_MAX_HEADER = 32 << 20
_MAX_KEYS = 1 << 16
_MAX_TENSORS = 1 << 16
_MAX_ITEMS = 1 << 20
_MAX_NAME = 1 << 16
_MAX_ALIGNMENT = 1 << 16
_MAX_DIMENSIONS = 4
_MOST_KEPT = 4096  # longer arrays are kept only if they are listed here
_KEPT = {
    f"tokenizer.ggml.{name}" for name in ("tokens", "merges", "scores", "token_type")
}
_STRING, _ARRAY = 8, 9
# Formats of struct by the type's number in the file.
_SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
_TENSOR_BYTES = 8 + 4 + 8 + 4 + 8  # of an entry with an empty name
_KEY_BYTES = 8 + 4 + 1


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class GGUFTensor:
    """A tensor of the file.

    Attributes:
      name: in the file.
      shape: slowest axis first, as in Hugging Face (GGUF lists the fastest first).
      quantisation: "F32", "Q4_1", ...: names of `gguf.GGMLQuantizationType`.
      offset: of its first byte in the file.
      nbytes: in the file.
    """

    name: str
    shape: tuple[int, ...]
    quantisation: str
    offset: int
    nbytes: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class GGUFHeader:
    """What a file says before its weights.

    Attributes:
      path: of the file.
      metadata: values by key; arrays as lists (long ones as far as they are used).
      tensors: by name, in the file's order.
    """

    path: pathlib.Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, GGUFTensor]


def read_header(path: str | os.PathLike[str]) -> GGUFHeader:
    """Reads and checks the header; the weights are not touched.

    Raises:
      PolicyError: not a regular file, not GGUF, another version or byte order, cut
        anywhere (also in the weights), a count or size beyond what the file can hold or
        what is read, a key or tensor twice, tensors that overlap, are misaligned or of
        a quantisation that the gguf package cannot undo.
    """
    path = pathlib.Path(path)
    data, size = _begin(path)
    scan = _Scan(path, data, size)
    if data[:4] != b"GGUF":
        raise PolicyError(
            f"{path}: not a GGUF file: expected it to begin with 'GGUF', got "
            f"{data[:4]!r}"
        )
    scan.at = 4
    _check_version(path, scan.number("I", "the version"))
    tensors = scan.count("tensors", _MAX_TENSORS, _TENSOR_BYTES)
    keys = scan.count("metadata keys", _MAX_KEYS, _KEY_BYTES)
    metadata = _metadata(scan, keys)
    table = _tensors(scan, tensors, metadata.get("general.alignment", 32))
    return GGUFHeader(path=path, metadata=metadata, tensors=table)


def _begin(path: pathlib.Path) -> tuple[bytes, int]:
    """The first bytes of the file, which the header must be in, and its size."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb") as file:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise PolicyError(f"{path}: not a regular file, expected a GGUF file")
            data = file.read(min(status.st_size, _MAX_HEADER))
    except IsADirectoryError:
        raise PolicyError(f"{path}: expected a GGUF file, got a folder") from None
    except PolicyError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or str(error)
        raise PolicyError(f"{path}: {reason}") from None
    if lfs_pointer(data[:64]):
        raise lfs_error(path)
    return data, status.st_size


def _check_version(path: pathlib.Path, version: int) -> None:
    if version and version & 0xFFFF == 0:
        raise PolicyError(
            f"{path}: a big-endian GGUF file, which is not read: take the "
            "little-endian one"
        )
    if version not in (2, 3):
        raise PolicyError(
            f"{path}: GGUF version {version} is not read, versions 2 and 3 are: "
            "convert the model again with a current llama.cpp"
        )


class _Scan:
    """Reads values one after the other; nothing beyond the data is touched."""

    def __init__(self, path: pathlib.Path, data: bytes, size: int):
        self.path, self.data, self.size = path, data, size
        self.at = 0

    def need(self, count: int, what: str) -> None:
        """Raises PolicyError unless `count` further bytes are there."""
        end = self.at + count
        if end <= len(self.data):
            return
        if end > self.size:
            raise PolicyError(
                f"{self.path}: cut short, or damaged: {what} would end at byte {end}, "
                f"the file has {self.size}"
            )
        raise PolicyError(
            f"{self.path}: the header goes beyond {_MAX_HEADER} bytes, with {what}; "
            "no more are read"
        )

    def number(self, format_: str, what: str) -> Any:
        size = struct.calcsize(format_)
        self.need(size, what)
        (value,) = struct.unpack_from(f"<{format_}", self.data, self.at)
        self.at += size
        return value

    def count(self, what: str, most: int, least_bytes: int) -> int:
        """A number of things that take `least_bytes` each."""
        count = self.number("Q", f"the number of {what}")
        if count > most:
            raise PolicyError(
                f"{self.path}: says that it has {count} {what}, at most {most} are read"
            )
        self.need(count * least_bytes, f"its {count} {what}")
        return count

    def text(self, what: str, most: int) -> str:
        length = self.number("Q", what)
        if length > most:
            raise PolicyError(
                f"{self.path}: {what} would have {length} bytes, at most {most} are "
                "read"
            )
        self.need(length, what)
        raw = self.data[self.at : self.at + length]
        self.at += length
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            raise PolicyError(f"{self.path}: {what} is not UTF-8 text") from None

    def value(self, key: str) -> Any:
        """The value of a metadata key; None for a long array that is not used."""
        what = f"metadata key {key[:100]!r}"
        kind = self.number("I", what)
        if kind in _SCALARS:
            return self.number(_SCALARS[kind], what)
        if kind == _STRING:
            return self.text(what, 4 << 20)
        if kind != _ARRAY:
            raise PolicyError(f"{self.path}: {what} has type {kind}, which is unknown")
        inner = self.number("I", what)
        if inner == _ARRAY:
            raise PolicyError(f"{self.path}: {what} is an array of arrays: not read")
        if inner != _STRING and inner not in _SCALARS:
            raise PolicyError(
                f"{self.path}: {what} is an array of type {inner}, which is unknown"
            )
        least = 8 if inner == _STRING else struct.calcsize(_SCALARS[inner])
        count = self.count(f"items in {what}", _MAX_ITEMS, least)
        kept = count <= _MOST_KEPT or key in _KEPT
        if inner == _STRING:
            return self._texts(count, what, kept)
        start, self.at = self.at, self.at + count * least
        if not kept:
            return None
        dtype = np.dtype(_SCALARS[inner]).newbyteorder("<")
        return np.frombuffer(self.data, dtype, count, start).tolist()

    def _texts(self, count: int, what: str, kept: bool) -> list[str] | None:
        """As `text`, in a loop without calls: vocabularies are long."""
        found, data, at, end = [], self.data, self.at, len(self.data)
        unpack = struct.Struct("<Q").unpack_from
        for index in range(count):
            if at + 8 > end:
                break
            (length,) = unpack(data, at)
            if length > _MAX_NAME or at + 8 + length > end:
                break
            if kept:
                try:
                    found.append(data[at + 8 : at + 8 + length].decode("utf-8"))
                except UnicodeDecodeError:
                    raise PolicyError(
                        f"{self.path}: item {index} of {what} is not UTF-8 text"
                    ) from None
            at += 8 + length
        else:
            self.at = at
            return found if kept else None
        self.at = at
        self.text(f"item {index} of {what}", _MAX_NAME)
        raise PolicyError(f"{self.path}: item {index} of {what} cannot be read")


def _metadata(scan: _Scan, keys: int) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    for _ in range(keys):
        key = scan.text("a metadata key", _MAX_NAME)
        if key in metadata:
            raise PolicyError(f"{scan.path}: metadata key {key[:100]!r} occurs twice")
        metadata[key] = scan.value(key)
    return metadata


def _tensors(scan: _Scan, count: int, alignment: Any) -> dict[str, GGUFTensor]:
    path = scan.path
    if (
        type(alignment) is not int
        or not 0 < alignment <= _MAX_ALIGNMENT
        or alignment & (alignment - 1)
    ):
        raise PolicyError(
            f"{path}: general.alignment must be a power of two up to {_MAX_ALIGNMENT}, "
            f"got {str(alignment)[:40]}"
        )
    entries = [_entry(scan) for _ in range(count)]
    start = -(-scan.at // alignment) * alignment
    found: dict[str, GGUFTensor] = {}
    for name, shape, number, offset in entries:
        what = f"{path}: tensor {name[:200]!r}"
        if name in found:
            raise PolicyError(f"{what} occurs twice")
        if offset % alignment:
            raise PolicyError(
                f"{what} is misaligned: it begins at {offset}, no multiple of "
                f"{alignment}"
            )
        quantisation, items, block_bytes = _quantisation(number, what)
        if shape[-1] % items:
            raise PolicyError(
                f"{what}: rows of {shape[-1]} values are no whole blocks of "
                f"{quantisation}, which hold {items}"
            )
        nbytes = math.prod(shape) // items * block_bytes
        if start + offset + nbytes > scan.size:
            raise PolicyError(
                f"{what}, {quantisation} of shape {shape}, would end at byte "
                f"{start + offset + nbytes}, the file has {scan.size}: cut short, or "
                "damaged"
            )
        found[name] = GGUFTensor(
            name=name,
            shape=shape,
            quantisation=quantisation,
            offset=start + offset,
            nbytes=nbytes,
        )
    ordered = sorted(found.values(), key=lambda tensor: tensor.offset)
    for one, next_ in itertools.pairwise(ordered):
        if one.offset + one.nbytes > next_.offset:
            raise PolicyError(
                f"{path}: tensors {one.name[:200]!r} and {next_.name[:200]!r} overlap"
            )
    return found


def _entry(scan: _Scan) -> tuple[str, tuple[int, ...], int, int]:
    """Name, shape, number of the quantisation and offset of a tensor."""
    name = scan.text("the name of a tensor", _MAX_NAME)
    what = f"the entry of tensor {name[:200]!r}"
    dimensions = scan.number("I", what)
    if not 1 <= dimensions <= _MAX_DIMENSIONS:
        raise PolicyError(
            f"{scan.path}: {what}: expected 1 to {_MAX_DIMENSIONS} axes, got "
            f"{dimensions}"
        )
    sizes = [scan.number("Q", what) for _ in range(dimensions)]
    if 0 in sizes:
        raise PolicyError(f"{scan.path}: {what}: an axis of size 0")
    number, offset = scan.number("I", what), scan.number("Q", what)
    return name, tuple(reversed(sizes)), number, offset


def _quantisation(number: int, what: str) -> tuple[str, int, int]:
    """Name, values of a block, and bytes of a block."""
    found = _known(number)
    if found is None:
        raise PolicyError(
            f"{what} has quantisation number {number}, which the installed gguf does "
            "not know: a newer one may (pip install -U gguf)"
        )
    if not found[3]:
        raise PolicyError(
            f"{what} is {found[0]}, which the installed gguf cannot dequantise: take a "
            "file of another quantisation (Q8_0, say)"
        )
    return found[:3]


@functools.cache
def _known(number: int) -> tuple[str, int, int, bool] | None:
    """Name, values and bytes of a block, and whether it can be dequantised."""
    import gguf

    try:
        kind = gguf.GGMLQuantizationType(number)
    except ValueError:
        return None
    items, nbytes = gguf.GGML_QUANT_SIZES[kind]
    try:
        with np.errstate(all="ignore"):
            gguf.dequantize(np.zeros((1, nbytes), np.uint8), kind)
    except NotImplementedError:
        return kind.name, items, nbytes, False
    return kind.name, items, nbytes, True

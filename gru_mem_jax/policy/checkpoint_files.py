"""The safetensors files of a policy directory, judged before a byte is loaded; no jax.

Files are read by the safetensors library alone. It refuses headers that overlap, leave
gaps or run over; what it would take on trust is checked here.
"""

import dataclasses
import os
from collections.abc import Iterator, Mapping

import numpy as np
from safetensors import SafetensorError, safe_open

from gru_mem_jax.errors import PolicyError
from gru_mem_jax.policy import wrong_paths
from gru_mem_jax.policy.config import PolicyConfig
from gru_mem_jax.policy.files import SHARD_NAME, WEIGHTS, WEIGHTS_INDEX, PolicyDir
from gru_mem_jax.policy.hf_names import PREFIXES, TensorSpec, is_ignored, tensor_table

_MAX_HEADER = 16 << 20
_MAX_SHARDS = 1024
# Pages of a mapped file count as this process's memory until the file is closed.
_REOPEN_AFTER = 16 << 20
DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """A tensor that is there, with the shape that the policy needs.

    Attributes:
      name: in the file.
      file: name of its file in the directory.
      dtype: "float32", "float16" or "bfloat16".
      spec: where it goes.
    """

    name: str
    file: str
    dtype: str
    spec: TensorSpec

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.spec.shape)) * (4 if self.dtype == "float32" else 2)


def find_tensors(directory: PolicyDir, config: PolicyConfig) -> list[StoredTensor]:
    """All tensors of a policy, checked by name, shape and dtype against its config.

    Args:
      directory: holds `model.safetensors`, or shards and their index.
      config: what config.json says.

    Returns:
      One record for each tensor of the family's table, file by file.

    Raises:
      PolicyError: pickles only; a bad file, index or header; a tensor that is missing,
        doubled, unknown, of another shape or dtype. Names the file and the tensor.
    """
    files = _shard_names(directory)
    where: dict[str, str] = {}
    for file, indexed in files.items():
        names = _names(directory, file)
        for name in names:
            if name in where:
                raise PolicyError(
                    f"{directory.root}: tensor {name[:200]!r} is in {where[name]} "
                    f"and in {file}"
                )
            where[name] = file
        for name in sorted(indexed - set(names)):
            raise PolicyError(
                f"{directory.root / file}: tensor {name[:200]!r} is missing, "
                f"{WEIGHTS_INDEX} says that it is there"
            )
    table = tensor_table(config, _prefix(where))
    _check_names(directory, config, table, where)
    found = []
    for file in files:
        wanted = [name for name in table if where[name] == file]
        found += _records(directory, file, wanted, table)
    return found


def read_tensors(
    directory: PolicyDir, tensors: list[StoredTensor]
) -> Iterator[tuple[StoredTensor, "SliceReader"]]:
    """Each tensor with a reader of its rows, in the given order.

    The reader is valid until the next tensor is asked for.
    """
    reader = None
    for tensor in tensors:
        if reader is None or reader.file != tensor.file or reader.read > _REOPEN_AFTER:
            if reader is not None:
                reader.close()
            reader = SliceReader(directory, tensor.file)
        reader.tensor = tensor
        yield tensor, reader
    if reader is not None:
        reader.close()


class SliceReader:
    """Reads slices of the current tensor of one file."""

    def __init__(self, directory: PolicyDir, file: str):
        self.file = file
        self.read = 0
        self.tensor: StoredTensor | None = None
        self._handle = _open(directory, file)

    def __call__(self, index: tuple[slice, ...]) -> np.ndarray:
        """The tensor's values at `index`, a copy."""
        array = self._handle.get_slice(self.tensor.name)[index]
        self.read += array.nbytes
        return array

    def close(self) -> None:
        self._handle.__exit__(None, None, None)


def _shard_names(directory: PolicyDir) -> Mapping[str, set[str]]:
    """Weight files, each with the names that the index says it holds."""
    if directory.path(WEIGHTS) is not None:
        return {WEIGHTS: set()}
    index = directory.read_json(WEIGHTS_INDEX)
    where = directory.root / WEIGHTS_INDEX
    if index is None:
        if pickles := directory.pickles():
            raise PolicyError(
                f"{directory.root}: {pickles[0]} holds pickled weights, which can run "
                "code when they are opened: convert to safetensors"
            )
        other = wrong_paths.explain_folder(directory.root)
        raise PolicyError(
            f"{directory.root}: no {WEIGHTS} and no {WEIGHTS_INDEX}"
            + (f"; {other}" if other else "")
        )
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise PolicyError(f"{where}: expected an object 'weight_map' that is not empty")
    files: dict[str, set[str]] = {}
    for name, file in weight_map.items():
        if not isinstance(file, str) or not SHARD_NAME.fullmatch(file):
            raise PolicyError(
                f"{where}: file name {str(file)[:100]!r} of tensor {name[:200]!r} is "
                "refused: expected letters, digits, '_', '-', '.' and .safetensors"
            )
        files.setdefault(file, set()).add(name)
    if len(files) > _MAX_SHARDS:
        raise PolicyError(
            f"{where}: {len(files)} files, at most {_MAX_SHARDS} are read"
        )
    for file in files:
        if directory.path(file) is None:
            raise PolicyError(f"{directory.root / file}: missing, {where} names it")
    return dict(sorted(files.items()))


def _open(directory: PolicyDir, file: str):
    path = directory.path(file)
    if path is None:
        raise PolicyError(f"{directory.root / file}: missing")
    size = os.stat(path).st_size
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb") as stream:
            header = int.from_bytes(stream.read(8), "little")
        if size < 8 or header > min(size - 8, _MAX_HEADER):
            raise PolicyError(
                f"{path}: not a safetensors file, or cut short: its header would have "
                f"{header} bytes, the file has {size}, at most {_MAX_HEADER} are read"
            )
        return safe_open(path, framework="np")
    except SafetensorError as error:
        raise PolicyError(
            f"{path}: not a whole safetensors file ({str(error)[:200]}): fetch it again"
        ) from None
    except OSError as error:
        raise PolicyError(f"{path}: {error.strerror or error}") from None


def _names(directory: PolicyDir, file: str) -> list[str]:
    with _open(directory, file) as handle:
        return list(handle.keys())


def _prefix(names: Mapping[str, str]) -> str:
    found = (p for p in PREFIXES if f"{p}embed_tokens.weight" in names)
    return next(found, PREFIXES[0])


def _check_names(directory, config, table, where) -> None:
    unknown = [n for n in where if n not in table and not is_ignored(n, config)]
    missing = [name for name in table if name not in where]
    if missing:
        more = f" and {len(missing) - 1} others" if len(missing) > 1 else ""
        hint = f"; {unknown[0][:200]!r} is there, unexpected" if unknown else ""
        raise PolicyError(
            f"{directory.root}: tensor {missing[0]!r} of shape "
            f"{table[missing[0]].shape} is missing{more}{hint}"
        )
    if unknown:
        raise PolicyError(
            f"{directory.root / where[unknown[0]]}: tensor {unknown[0][:200]!r} is not "
            f"part of a {config.family} policy of this config.json"
        )


def _records(directory, file, names, table) -> list[StoredTensor]:
    records = []
    path = directory.root / file
    with _open(directory, file) as handle:
        for name in names:
            stored, spec = handle.get_slice(name), table[name]
            shape, dtype = tuple(stored.get_shape()), str(stored.get_dtype())
            if shape != spec.shape:
                raise PolicyError(
                    f"{path}: tensor {name!r}: expected shape {spec.shape} by "
                    f"config.json, got {shape}"
                )
            if dtype not in DTYPES:
                raise PolicyError(
                    f"{path}: tensor {name!r}: expected one of {', '.join(DTYPES)}, "
                    f"got {dtype}: quantised or integer weights are not supported"
                )
            records.append(
                StoredTensor(name=name, file=file, dtype=DTYPES[dtype], spec=spec)
            )
    return records

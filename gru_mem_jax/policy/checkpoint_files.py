"""The safetensors files of a policy directory, checked before any is loaded; no jax.

Files are read by the safetensors library alone. It refuses headers that overlap, leave
gaps or run over; names, shapes, dtypes and sizes are checked here.
"""

import dataclasses
import os
from collections.abc import Iterator, Mapping

import numpy as np
from safetensors import SafetensorError, safe_open

from gru_mem_jax import machine
from gru_mem_jax.errors import PolicyError
from gru_mem_jax.policy import wrong_paths
from gru_mem_jax.policy.config import PolicyConfig
from gru_mem_jax.policy.files import (
    CONFIG,
    SHARD_NAME,
    WEIGHTS,
    WEIGHTS_INDEX,
    PolicyDir,
    lfs_error,
    lfs_pointer,
)
from gru_mem_jax.policy.hf_names import (
    HEADS,
    PREFIXES,
    TensorSpec,
    is_ignored,
    tensor_table,
)

_MAX_HEADER = 16 << 20
_MAX_SHARDS = 1024
# Pages of a mapped file count as this process's memory until the file is closed.
_REOPEN_AFTER = 16 << 20
DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """A tensor of a file, with the shape that the policy needs.

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
    files, where = _locate(directory)
    table = _table(config, where)
    _check_names(directory, config, table, where)
    found = []
    for file in files:
        wanted = [name for name in table if where[name] == file]
        found += _records(directory, file, wanted, table)
    return found


def own_head(
    directory: PolicyDir, config: PolicyConfig, dtype: str | None = None
) -> str | None:
    """The separate output head of weights that config.json says are tied.

    As in transformers, a stored head that differs from the embedding is used. The two
    are compared by rows, up to the first difference.

    Args:
      directory: holds the weights; without any the answer is None.
      config: what config.json says.
      dtype: to compare them in: the one that config.json names, in which transformers
        loads them; None: that of the first tensor.

    Returns:
      Its name; None if there is no such head, or it equals the embedding.

    Raises:
      PolicyError: a bad file, index or header.
    """
    if not config.tie_word_embeddings or not weight_files(directory):
        return None
    _, where = _locate(directory)
    head, embedding = _head(where), f"{_prefix(where)}embed_tokens.weight"
    if head is None or embedding not in where:
        return None
    pair = [(where[name], name) for name in (embedding, head)]
    return None if _equal(directory, config, pair, dtype) else head


def weight_files(directory: PolicyDir) -> tuple[str, ...]:
    """Names of the files that the weights are read from; empty if there are none.

    Other safetensors files are never opened: Mistral's repositories hold all weights
    a second time, as consolidated.safetensors.

    Raises:
      PolicyError: the index is broken, or names a file that is missing.
    """
    names = (WEIGHTS, WEIGHTS_INDEX, _named_file(directory))
    if all(name is None or directory.path(name) is None for name in names):
        return ()
    return tuple(_shard_names(directory))


def read_tensors(
    directory: PolicyDir, tensors: list[StoredTensor]
) -> Iterator[tuple[StoredTensor, "SliceReader"]]:
    """Each tensor with a reader of its rows, in the given order.

    The reader is valid until the next tensor is requested.
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
    if (named := _named_file(directory)) is not None:
        return {named: set()}
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


def _named_file(directory: PolicyDir) -> str | None:
    """The file that `transformers_weights` of config.json names, before any other."""
    name = (directory.read_json(CONFIG) or {}).get("transformers_weights")
    if name is None:
        return None
    if not isinstance(name, str) or not SHARD_NAME.fullmatch(name):
        raise PolicyError(
            f"{directory.root / CONFIG}: transformers_weights {str(name)[:100]!r} is "
            "not supported: expected the name of one safetensors file, or none"
        )
    if directory.path(name) is None:
        raise PolicyError(f"{directory.root / name}: missing, {CONFIG} names it")
    return name


def _open(directory: PolicyDir, file: str):
    path = directory.path(file)
    if path is None:
        raise PolicyError(f"{directory.root / file}: missing")
    size = os.stat(path).st_size
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb") as stream:
            begin = stream.read(64)
        if lfs_pointer(begin):
            raise lfs_error(path)
        header = int.from_bytes(begin[:8], "little")
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


def _locate(directory: PolicyDir) -> tuple[tuple[str, ...], dict[str, str]]:
    """The weight files, and by a tensor's name the file that holds it."""
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
    return tuple(files), where


def _table(config: PolicyConfig, where: Mapping[str, str]) -> dict[str, TensorSpec]:
    """The family's table, by the names that the files use."""
    prefix, head = _prefix(where), _head(where)
    table = tensor_table(config, prefix, head or HEADS[0])
    embedding = f"{prefix}embed_tokens.weight"
    if config.tie_word_embeddings and head is not None and embedding not in where:
        table[head] = table.pop(embedding)  # one tensor, saved by its other name
    return table


def _prefix(where: Mapping[str, str]) -> str:
    marks = ("embed_tokens.weight", "norm.weight")
    found = (p for mark in marks for p in PREFIXES if p + mark in where)
    return next(found, PREFIXES[0])


def _head(where: Mapping[str, str]) -> str | None:
    return next((name for name in HEADS if name in where), None)


def _equal(
    directory: PolicyDir,
    config: PolicyConfig,
    pair: list[tuple[str, str]],
    dtype: str | None,
) -> bool:
    """Whether embedding and head, given by file and name, hold the same values."""
    shapes, dtypes = [], []
    for file, name in pair:
        with _open(directory, file) as handle:
            stored = handle.get_slice(name)
            shapes.append(tuple(stored.get_shape()))
            dtypes.append(DTYPES.get(str(stored.get_dtype())))
    count, width = config.vocab_size, config.hidden_size
    memory = machine.memory()
    if shapes[0] != (count, width) or (memory and 2 * count * width > memory):
        return True  # the directory is refused for the embedding
    if shapes[1] != shapes[0] or None in dtypes:
        return False  # it is refused for the head
    same = dtypes[0] == dtypes[1]
    if dtype not in DTYPES.values():
        dtype = _first_dtype(directory)
    step = max(1, _REOPEN_AFTER // (4 * width))
    for start in range(0, count, step):
        rows = [
            _rows(directory, file, name, slice(start, min(start + step, count)))
            for file, name in pair
        ]
        if same and rows[0].tobytes() == rows[1].tobytes():
            continue
        with np.errstate(over="ignore"):
            first, second = (part.astype(np.dtype(dtype)) for part in rows)
        if not np.array_equal(first, second):
            return False
    return True


def _first_dtype(directory: PolicyDir) -> str:
    """The dtype of the first tensor that holds fractions."""
    with _open(directory, next(iter(_shard_names(directory)))) as handle:
        names = (
            str(handle.get_slice(name).get_dtype()) for name in sorted(handle.keys())
        )
        return next((DTYPES[name] for name in names if name in DTYPES), "float32")


def _rows(directory: PolicyDir, file: str, name: str, rows: slice) -> np.ndarray:
    with _open(directory, file) as handle:
        return handle.get_slice(name)[rows]


def _check_names(directory, config, table, where) -> None:
    known = {*table, _head(where)} if config.tie_word_embeddings else table
    unknown = [n for n in where if n not in known and not is_ignored(n, config)]
    missing = [name for name in table if name not in where]
    if missing:
        more = f" and {len(missing) - 1} others" if len(missing) > 1 else ""
        hint = f"; {unknown[0][:200]!r} is there, unexpected" if unknown else ""
        if missing[0] in HEADS:
            hint += (
                "; config.json says tie_word_embeddings false: set it to true if the "
                "head is the embedding"
            )
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

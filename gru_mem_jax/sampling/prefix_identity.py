"""What the keys and values of a policy depend on, beside the tokens: a digest."""

import contextlib
import hashlib
import json
import os
import pathlib
import time
from collections.abc import Iterable

from gru_mem_jax import durable_files
from gru_mem_jax.policy.checkpoint_files import weight_files
from gru_mem_jax.policy.files import CONFIG, PolicyDir, tokenizer_files
from gru_mem_jax.version import __version__

_MEMO = "weights.json"
_MOST_FILES = 1024
_SETTLED = 2_000_000_000  # ns since a change, so that the next one has another time


def policy_identity(
    policy: PolicyDir, dtype: str, memo: str | os.PathLike[str] | None = None
) -> str:
    """A hex digest of all that keys and values depend on beside the tokens.

    These are config.json, every byte of the weights, the tokenizer's files, the dtype,
    and the version of this package.

    Args:
      policy: the directory that an engine's weights are from.
      dtype: of the engine.
      memo: folder in which the weights' sha256 are kept by their files' path, size,
        inode and times of change, as git keeps those of its files, so that the weights
        are read only once; None: nowhere.

    Raises:
      PolicyError: a file cannot be read, or is refused.
    """
    small = {CONFIG: policy.read_bytes(CONFIG) or b"", **tokenizer_files(policy)}
    weights = weight_files(policy)
    digests = _digests([policy.root / name for name in weights], memo)
    parts = {
        "version": __version__,
        "dtype": dtype,
        "files": {n: hashlib.sha256(data).hexdigest() for n, data in small.items()},
        "weights": dict(zip(weights, digests, strict=True)),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _digests(
    paths: Iterable[pathlib.Path], memo: str | os.PathLike[str] | None
) -> list[str]:
    """The sha256 of each file, from the memo if it has not changed since."""
    paths = [pathlib.Path(os.path.realpath(path)) for path in paths]
    known = {} if memo is None else _read_memo(pathlib.Path(memo) / _MEMO)
    states = {path: _state(path) for path in paths}
    new = [path for path in paths if f"{path} {states[path]}" not in known]
    fresh = dict(zip(new, durable_files.sha256_all(new), strict=True))
    digests = [fresh.get(path) or known[f"{path} {states[path]}"] for path in paths]
    if new and memo is not None:
        for path, digest in fresh.items():
            if (state := states[path]) == _state(path) and _is_settled(path):
                known[f"{path} {state}"] = digest
        text = json.dumps(dict(list(known.items())[-_MOST_FILES:]), indent=0)
        with contextlib.suppress(OSError):  # then they are read again next time
            os.makedirs(memo, exist_ok=True)
            durable_files.write_shared(pathlib.Path(memo) / _MEMO, [text.encode()])
    return digests


def _read_memo(path: pathlib.Path) -> dict[str, str]:
    """Digests by path and state; empty if they cannot be read."""
    known = {}
    with contextlib.suppress(OSError, ValueError, RecursionError):
        known = json.loads(path.read_bytes())
    whole = isinstance(known, dict) and all(isinstance(d, str) for d in known.values())
    return known if whole else {}


def _state(path: pathlib.Path) -> str:
    info = path.stat()
    return f"{info.st_size} {info.st_ino} {info.st_mtime_ns} {info.st_ctime_ns}"


def _is_settled(path: pathlib.Path) -> bool:
    info = path.stat()
    return time.time_ns() - max(info.st_mtime_ns, info.st_ctime_ns) > _SETTLED

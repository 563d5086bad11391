"""Keys and values of prompts' beginnings, kept for the next question on a document.

A prefix is found by its token ids: the longest stored one that the given ids begin
with. It is kept in memory, and in files if there is a folder for them (see
`prefix_files`), each within a budget of bytes; the least recently used leaves first.
"""

import collections
import dataclasses
import hashlib
import logging
import os
import pathlib
import threading
from collections.abc import Iterable, Set
from typing import NamedTuple

import numpy as np

from gru_mem_jax import machine
from gru_mem_jax.agent.config import AgentConfig, trunk_and_tail
from gru_mem_jax.agent.prompts import PromptBuilder
from gru_mem_jax.errors import InputError
from gru_mem_jax.policy.files import PolicyDir
from gru_mem_jax.records import check_int
from gru_mem_jax.sampling.config import EngineConfig
from gru_mem_jax.sampling.prefix_files import DTYPES, Key, Note, PrefixFiles
from gru_mem_jax.sampling.prefix_identity import policy_identity

GIB = 1 << 30
DISK_BYTES = 16 * GIB
_COUNTERS = ("found", "found_tokens", "from_disk", "stored")
_log = logging.getLogger(__name__).warning


class StoredPrefix(NamedTuple):
    """What `PrefixStore.find` gives.

    Attributes:
      length: of the prefix, in tokens.
      arrays: [N, 2, K, length, H], keys and values of N layers with K heads of size H,
        in the engine's dtype; read-only.
    """

    length: int
    arrays: np.ndarray


class PrefixStore:
    """Keys and values, found by the token ids that they were computed from.

    Threads may share a store, and so may engines of one policy and dtype. A file is
    used only if it is whole, of these tokens and of this identity; any other is a miss,
    with one line that says which and why.

    Args:
      identity: of all that keys depend on beside the tokens, see `policy_identity`;
        anything where one engine alone has the store, and no folder is given.
      memory_bytes: most bytes in memory; 0 keeps nothing there.
      directory: folder of files, made if need be; None: memory only.
      disk_bytes: most bytes of that folder, with the files of other policies.
      on_note: called with each such line; by default it is logged as a warning.
      evicts: whether the least recently used leaves memory for a new prefix; else what
        is there stays, and a new one is kept where it has room.

    Attributes:
      memory_bytes: may be changed; what is over it leaves at the next `put`.
    """

    def __init__(
        self,
        identity: str,
        memory_bytes: int,
        directory: str | os.PathLike[str] | None = None,
        disk_bytes: int = DISK_BYTES,
        on_note: Note = _log,
        evicts: bool = True,
    ):
        self._evicts = evicts
        self.memory_bytes = check_int("memory_bytes", memory_bytes, 0)
        check_int("disk_bytes", disk_bytes, 0)
        self._lock = threading.Lock()
        self._memory = _Memory()
        self._files: PrefixFiles | None = None
        self._token_bytes = 0  # of the last prefix; 0: none was seen yet
        self._counts = dict.fromkeys(_COUNTERS, 0)
        if directory is not None and disk_bytes:
            folder = pathlib.Path(directory)
            self._files = PrefixFiles(folder, identity, disk_bytes, on_note)

    @classmethod
    def for_policy(
        cls,
        policy: PolicyDir,
        dtype: str,
        directory: str | os.PathLike[str],
        memory_bytes: int = 0,
        disk_bytes: int = DISK_BYTES,
        on_note: Note = _log,
    ) -> "PrefixStore":
        """A store with a folder of files, for the policy of a directory.

        Args:
          policy: the directory that the engine's weights are from.
          dtype: of the engine.
          directory, memory_bytes, disk_bytes, on_note: see the class.

        Raises:
          PolicyError: a file of the policy cannot be read.
        """
        identity = policy_identity(policy, dtype, directory)
        return cls(identity, memory_bytes, directory, disk_bytes, on_note)

    def find(self, ids: np.ndarray, least: int) -> StoredPrefix | None:
        """The longest stored prefix of some tokens.

        Args:
          ids: int32[n].
          least: tokens of the shortest prefix that is of use.
        """
        ids = _plain(ids)
        with self._lock:
            for key in _keys_of(ids, self._keys(), least):
                arrays = self._memory.get(key)
                if arrays is None and self._files is not None:
                    arrays = self._files.read(key, ids[: key.length])
                    if arrays is not None:
                        self._counts["from_disk"] += 1
                        self._keep(key, arrays)
                if arrays is not None:
                    self._counts["found"] += 1
                    self._counts["found_tokens"] += key.length
                    return StoredPrefix(key.length, arrays)
        return None

    def wants(self, ids: np.ndarray) -> bool:
        """Whether `put` of this prefix would keep something new.

        Args:
          ids: int32[n].
        """
        ids = _plain(ids)
        key, size = Key(len(ids), _hasher(ids).hexdigest()), len(ids)
        with self._lock:
            size *= self._token_bytes
            if self._has_room(size) and self._memory.get(key) is None:
                return True
            return self._files is not None and self._files.wants(key, size)

    def put(self, ids: np.ndarray, arrays: np.ndarray) -> None:
        """Keeps a prefix, as far as the budgets allow.

        Args:
          ids: int32[n].
          arrays: [N, 2, K, n, H] in the engine's dtype; the store's from now on.

        Raises:
          InputError: another shape, or a dtype that no engine has.
        """
        ids = _plain(ids)
        shape, dtype = arrays.shape, arrays.dtype.name
        if len(shape) != 5 or shape[1] != 2 or shape[3] != len(ids) or not len(ids):
            raise InputError(
                f"keys and values of {len(ids)} tokens must be [N, 2, K, {len(ids)}, "
                f"H], got {shape}"
            )
        if dtype not in DTYPES:
            raise InputError(f"keys must be of {', '.join(DTYPES)}, got {dtype}")
        # A view would keep the whole array that it is of.
        arrays = arrays if arrays.flags.owndata else arrays.copy()
        key = Key(len(ids), _hasher(ids).hexdigest())
        with self._lock:
            self._token_bytes = arrays.nbytes // len(ids)
            self._keep(key, arrays)
            if self._files is not None and self._files.wants(key, arrays.nbytes):
                self._files.write(key, ids, arrays)
            self._counts["stored"] += 1

    def clear(self) -> None:
        """Forgets what is in memory; files stay."""
        with self._lock:
            self._memory = _Memory()

    def stats(self) -> dict[str, int]:
        """Counts since the start, and bytes in memory.

        Returns:
          `found` (prefixes), `found_tokens` (theirs), `from_disk` (of the prefixes),
          `stored` (prefixes that were put), `memory_bytes`.
        """
        return {**self._counts, "memory_bytes": self._memory.size}

    def _keys(self) -> Set[Key]:
        if self._files is None:
            return self._memory.keys()
        return self._memory.keys() | self._files.keys()

    def _has_room(self, size: int) -> bool:
        held = 0 if self._evicts else self._memory.size
        return 0 < self.memory_bytes >= held + size

    def _keep(self, key: Key, arrays: np.ndarray) -> None:
        arrays.flags.writeable = False
        if self._evicts or self._has_room(arrays.nbytes):
            self._memory.put(key, arrays, self.memory_bytes)


def with_trunks(
    sizes: EngineConfig, builder: PromptBuilder, config: AgentConfig
) -> EngineConfig:
    """The sizes with trunks that are as long as the budgets need.

    Where no number of trunks is set a slot has one for its chunk, and one for each that
    it reads ahead. Lengths that are set stay as they are. memory_first prompts have
    nothing before the memory that is worth a trunk: the engine has none then, and as
    many slots as fit in the same memory.
    """
    trunk, tail = trunk_and_tail(builder, config)
    tail = min(-(-tail // 64) * 64, sizes.max_length)
    trunk = max(-(-trunk // 64) * 64, sizes.max_length - tail)
    whole = dataclasses.replace(
        sizes,
        trunks=sizes.trunks or sizes.slots * (1 + config.prefill_ahead),
        trunk_length=min(trunk, sizes.max_length),
        tail_length=tail,
    )
    if config.chunk_first:
        lengths = sizes.trunk_length, sizes.tail_length
        return whole if lengths == (None, None) else sizes
    if not sizes.trunks:
        return sizes
    held = whole.slots * whole.tail_length + whole.trunks * whole.trunk_length
    return dataclasses.replace(sizes, slots=max(1, held // sizes.max_length), trunks=0)


def default_memory_bytes() -> int:
    """An eighth of this machine's memory; 1 GiB where that is unknown."""
    memory = machine.memory()
    return GIB if memory is None else memory // 8


def _plain(ids: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(ids, "<i4")


def _hasher(ids: np.ndarray) -> "hashlib.blake2b":
    return hashlib.blake2b(ids.tobytes(), digest_size=16)


def _keys_of(ids: np.ndarray, stored: Set[Key], least: int) -> Iterable[Key]:
    """Those of `stored` that are of prefixes of `ids`, longest first.

    The ids are read once, however many lengths there are.
    """
    lengths = {key.length for key in stored if max(1, least) <= key.length <= len(ids)}
    hasher, start, found = _hasher(ids[:0]), 0, []
    for length in sorted(lengths):
        hasher.update(ids[start:length].tobytes())
        start = length
        key = Key(length, hasher.hexdigest())
        if key in stored:
            found.append(key)
    return reversed(found)


class _Memory:
    """Arrays by key, the least recently used first.

    Attributes:
      size: bytes of all of them.
    """

    def __init__(self) -> None:
        self._arrays = collections.OrderedDict[Key, np.ndarray]()
        self.size = 0

    def keys(self) -> Set[Key]:
        return self._arrays.keys()

    def get(self, key: Key) -> np.ndarray | None:
        if key in self._arrays:
            self._arrays.move_to_end(key)
        return self._arrays.get(key)

    def put(self, key: Key, arrays: np.ndarray, budget: int) -> None:
        """Keeps arrays of at most `budget` bytes, after making room for them."""
        if (old := self._arrays.pop(key, None)) is not None:
            self.size -= old.nbytes
        new = arrays.nbytes if arrays.nbytes <= budget else 0
        while self.size + new > budget:
            self.size -= self._arrays.popitem(last=False)[1].nbytes
        if new:
            self._arrays[key] = arrays
            self.size += new

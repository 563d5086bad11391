"""Stored keys and values: found by tokens, within budgets, never used if damaged.

Fault R22.
"""

import errno
import json
import os
import pathlib
import resource
import shutil
import subprocess
import sys
import threading

import ml_dtypes
import numpy as np
import pytest
from prefix_process import prefix

from gru_mem_jax import durable_files
from gru_mem_jax.errors import InputError
from gru_mem_jax.policy.files import open_policy_dir
from gru_mem_jax.sampling import prefix_identity, prefix_store
from gru_mem_jax.sampling.prefix_identity import policy_identity
from gru_mem_jax.sampling.prefix_store import PrefixStore

NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount"]


def ids_of(*tokens):
    return np.asarray(tokens, np.int32)


def keys_of(ids, dtype=np.float32, fill=None):
    """[1, 2, 1, n, 4]: 32 bytes a token in float32."""
    if fill is None:
        fill = np.arange(8 * len(ids))
    return np.broadcast_to(fill, 8 * len(ids)).astype(dtype).reshape(1, 2, 1, -1, 4)


class Folder:
    """Stores on one folder, as processes have them, and the lines they wrote."""

    def __init__(self, path):
        self.path = path
        self.notes = []

    def store(self, identity="one", memory=0, **kwargs):
        return PrefixStore(
            identity, memory, self.path, on_note=self.notes.append, **kwargs
        )

    @property
    def files(self):
        return sorted(self.path.glob("*/*.kv"))


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path / "keys")


# -- what is found --------------------------------------------------------------------


def test_the_longest_prefix_by_hand():
    store = PrefixStore("", 1 << 20)
    short, long = ids_of(1, 2), ids_of(1, 2, 3, 4)
    store.put(short, keys_of(short))
    store.put(long, keys_of(long))
    store.put(ids_of(7, 2, 3), keys_of(ids_of(7, 2, 3)))
    assert store.find(ids_of(1, 2, 3, 4, 5), 1).length == 4
    assert store.find(ids_of(1, 2, 3, 4), 1).length == 4
    found = store.find(ids_of(1, 2, 3, 5, 4), 1)
    assert found.length == 2
    np.testing.assert_array_equal(found.arrays, keys_of(short))
    assert store.find(ids_of(1, 2, 3, 5), 2).length == 2
    assert store.find(ids_of(1, 2, 3, 5), 3) is None
    assert store.find(ids_of(1), 0) is None
    assert store.find(ids_of(2, 1, 3), 1) is None
    assert store.find(ids_of(), 0) is None
    stats = store.stats()
    assert (stats["found"], stats["found_tokens"], stats["stored"]) == (4, 12, 3)
    assert stats["memory_bytes"] == 9 * 32


def test_wants_what_is_new_and_fits():
    store = PrefixStore("", 100)
    assert store.wants(ids_of(*range(1000)))  # bytes of a token are not known yet
    store.put(ids_of(1, 2), keys_of(ids_of(1, 2)))
    assert not store.wants(ids_of(1, 2))
    assert store.wants(ids_of(1, 3))
    assert store.wants(ids_of(1, 2, 3))
    assert not store.wants(ids_of(1, 2, 3, 4))
    assert not PrefixStore("", 0).wants(ids_of(1))


def test_the_least_recently_used_leaves_memory():
    store = PrefixStore("", 100)  # three tokens
    for token in (1, 2, 3):
        store.put(ids_of(token), keys_of(ids_of(token)))
    assert store.find(ids_of(1), 1) is not None
    store.put(ids_of(4), keys_of(ids_of(4)))
    held = [t for t in (1, 2, 3, 4) if store.find(ids_of(t), 1) is not None]
    assert held == [1, 3, 4]
    store.put(ids_of(5, 6, 7, 8), keys_of(ids_of(5, 6, 7, 8)))  # over the budget
    assert store.find(ids_of(5, 6, 7, 8), 1) is None
    assert store.stats()["memory_bytes"] == 96
    store.memory_bytes = 32
    store.put(ids_of(9), keys_of(ids_of(9)))
    assert store.stats()["memory_bytes"] == 32
    store.clear()
    assert store.find(ids_of(9), 1) is None
    assert store.stats()["memory_bytes"] == 0


def test_a_store_that_evicts_nothing_keeps_the_first():
    """Three prefixes by turns in room for two: the oldest would leave each time."""
    prefixes = [ids_of(i, i, i) for i in range(3)]
    for evicts, found in ((True, [False] * 3), (False, [True, True, False])):
        store = PrefixStore("", 2 * 3 * 32, evicts=evicts)
        for pass_number in range(3):
            hits = []
            for ids in prefixes:
                hits.append(store.find(ids, 1) is not None)
                if not hits[-1] and store.wants(ids):
                    store.put(ids, keys_of(ids))
            assert hits == (found if pass_number else [False] * 3)
        assert store.wants(ids_of(9, 9, 9)) is evicts
        assert store.stats()["memory_bytes"] == 2 * 3 * 32


def test_what_is_kept_cannot_change():
    store = PrefixStore("", 1 << 20)
    ids, whole = ids_of(1, 2), np.zeros((1, 2, 1, 9, 4), np.float32)
    store.put(ids, whole[:, :, :, :2])
    whole[:] = 1
    kept = store.find(ids, 1).arrays
    assert not kept.any()
    with pytest.raises(ValueError, match="read-only"):
        kept[:] = 1


@pytest.mark.parametrize(
    ("shape", "dtype", "expected"),
    [
        ((1, 2, 1, 3, 4), np.float32, r"\[N, 2, K, 2, H\], got \(1, 2, 1, 3, 4\)"),
        ((1, 1, 1, 2, 4), np.float32, "must be"),
        ((2, 1, 2, 4), np.float32, "must be"),
        ((1, 2, 1, 2, 4), np.float64, "float32, bfloat16, got float64"),
    ],
)
def test_other_arrays_are_refused(shape, dtype, expected):
    with pytest.raises(InputError, match=expected):
        PrefixStore("", 1000).put(ids_of(1, 2), np.zeros(shape, dtype))


def test_budgets_are_checked():
    with pytest.raises(InputError, match="memory_bytes must be at least 0"):
        PrefixStore("", -1)
    with pytest.raises(InputError, match="disk_bytes must be an integer"):
        PrefixStore("", 0, disk_bytes=0.5)


def test_threads_share_a_store(folder):
    store = folder.store(memory=2000)
    wrong = []

    def work(seed):
        rng = np.random.default_rng(seed)
        for _ in range(60):
            ids, arrays = prefix(int(rng.integers(6)))
            store.put(ids, arrays.copy())
            found = store.find(ids, 1)
            if found is None or not np.array_equal(found.arrays, arrays):
                wrong.append(len(ids))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (wrong, folder.notes) == ([], [])


# -- files ----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
@pytest.mark.parametrize("memory", [0, 1 << 20])
def test_a_later_process_finds_the_same_bits(folder, dtype, memory):
    ids = ids_of(*range(50))
    arrays = keys_of(ids, dtype, np.random.default_rng(0).normal(size=400))
    folder.store().put(ids, arrays)
    store = folder.store(memory=memory)
    assert not store.wants(ids) or memory
    for _ in range(2):
        found = store.find(ids_of(*range(60)), 16)
        assert (found.length, found.arrays.dtype) == (50, dtype)
        assert found.arrays.tobytes() == arrays.tobytes()
        assert found.arrays.flags.aligned
        assert not found.arrays.flags.writeable
    assert store.stats()["from_disk"] == (1 if memory else 2)
    assert folder.notes == []
    assert [path.stat().st_mode & 0o077 for path in folder.files] == [0]


def test_the_least_recently_used_leaves_the_folder_whoever_wrote_it(folder):
    one, other = folder.store("one"), folder.store("other")
    for number, store in enumerate((one, other, one)):
        store.put(ids_of(number), keys_of(ids_of(number)))
    for age, path in zip((30, 20, 10), sorted(folder.files, key=os.path.getmtime)):
        then = path.stat().st_mtime - age
        os.utime(path, (then, then))
    size = max(path.stat().st_size for path in folder.files)
    later = folder.store("one", disk_bytes=3 * size)
    assert later.find(ids_of(0), 1) is not None  # the oldest, used now
    later.put(ids_of(3), keys_of(ids_of(3)))
    assert other.find(ids_of(1), 1) is None
    held = [n for n in range(4) if folder.store("one").find(ids_of(n), 1) is not None]
    assert held == [0, 2, 3]
    assert len(folder.files) == 3
    assert folder.notes[1:] == []  # but that there were files of another policy
    tiny = folder.store("one", disk_bytes=size - 1)
    tiny.put(ids_of(9), keys_of(ids_of(9)))  # does not fit: nothing leaves for it
    assert len(folder.files) == 3


def test_unfinished_files_are_not_used_and_go_in_the_end(folder):
    store = folder.store()
    store.put(ids_of(1), keys_of(ids_of(1)))
    (file,) = folder.files
    young, old = (file.with_name(f"{file.name}.{n}.saving") for n in ("a", "b"))
    for path in (young, old):
        shutil.copy(file, path)
    os.utime(old, (1, 1))
    file.unlink()
    assert folder.store().find(ids_of(1), 1) is None
    store.put(ids_of(2), keys_of(ids_of(2)))
    assert (young.exists(), old.exists()) == (True, False)


def test_a_file_that_vanishes_is_a_miss(folder):
    folder.store().put(ids_of(1, 2), keys_of(ids_of(1, 2)))
    folder.store().put(ids_of(1), keys_of(ids_of(1)))
    store = folder.store()
    assert store.find(ids_of(1, 2), 1).length == 2
    folder.files[1].unlink()
    assert store.find(ids_of(1, 2), 1).length == 1  # the next longest
    shutil.rmtree(folder.path)
    assert store.find(ids_of(1, 2), 1) is None
    store.put(ids_of(1), keys_of(ids_of(1)))  # and the folder comes back
    assert store.find(ids_of(1), 1).length == 1
    assert folder.notes == []


def damage(data, where):
    start = len(b"GRU-Mem keys, values\n")
    places = {"magic": 0, "length": start, "header": start + 30, "shape": 200}
    places |= {"ids": -(32 + 64 + 4), "keys": -(32 + 10), "sha256": -1}
    if where in places:
        data = bytearray(data)
        data[places[where]] ^= 4
        return bytes(data)
    return data[: {"empty": 0, "head": 25, "half": len(data) // 2, "end": -1}[where]]


FLIPPED = ["magic", "length", "header", "shape", "ids", "keys", "sha256"]
TRUNCATED = ["empty", "head", "half", "end"]


@pytest.mark.parametrize("where", [*FLIPPED, *TRUNCATED])
def test_a_damaged_file_is_removed_with_one_line(folder, where):
    ids = ids_of(1, 2)
    folder.store().put(ids, keys_of(ids))
    (file,) = folder.files
    file.write_bytes(damage(file.read_bytes(), where))
    store = folder.store()
    for _ in range(2):
        assert store.find(ids, 1) is None
    (note,) = folder.notes
    assert note.startswith(f"{file}: not used: ")
    assert note.endswith("; removed")
    assert "cut" in note
    assert "\n" not in note
    assert not file.exists()
    assert store.wants(ids)
    store.put(ids, keys_of(ids))
    assert store.find(ids, 1).arrays.tobytes() == keys_of(ids).tobytes()


def a_file_of(what, folder, file):
    """Puts a whole file of something else in the place of `file`."""
    if what in ("policy", "tokens"):
        other = folder.store("other" if what == "policy" else "one")
        ids = ids_of(1, 2) if what == "policy" else ids_of(1, 3)
        other.put(ids, keys_of(ids))
        (new,) = (path for path in folder.files if path != file)
        os.replace(new, file)
    elif what == "format":
        data = file.read_bytes()[:-32].replace(b'"format": 1', b'"format": 2')
        file.write_bytes(data + prefix_store.hashlib.sha256(data).digest())
    elif what == "text":
        data = b"a letter to a friend, long enough to be anything"
        file.write_bytes(data + prefix_store.hashlib.sha256(data).digest())
    else:
        file.unlink()
        {"fifo": os.mkfifo, "directory": os.mkdir}[what](file)


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("policy", "it is of another policy, tokenizer, dtype or version"),
        ("tokens", "it is of other tokens"),
        ("format", "it has another format"),
        ("text", "it has another format"),
        ("fifo", "it is not a regular file"),
        ("directory", "Is a directory"),
    ],
)
def test_a_file_of_something_else_is_not_used_with_one_line(folder, what, reason):
    ids = ids_of(1, 2)
    folder.store().put(ids, keys_of(ids))
    (file,) = folder.files
    a_file_of(what, folder, file)
    folder.notes.clear()
    store = folder.store()
    for _ in range(2):
        assert store.find(ids, 1) is None
    assert folder.notes == [f"{file}: not used: {reason}"]
    assert file.exists()


def test_a_file_larger_than_the_budget_is_not_read(folder):
    ids = ids_of(1, 2)
    folder.store().put(ids, keys_of(ids))
    (file,) = folder.files
    os.truncate(file, 1 << 40)  # sparse
    assert folder.store().find(ids, 1) is None
    assert "more than the budget" in folder.notes[0]


def test_files_of_another_policy_are_told_of_once(folder):
    folder.store("one").put(ids_of(1), keys_of(ids_of(1)))
    assert folder.notes == []
    for _ in range(2):
        assert folder.store("other").find(ids_of(1), 1) is None
    (note,) = folder.notes
    assert note.startswith(f"{folder.path}: what is stored there is not used")


# -- disks that are full, read-only or shared -----------------------------------------


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_without_the_disk_after_an_error_of_it(folder, monkeypatch, error):
    store = folder.store(memory=1 << 20)
    store.put(ids_of(1), keys_of(ids_of(1)))

    def fail(*arguments):
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(durable_files.os, "replace", fail)
    for token in (2, 3):
        assert store.wants(ids_of(token))
        store.put(ids_of(token), keys_of(ids_of(token)))
    line = f"{folder.path}: nothing more is stored there: {os.strerror(error)}"
    assert folder.notes == [line]
    assert [store.find(ids_of(t), 1).length for t in (1, 2, 3)] == [1, 1, 1]
    assert len(list(folder.path.glob("*/*"))) == 1  # nothing half-written is left
    assert folder.store().find(ids_of(1), 1) is not None  # what was stored is read
    store.clear()
    assert not folder.store(memory=0).find(ids_of(2), 1)


def test_a_file_system_that_refuses_the_file(folder):
    """A real error of the kernel, in the middle of a file."""
    store = folder.store(memory=1 << 20)
    ids = ids_of(*range(1000))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        store.put(ids, keys_of(ids))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert folder.notes == [
        f"{folder.path}: nothing more is stored there: File too large"
    ]
    assert list(folder.path.glob("*/*")) == []
    assert store.find(ids, 1).length == 1000


@pytest.mark.parametrize("path", ["/proc/keys", "/dev/null/keys"])
def test_a_folder_that_cannot_be_made(path):
    notes = []
    store = PrefixStore("one", 1000, path, on_note=notes.append)
    store.put(ids_of(1), keys_of(ids_of(1)))
    assert store.find(ids_of(1), 1).length == 1
    (note,) = notes
    assert note.startswith(f"{path}: nothing more is stored there: ")


def test_a_real_disk_that_is_full_and_then_read_only(tmp_path):
    try:
        mount = ["mount", "-t", "tmpfs", "x", str(tmp_path)]
        subprocess.run([*NAMESPACE, *mount], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no disk can be mounted here")
    script = """
import subprocess, sys, numpy as np
from gru_mem_jax.sampling.prefix_store import PrefixStore
disk = sys.argv[1]
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "x", disk], check=True)
def ask():
    store = PrefixStore("one", 0, disk + "/keys")
    for n in range(6):
        ids = np.full(100, n, np.int32)
        store.put(ids, np.full((1, 2, 8, 100, 64), n, np.float32))
    return [n for n in range(6) if store.find(np.full(100, n, np.int32), 1)]
print(ask())
subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
print(ask())
"""
    done = subprocess.run(
        [*NAMESPACE, sys.executable, "-c", script, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[0, 1]\n[0, 1]\n"
    start = f"{tmp_path}/keys: nothing more is stored there: "
    assert done.stderr == (
        f"{start}No space left on device\n{start}Read-only file system\n"
    )


def test_two_processes_on_one_folder(tmp_path):
    script = pathlib.Path(__file__).with_name("prefix_process.py")
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), str(tmp_path), str(seed), "500"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for seed in (1, 2)
    ]
    for process in processes:
        out, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (0, "")
        assert int(out) > 300
    assert sum(path.stat().st_size for path in tmp_path.glob("*/*")) < 60_000


# -- the identity of a policy ---------------------------------------------------------


@pytest.fixture
def policy(tmp_path):
    """A directory whose files are like a policy's, as far as an identity needs."""
    root = tmp_path / "policy"
    root.mkdir()
    (root / "config.json").write_text('{"hidden_size": 4}')
    (root / "tokenizer.json").write_text("{}")
    (root / "gru_mem.json").write_text("{}")
    (root / "model.safetensors").write_bytes(bytes(1 << 20))
    return root


def change(path, place=0):
    with open(path, "r+b") as file:
        file.seek(place)
        file.write(b"~")


def test_every_byte_that_keys_depend_on_counts(policy):
    directory = open_policy_dir(policy)
    seen = {policy_identity(directory, "float32")}
    seen.add(policy_identity(directory, "bfloat16"))
    change(policy / "model.safetensors", 1 << 19)
    seen.add(policy_identity(directory, "float32"))
    (policy / "config.json").write_text('{"hidden_size": 8}')
    seen.add(policy_identity(directory, "float32"))
    (policy / "tokenizer.json").write_text('{"model": 0}')
    seen.add(last := policy_identity(directory, "float32"))
    assert len(seen) == 5
    (policy / "gru_mem.json").write_text('{"mode": "memagent"}')
    (policy / "README.md").write_text("About")
    assert policy_identity(directory, "float32") == last
    moved = policy.rename(policy.with_name("moved"))
    assert policy_identity(open_policy_dir(moved), "float32") == last


def test_weights_are_read_once_until_they_change(policy, tmp_path, monkeypatch):
    read = []
    original = durable_files.sha256_all
    monkeypatch.setattr(
        durable_files, "sha256_all", lambda paths: read.extend(paths) or original(paths)
    )
    monkeypatch.setattr(prefix_identity, "_SETTLED", 0)
    directory, memo = open_policy_dir(policy), tmp_path / "keys"
    weights = policy / "model.safetensors"
    first = policy_identity(directory, "float32", memo)
    assert policy_identity(directory, "float32", memo) == first
    assert read == [weights]
    info = weights.stat()
    change(weights, 1 << 19)
    os.utime(weights, ns=(info.st_atime_ns, info.st_mtime_ns))  # as `cp -p` would
    changed = policy_identity(directory, "float32", memo)
    assert changed != first
    assert read == [weights] * 2
    for damaged in ("[]", '{"a": 1}', '{"a', "[" * 10**5):
        (memo / "weights.json").write_text(damaged)
        assert policy_identity(directory, "float32", memo) == changed
    assert read == [weights] * 6


def test_weights_that_have_just_changed_are_read_again(policy, tmp_path):
    """Another change could leave the same time."""
    policy_identity(open_policy_dir(policy), "float32", tmp_path / "keys")
    assert json.loads((tmp_path / "keys" / "weights.json").read_text()) == {}


def test_a_store_for_a_policy(policy, tmp_path):
    folder = tmp_path / "keys"
    ids = ids_of(1, 2)
    directory = open_policy_dir(policy)
    PrefixStore.for_policy(directory, "float32", folder).put(ids, keys_of(ids))
    notes = []

    def found(dtype="float32"):
        make = PrefixStore.for_policy
        return make(directory, dtype, folder, on_note=notes.append).find(ids, 1)

    assert found() is not None
    assert found("bfloat16") is None
    change(policy / "model.safetensors")
    assert found() is None
    assert len(notes) == 2


def test_memory_by_default(monkeypatch):
    monkeypatch.setattr(prefix_store.machine, "memory", lambda: 8 << 30)
    assert prefix_store.default_memory_bytes() == 1 << 30
    monkeypatch.setattr(prefix_store.machine, "memory", lambda: None)
    assert prefix_store.default_memory_bytes() == 1 << 30

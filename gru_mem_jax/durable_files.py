"""Files and folders that are written whole or not at all, and their sha256 lists.

On a disk a file or folder is written aside and renamed; in a bucket an object is
written whole by the service, and a folder is whole when it has its list. The list of a
folder has the format of `sha256sum`, so that `sha256sum -c SHA256SUMS` checks it
without this package.
"""

import concurrent.futures
import contextlib
import errno
import hashlib
import os
import pathlib
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from gru_mem_jax import buckets, storage
from gru_mem_jax.errors import InputError, RunError

MANIFEST = "SHA256SUMS"
_LINE = re.compile(r"([0-9a-f]{64})  (\S(?:.*\S)?)")
_MAX_MANIFEST = 1 << 26
_WORTH_THREADS = 1 << 24
Part = tuple[int, int]
WHOLE: Part = (0, 1)
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_atomically(path: str | os.PathLike[str], data: bytes | str) -> None:
    """Replaces a file by one that is whole and on disk.

    Raises:
      OSError: as the file system gives it; the old file is as it was.
    """
    path = storage.locate(path)
    if isinstance(data, str):
        data = data.encode()
    if storage.in_bucket(path):
        buckets.write(path, data)
        return
    aside = path.with_name(f"{short_name(path)}.saving")
    try:
        with open(aside, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except OSError:
        with contextlib.suppress(OSError):
            aside.unlink()
        raise
    sync_folder(path.parent)


def write_shared(
    path: str | os.PathLike[str], parts: Iterable[bytes | memoryview]
) -> None:
    """Replaces a file of a cache by one that is whole; any processes may do so at once.

    A power cut may lose or damage it, so that readers must check it.

    Args:
      path: of the file; only this user may read it.
      parts: its bytes.

    Raises:
      OSError: as the file system gives it; the old file is as it was.
    """
    path = pathlib.Path(path)
    prefix = f"{short_name(path)}."
    fd, aside = tempfile.mkstemp(prefix=prefix, suffix=".saving", dir=path.parent)
    try:
        with open(fd, "wb", buffering=0) as file:
            for part in parts:
                rest = memoryview(part)
                while rest:
                    rest = rest[file.write(rest) :]
        os.replace(aside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(aside)
        raise


@contextlib.contextmanager
def whole_folder(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
    """While entered, a folder to fill; at its end it is `path`, whole and on disk.

    Args:
      path: does not exist yet, or is an empty folder. After an error it is as before.

    Raises:
      InputError: it is something else, or in a bucket.
      RunError: a file cannot be written.
    """
    if storage.in_bucket(path):
        raise InputError(
            f"{path}: a folder can only be made whole on a disk; give one there, and "
            "copy it (gcloud storage cp -r)"
        )
    target = pathlib.Path(os.path.abspath(path))
    _check_new(target)
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        prefix = f".{short_name(target)}.saving-"
        aside = pathlib.Path(tempfile.mkdtemp(prefix=prefix, dir=target.parent))
        try:
            yield aside
            for file in aside.rglob("*"):
                _sync(file)
            umask = os.umask(0)
            os.umask(umask)
            aside.chmod(0o777 & ~umask)
            sync_folder(aside)
            _check_new(target)
            os.rename(aside, target)  # over an empty folder this is allowed
            sync_folder(target.parent)
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def _check_new(folder: pathlib.Path) -> None:
    if not folder.exists():
        if folder.is_symlink():
            raise InputError(f"{folder}: the link leads nowhere")
        return
    if not folder.is_dir() or folder.is_symlink():
        raise InputError(f"{folder}: expected an empty or a new directory")
    if any(folder.iterdir()):
        raise InputError(f"{folder}: not empty; nothing is overwritten")


def short_name(path: pathlib.Path) -> str:
    """The path's name, cut so that something can be added: names end at 255 bytes."""
    return os.fsdecode(os.fsencode(path.name)[:200])


def _sync(path: str | os.PathLike[str]) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_folder(folder: str | os.PathLike[str]) -> None:
    """Makes names in a folder survive a power cut, where the file system can."""
    with contextlib.suppress(OSError):
        _sync(folder)


def drop_cached(folder: str | os.PathLike[str]) -> None:
    """Drops a folder's files from the page cache: the next read comes from disk."""
    if not hasattr(os, "posix_fadvise") or storage.in_bucket(folder):
        return
    for name in _names(pathlib.Path(folder)):
        with contextlib.suppress(OSError), open(pathlib.Path(folder) / name, "rb") as f:
            os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@contextlib.contextmanager
def writing(
    path: str | os.PathLike[str], *, needed: int | None = None
) -> Iterator[None]:
    """While entered, an OSError becomes the RunError of `storage_error`."""
    try:
        yield
    except OSError as error:
        raise storage_error(path, error, needed=needed) from error


def storage_error(
    path: str | os.PathLike[str], error: BaseException, *, needed: int | None = None
) -> RunError:
    """The error to raise when a write fails.

    Args:
      path: what was being written.
      error: what was raised.
      needed: bytes that were to be written, where known.
    """
    size = "" if needed is None else f" ({needed} bytes to write)"
    if is_full(error):
        free = ""
        if storage.in_bucket(path):
            return RunError(f"{path}: no space left to write{size}: {error}")
        with contextlib.suppress(OSError):
            folder = next(
                p
                for p in (pathlib.Path(path), *pathlib.Path(path).parents)
                if p.is_dir()
            )
            free = f", {shutil.disk_usage(folder).free} bytes free"
        return RunError(
            f"{path}: no space left to write{size}{free}; what was saved before is "
            "intact: free some space and give the same command again"
        )
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    # Tensorstore adds the whole specification of the array.
    line = reason.splitlines()[0].partition(" [tensorstore_spec")[0]
    return RunError(f"{path}: cannot be written{size}: {line}")


def is_full(error: BaseException) -> bool:
    """Whether an error says that a disk, a quota or a file is full."""
    if isinstance(error, OSError) and error.errno in _NO_SPACE:
        return True
    words = ("no space left", "disk quota exceeded", "file too large", "enospc")
    return any(word in str(error).lower() for word in words)


def write_manifest(
    folder: str | os.PathLike[str], rest: Callable[[], None] | None = None
) -> None:
    """Lists the sha256 of every file below a folder in its SHA256SUMS.

    Args:
      folder: of the files.
      rest: called after each file; without it they are read in parallel.
    """
    write_list(folder, digests(folder, rest))


def write_list(folder: str | os.PathLike[str], found: Mapping[str, str]) -> None:
    """Writes the SHA256SUMS of a folder from `digests`."""
    text = "".join(f"{found[name]}  {name}\n" for name in sorted(found))
    write_atomically(storage.locate(folder) / MANIFEST, text)


def digests(
    folder: str | os.PathLike[str],
    rest: Callable[[], None] | None = None,
    part: Part = WHOLE,
) -> dict[str, str]:
    """Sha256 of the files below a folder by name, without its SHA256SUMS.

    Args:
      folder: of the files.
      rest: see `write_manifest`.
      part: (i, n): the files i, i + n, ... alone, in the order of their names.
    """
    folder = storage.locate(folder)
    names = [name for name in _names(folder) if name != MANIFEST][part[0] :: part[1]]
    return dict(zip(names, sha256_all([folder / name for name in names], rest)))


def problems(
    folder: str | os.PathLike[str],
    rest: Callable[[], None] | None = None,
    part: Part = WHOLE,
) -> tuple[str, ...]:
    """What is wrong with a folder that `write_manifest` has seen; empty: nothing.

    Every file must be present, regular, listed and equal to its sha256, so that no
    byte can change unnoticed, the list's own included. Files that another process
    deletes meanwhile count as missing. `rest` and `part`: see `digests`; the bytes of
    other files are not read.
    """
    folder = storage.locate(folder)
    try:
        known = _read_manifest(folder / MANIFEST)
        present = set(_names(folder)) - {MANIFEST}
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        return (f"{MANIFEST}: {reason}",)
    found = [f"{name} is missing" for name in sorted(known.keys() - present)]
    found += [f"{name} is not listed" for name in sorted(present - known.keys())]
    regular = []
    try:
        for name in sorted(known.keys() & present)[part[0] :: part[1]]:
            if storage.in_bucket(folder) or _is_regular(folder / name):
                regular.append(name)
            else:
                found.append(f"{name} is not a regular file")
        hashes = sha256_all([folder / name for name in regular], rest)
        for name, digest in zip(regular, hashes):
            if digest != known[name]:
                size = storage.size(folder / name)
                found.append(
                    f"{name} differs from its sha256: "
                    + ("it is empty" if size == 0 else f"cut or changed ({size} bytes)")
                )
    except OSError as error:
        found.append(f"{error.filename}: {error.strerror}")
    return tuple(found)


def listed(folder: Any) -> list[str]:
    """Names of the files in a folder's SHA256SUMS.

    Raises:
      OSError, ValueError: it cannot be read.
    """
    return sorted(_read_manifest(storage.locate(folder) / MANIFEST))


def _names(folder: Any) -> list[str]:
    """All files and links below a folder; links are not followed."""
    if storage.in_bucket(folder):
        return buckets.files(folder)
    found = []
    for base, folders, files in os.walk(folder):
        links = [name for name in folders if os.path.islink(os.path.join(base, name))]
        for name in [*files, *links]:
            found.append((pathlib.Path(base) / name).relative_to(folder).as_posix())
    return sorted(found)


def _is_regular(path: pathlib.Path) -> bool:
    return stat.S_ISREG(os.lstat(path).st_mode)


def _read_manifest(path: Any) -> dict[str, str]:
    regular = storage.in_bucket(path) or _is_regular(path)
    if not regular or storage.size(path) > _MAX_MANIFEST:
        raise ValueError("not a list of sha256 sums")
    text = storage.read_bytes(path).decode("utf-8", errors="replace")
    lines = text.split("\n")
    if len(lines) < 2 or lines[-1]:
        raise ValueError("empty, or cut in a line")
    listed = {}
    for number, line in enumerate(lines[:-1], 1):
        match = _LINE.fullmatch(line)
        if match is None or match[2] in listed:
            raise ValueError(f"line {number} is not 'sha256  name'")
        listed[match[2]] = match[1]
    return listed


def sha256_all(
    paths: Sequence[Any], rest: Callable[[], None] | None = None
) -> list[str]:
    """Hex sha256 of each file; `rest`: see `write_manifest`."""
    if rest is not None:
        hashes = []
        for path in paths:
            hashes.append(sha256(path))
            rest()
        return hashes
    if sum(map(storage.size, paths)) < _WORTH_THREADS:
        return [sha256(path) for path in paths]
    workers = max(1, min(8, os.cpu_count() or 1, len(paths)))
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        return list(pool.map(sha256, paths))


def sha256(path: str | os.PathLike[str]) -> str:
    """Hex sha256 of a file's bytes."""
    with storage.reader(storage.locate(path)) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""Objects of Google Cloud Storage, by gcsfs; errors are OSErrors with one line.

Nothing is cached: other processes write here too. To use an emulator set
STORAGE_EMULATOR_HOST (gcsfs reads it) and TENSORSTORE_GCS_HTTP_URL (Orbax's arrays go
through tensorstore) to its address.
"""

import contextlib
import errno
import functools
import logging
import os
import posixpath
from collections.abc import Iterator
from typing import Any

from gru_mem_jax.errors import InputError

_REQUEST_SECONDS = 60.0
_PROBE_SECONDS = 10.0
_EMULATOR = ("STORAGE_EMULATOR_HOST", "TENSORSTORE_GCS_HTTP_URL")


def check(path: Any) -> None:
    """Asks for a path's bucket once, so that what cannot work fails within seconds.

    Raises:
      InputError: gcsfs is not installed, there is no such bucket, it may not be read,
        or the service does not answer.
    """
    bucket, _ = _split(path)
    if not bucket:
        raise InputError(f"{path}: names no bucket; expected gs://BUCKET/PATH")
    if len({bool(os.environ.get(name)) for name in _EMULATOR}) > 1:
        raise InputError(
            f"{path}: an emulator needs both {' and '.join(_EMULATOR)}; one is set"
        )
    from fsspec.asyn import sync

    system = _system()
    try:
        with _told(path):
            # Objects, not the bucket's record: to read that is another permission.
            sync(
                system.loop,
                system._call,
                "GET",
                "b/{}/o",
                bucket,
                maxResults=1,
                timeout=_PROBE_SECONDS,
            )
    except FileNotFoundError:
        raise InputError(f"{path}: there is no bucket {bucket}") from None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error


def kind(path: Any) -> str | None:
    """Either "file" or "folder"; None: there is neither."""
    with _told(path):
        try:
            found = _system().info(_name(path))["type"]
        except FileNotFoundError:
            return None
    return "folder" if found == "directory" else "file"


def names(folder: Any) -> list[str]:
    """Names of what is in a folder; it need not exist."""
    with _told(folder):
        try:
            found = _system().ls(_name(folder), detail=False)
        except FileNotFoundError:
            return []
    own = _name(folder).rstrip("/")
    return [posixpath.basename(n.rstrip("/")) for n in found if n.rstrip("/") != own]


def listing(folder: Any) -> dict[str, tuple[int, int]]:
    """Size and generation of all objects in a folder, by path below it, in order."""
    with _told(folder):
        found = _system().find(_name(folder), detail=True)
    return {
        posixpath.relpath(name, _name(folder)): (
            int(info["size"]),
            int(info["generation"]),
        )
        for name, info in sorted(found.items())
    }


def files(folder: Any) -> list[str]:
    """Paths below a folder of all objects in it, in order."""
    return sorted(listing(folder))


def size(path: Any) -> int:
    """Bytes of an object."""
    with _told(path):
        return int(_system().info(_name(path))["size"])


def read(path: Any, start: int | None = None, end: int | None = None) -> bytes:
    """The bytes of an object, or some of them."""
    with _told(path):
        return _system().cat_file(_name(path), start=start, end=end)


def write(path: Any, data: bytes) -> None:
    """Writes an object, whole or not at all."""
    with _told(path):
        _system().pipe_file(_name(path), data)


def remove(path: Any) -> None:
    """Removes an object."""
    with _told(path):
        _system().rm_file(_name(path))


def remove_folder(folder: Any) -> None:
    """Removes all objects of a folder."""
    with _told(folder), contextlib.suppress(FileNotFoundError):
        _system().rm(_name(folder), recursive=True)


def copy_folder(folder: Any, to: Any) -> None:
    """Copies all objects of a folder, within the service."""
    for name in files(folder):
        with _told(folder / name):
            _system().cp_file(_name(folder / name), _name(to / name))


def download(path: Any, target: os.PathLike[str]) -> None:
    """Copies an object to a file."""
    with _told(path):
        _system().get_file(_name(path), os.fspath(target))


def generation(path: Any) -> int:
    """The number of an object's present contents; 0: there is no object."""
    with _told(path):
        try:
            return int(_system().info(_name(path))["generation"])
        except FileNotFoundError:
            return 0


def write_if(path: Any, data: bytes, before: int) -> int:
    """Writes an object if its generation is still the one given (0: none).

    Returns:
      The new generation.

    Raises:
      FileExistsError: it is another one.
    """
    system = _system()
    bucket, key = _split(path)
    with _told(path):
        answer = system.call(
            "POST",
            system.base.replace("/storage/v1/", "/upload/storage/v1/") + "b/{}/o",
            bucket,
            uploadType="media",
            name=key,
            ifGenerationMatch=str(before),
            headers={"Content-Type": "application/octet-stream"},
            data=data,
            json_out=True,
        )
    return int(answer["generation"])


def _name(path: Any) -> str:
    return os.fspath(path).removeprefix("gs://")


def _split(path: Any) -> tuple[str, str]:
    bucket, _, key = _name(path).partition("/")
    return bucket, key


@functools.lru_cache(maxsize=1)
def _system() -> Any:
    try:
        import fsspec
        import gcsfs
        from etils import epath  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"paths of gs:// need gcsfs ({error}): pip install 'gru_mem_jax[gcs]'"
        ) from error
    # It logs tracebacks of errors that it raises too.
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL + 1)
    options: dict[str, Any] = {"use_listings_cache": False}
    if os.environ.get(_EMULATOR[0]):
        options["token"] = "anon"
    # Orbax comes to gcsfs by way of epath: by the same class, with the same options.
    # The class that gcsfs registers asks for each bucket's kind by gRPC first, which
    # an emulator does not answer.
    for protocol in gcsfs.core.GCSFileSystem.protocol:
        fsspec.register_implementation(protocol, gcsfs.core.GCSFileSystem, clobber=True)
        fsspec.config.conf[protocol] = options | fsspec.config.conf.get(protocol, {})
    return fsspec.filesystem("gs", requests_timeout=_REQUEST_SECONDS)


@contextlib.contextmanager
def _told(path: Any) -> Iterator[None]:
    """Errors of gcsfs and what is below it as an OSError with one line."""
    name = os.fspath(path)
    try:
        yield
    except FileNotFoundError:
        code = errno.ENOENT
        raise FileNotFoundError(code, "no such object or bucket", name) from None
    except FileExistsError:
        raise FileExistsError(errno.EEXIST, "has other contents", name) from None
    except Exception as error:  # gcsfs raises what aiohttp, google.auth, ... raise
        raise _as_os_error(error, name) from error


def _as_os_error(error: Exception, name: str) -> OSError:
    text = " ".join(str(error).split())[:200]
    denied = getattr(error, "code", None) in (401, 403) or text.startswith("Forbidden")
    library = type(error).__module__.partition(".")[0]
    if denied or library == "google":
        return PermissionError(
            errno.EACCES,
            f"permission denied ({text}); sign in (gcloud auth application-default "
            "login), or grant roles/storage.objectUser",
            name,
        )
    if isinstance(error, TimeoutError) or library in ("aiohttp", "fsspec", "requests"):
        text = text or f"{type(error).__name__}"
        return OSError(
            errno.ETIMEDOUT, f"the storage service does not answer ({text})", name
        )
    if isinstance(error, OSError) and error.strerror:
        return error
    return OSError(errno.EIO, text or type(error).__name__, name)

"""Policies in a bucket: downloaded once, into a folder of the user's cache."""

import hashlib
import json
import os
import pathlib

from gru_mem_jax import buckets, durable_files, storage
from gru_mem_jax.errors import GRUMemError, PolicyError
from gru_mem_jax.policy.files import CONFIG, SHARD_NAME, SIZE_LIMITS, is_tokenizer_file


def fetch(location: str) -> pathlib.Path:
    """Downloads the files of a policy, or finds them where they are from before.

    Args:
      location: `gs://bucket/path` of a policy directory.

    Returns:
      The directory on disk. Its name depends on the objects' generations: a policy that
      was replaced is downloaded again.

    Raises:
      PolicyError: it is no policy directory, cannot be read, or has no room.
    """
    source = storage.locate(location.rstrip("/"))
    try:
        buckets.check(source)
        found = buckets.listing(source)
    except (OSError, GRUMemError) as error:
        raise PolicyError(getattr(error, "strerror", None) or str(error)) from error
    if CONFIG not in found:
        if "environment.json" in found:
            raise PolicyError(
                f"{location}: is a run folder: `gru-mem export {location} --out DIR` "
                "writes its policy"
            )
        raise PolicyError(f"{location}: holds no {CONFIG}: not a policy directory")
    taken = {name: found[name] for name in sorted(found) if _is_taken(name)}
    key = json.dumps([str(source), taken])
    digest = hashlib.sha256(key.encode()).hexdigest()[:16]
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    target = pathlib.Path(cache) / "gru_mem" / "policies" / f"{source.name}-{digest}"
    if not target.is_dir():
        _download(source, taken, target)
    return target


def _is_taken(name: str) -> bool:
    return (
        name in SIZE_LIMITS
        or is_tokenizer_file(name)
        or SHARD_NAME.fullmatch(name) is not None
    )


def _download(source, names, target: pathlib.Path) -> None:
    try:
        with durable_files.whole_folder(target) as folder:
            for name in names:
                (folder / name).parent.mkdir(exist_ok=True)
                buckets.download(source / name, folder / name)
    except (OSError, GRUMemError) as error:
        if target.is_dir() and any(target.iterdir()):
            return  # another process was quicker
        reason = getattr(error, "strerror", None) or str(error)
        raise PolicyError(
            f"{source}: cannot be downloaded ({reason}); it needs room in {target}: "
            "XDG_CACHE_HOME names another folder"
        ) from error

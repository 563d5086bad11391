"""Policies from the Hugging Face hub, at a stated revision."""

import pathlib
import re

from gru_mem_jax.errors import PolicyError
from gru_mem_jax.policy.files import TEMPLATE_FOLDER

_LOCATION = re.compile(
    r"hf://(?P<repo>[\w-][\w.-]*/[\w-][\w.-]*)@(?P<revision>[\w-][\w./-]*)", re.ASCII
)
# Weights in safetensors, JSON, templates; and, for exports, tokenizer files that only
# other programs read.
_PATTERNS = [
    "*.safetensors",
    "*.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
    f"{TEMPLATE_FOLDER}/*.jinja",
]
# Mistral's repositories hold all weights a second time, in their own format; others
# have further formats in folders.
_LEFT_OUT = ["consolidated*.safetensors", "*/*.safetensors"]
_COMMIT = re.compile(r"[0-9a-f]{40}", re.ASCII)


def fetch(location: str) -> tuple[pathlib.Path, str]:
    """Downloads the files of a policy, or finds them in the hub's cache.

    Args:
      location: `hf://org/name@revision`, the revision a commit, a tag or a branch.

    Returns:
      The directory, and the commit that it is at.

    Raises:
      PolicyError: a location of another form, or the hub does not answer.
    """
    match = _LOCATION.fullmatch(location)
    if match is None or ".." in location:
        raise PolicyError(
            f"{location[:200]!r}: expected hf://org/name@revision, the revision a "
            "commit, tag or branch (main, say)"
        )
    import huggingface_hub

    try:
        path = huggingface_hub.snapshot_download(
            match["repo"],
            revision=match["revision"],
            allow_patterns=_PATTERNS,
            ignore_patterns=_LEFT_OUT,
        )
    except Exception as error:  # the hub client raises errors of many libraries
        line = " ".join(str(error).split())[:300]
        raise PolicyError(f"{location}: {type(error).__name__}: {line}") from None
    root = pathlib.Path(path)
    # The cache names a snapshot by its commit.
    if not _COMMIT.fullmatch(root.name):
        raise PolicyError(f"{location}: no commit in the snapshot's path {root}")
    return root, root.name

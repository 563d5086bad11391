"""Chat templates, which are Jinja programs, rendered in a sandboxed process."""

import functools
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from gru_mem_jax.errors import PolicyError

_CHILD = pathlib.Path(__file__).with_name("jinja_child.py")
_MAX_CHARACTERS = 1_000_000
_MAX_CPU_SECONDS = 10
_MAX_BYTES = 512 << 20
_TIMEOUT_SECONDS = 60  # of wall-clock, for a busy machine


class TemplateError(PolicyError):
    """An error that the template itself raises."""


def variables(
    messages: list[dict[str, Any]], given: Mapping[str, Any], generate: bool
) -> str:
    """The variables of a chat template, as a JSON object.

    Args:
      messages: {"role": ..., "content": ...} each.
      given: special tokens by role, {"bos_token": "<s>", ...}, and further variables.
      generate: whether the prompt ends with the start of the assistant's turn.
    """
    names = {"messages": messages, "add_generation_prompt": generate}
    return json.dumps({"tools": None, "documents": None, **given, **names})


def _path() -> str:
    """The child's import path: its dependencies, and no script's folder."""
    specs = map(importlib.util.find_spec, ("jinja2", "markupsafe"))
    folders = {
        os.path.dirname(os.path.dirname(os.path.abspath(s.origin))) for s in specs
    }
    return os.pathsep.join(sorted(folders))


@functools.lru_cache(maxsize=64)
def render(template: str, variables: str, date: str) -> str:
    """Renders a chat template in a process of its own, sandboxed and bounded.

    Args:
      template: Jinja source.
      variables: of `variables`.
      date: today's date for the template, as YYYY-MM-DD. A setting, since a prompt
        that changes at midnight can't be shared or resumed.

    Raises:
      TemplateError: the template fails.
      PolicyError: it exceeds a limit of time, memory or length.
    """
    job = {
        "template": template,
        "variables": json.loads(variables),
        "date": date,
        "max_characters": _MAX_CHARACTERS,
        "max_seconds": _MAX_CPU_SECONDS,
        "max_bytes": _MAX_BYTES,
    }
    # -P: nothing is imported from the child's folder.
    command = [sys.executable, "-P", str(_CHILD)]
    try:
        child = subprocess.run(
            command,
            input=json.dumps(job),
            capture_output=True,
            encoding="utf-8",
            timeout=_TIMEOUT_SECONDS,
            env={**os.environ, "PYTHONPATH": _path(), "PYTHONIOENCODING": "utf-8"},
        )
    except subprocess.TimeoutExpired:
        raise PolicyError(
            f"the chat template did not end within {_TIMEOUT_SECONDS} seconds"
        ) from None
    try:
        result = json.loads(child.stdout)
    except ValueError:
        raise PolicyError(
            f"the chat template exceeded its limit of {_MAX_CPU_SECONDS} seconds or "
            f"{_MAX_BYTES >> 20} MB (its process ended with status {child.returncode})"
        ) from None
    if "error" in result:
        raise TemplateError(f"the chat template fails: {result['error']}")
    return result["text"]

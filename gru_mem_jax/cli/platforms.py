"""JAX's platform: whether it is available. Failures here are the environment's."""

import os
import re
import traceback
from typing import Any

from gru_mem_jax.errors import InputError
from gru_mem_jax.records import cut

_TAKE = "set JAX_PLATFORMS=cpu, or unset it to use any that is available"
# Requirements of the platforms.
_NEEDS = {
    "cuda": "jax's CUDA plug-in (pip install 'jax[cuda12]') and an NVIDIA driver",
    "gpu": "jax's CUDA or ROCm plug-in (pip install 'jax[cuda12]') and a driver",
    "rocm": "jax's ROCm plug-in and an AMD driver",
    "tpu": "libtpu (pip install 'jax[tpu]') and a TPU",
}
_UNUSABLE = re.compile(r"[Uu]nable to initialize backend '([^']*)': *")
_ADVICE = re.compile(r"\s*\((?:set JAX_PLATFORMS|you may need to)[^)]*\)\s*$")


def devices() -> list[Any]:
    """All devices of the platform that is set; starts it.

    Raises:
      InputError: JAX cannot be imported, or the platform is not available; says what
        to set or install.
    """
    try:
        import jax

        return list(jax.devices())
    except Exception as error:  # of jax, or of any plug-in
        raise InputError(explain(error)) from error


def is_platform_error(error: BaseException) -> bool:
    """Whether JAX says that a platform cannot be used."""
    return bool(_UNUSABLE.search(str(error)))


def explain(error: BaseException) -> str:
    """One line for an error of `jax.devices()`, or of importing JAX."""
    text = _ADVICE.sub("", " ".join(str(error).split()))
    refused = _UNUSABLE.search(text)
    reason = cut(_UNUSABLE.sub("", text), 200).rstrip(".")
    if refused is None and (setting := _setting_in(text)) is not None:
        return f"{setting}={os.environ[setting]!r} is refused by jax: {reason}"
    if isinstance(error, ImportError) or "jaxlib version" in text:
        return (
            f"jax cannot be imported: {reason}; install gru_mem_jax again, with its "
            "dependencies"
        )
    asked = os.environ.get("JAX_PLATFORMS", "")
    names = [name for name in asked.split(",") if name.strip()]
    failed = [refused[1]] if refused and refused[1] in names else names
    if failed == ["cpu"] or not names:
        place = _outside_jax(error)
        where = f" ({place})" if place else ""
        return (
            f"jax cannot start its devices: {reason or type(error).__name__}{where}; "
            "check the JAX_* variables that are set and the plug-ins of jax that are "
            "installed"
        )
    meant = failed[0].strip().lower()
    if meant in {"cpu", *_NEEDS} - {failed[0]}:
        return f"JAX_PLATFORMS={asked!r}: there is no platform {failed[0]!r}: {meant}?"
    because = f" ({reason})" if reason else ""
    needed = _NEEDS.get(meant, "a plug-in of jax of that name")
    return (
        f"JAX_PLATFORMS={asked}: the platform {', '.join(failed)} is not available"
        f"{because}; it needs {needed}; or {_TAKE}"
    )


def _setting_in(text: str) -> str | None:
    """The environment variable that an error of jax names, if it is set."""
    for word in re.findall(r"\bjax_\w+", text, re.IGNORECASE):
        if word.upper() in os.environ:
            return word.upper()
    return None


def _outside_jax(error: BaseException) -> str | None:
    """File and line where a plug-in raised; None if jax itself did."""
    frames = traceback.extract_tb(error.__traceback__)
    parts = os.path.normpath(frames[-1].filename).split(os.sep) if frames else ["jax"]
    if {"jax", "jaxlib"} & set(parts):
        return None
    return f"{frames[-1].filename}, line {frames[-1].lineno}"

"""The shape of a policy, without its weights."""

import json
import pathlib

from gru_mem_jax.errors import InputError, PolicyError
from gru_mem_jax.policy.config import PolicyConfig
from gru_mem_jax.policy.files import CONFIG, open_policy_dir
from gru_mem_jax.policy.hf import load_config
from gru_mem_jax.records import did_you_mean

_SHAPES = pathlib.Path(__file__).with_name("shapes")
_LARGEST = 1 << 20  # bytes of a config.json


def shipped() -> tuple[str, ...]:
    """Names of the models whose config.json comes with the package."""
    return tuple(sorted(file.stem for file in _SHAPES.glob("*.json")))


def model_shape(name: str) -> PolicyConfig:
    """The shape of a policy.

    Args:
      name: of `shipped`, a policy directory, or a config.json.

    Raises:
      InputError: there is no such model.
      PolicyError: its config.json cannot be used.
    """
    path = pathlib.Path(name)
    if name in shipped():
        path = _SHAPES / f"{name}.json"
    elif path.is_dir() or name.startswith("hf://"):
        return load_config(open_policy_dir(name))
    elif not path.is_file():
        raise InputError(
            f"{name!r} is neither one of {', '.join(shipped())} nor a policy directory "
            f"nor a {CONFIG}{did_you_mean(name, shipped())}"
        )
    try:
        with path.open(encoding="utf-8") as file:
            return PolicyConfig.from_hf(json.loads(file.read(_LARGEST)))
    except (ValueError, RecursionError, OSError) as error:
        if isinstance(error, InputError):
            raise PolicyError(f"{path}: {error}") from None
        raise PolicyError(f"{path}: not a {CONFIG}: {error}") from None

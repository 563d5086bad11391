"""Policies from Hugging Face directories, without torch and without pickle."""

import dataclasses
import os
import warnings
from typing import TYPE_CHECKING, Any, Literal

from gru_mem_jax.errors import InputError, PolicyError
from gru_mem_jax.policy.checkpoint_files import (
    StoredTensor,
    find_tensors,
    own_head,
    read_tensors,
)
from gru_mem_jax.policy.config import PolicyConfig
from gru_mem_jax.policy.files import CONFIG, PolicyDir, open_policy_dir

if TYPE_CHECKING:
    from jax.sharding import Mesh

    from gru_mem_jax.policy.functional import Params, Policy

DTYPES = ("float32", "bfloat16", "float16")


def load_config(directory: PolicyDir) -> PolicyConfig:
    """The validated config.json of a policy directory.

    As in transformers, a head that the weights hold and that differs from the embedding
    is not tied, whatever config.json says.

    Raises:
      PolicyError: missing, not JSON, or not supported.
    """
    return _config_and_head(directory)[0]


def _config_and_head(directory: PolicyDir) -> tuple[PolicyConfig, str | None]:
    """The configuration, and the head's name if it is used against config.json."""
    raw = directory.read_json(CONFIG)
    where = directory.root / CONFIG
    if raw is None:
        raise PolicyError(f"{where}: missing; expected a Hugging Face model directory")
    try:
        config = PolicyConfig.from_hf(raw)
    except PolicyError as error:
        raise PolicyError(f"{where}: {error}") from None
    stated = str(raw.get("dtype") or raw.get("torch_dtype"))
    head = own_head(directory, config, stated.removeprefix("torch."))
    if head is not None:
        config = dataclasses.replace(config, tie_word_embeddings=False)
    return config, head


def load_policy(
    location: str | os.PathLike[str],
    dtype: Any = None,
    *,
    mesh: "Mesh | None" = None,
    form: Literal["stacked", "sampling"] = "stacked",
) -> tuple["Policy", "Params"]:
    """Loads a policy, tensor by tensor, directly to its devices.

    Config, names, shapes, dtypes and sizes are checked before memory is allocated. In
    addition to the weights about one tensor is held.

    Args:
      location: a directory, or `hf://org/name@revision`.
      dtype: of the weights: float32, bfloat16 or float16; None: as they are stored, the
        widest where they differ.
      mesh: spread the weights over it by `parallelism.PARAM_RULES`; None: the default
        device.
      form: "stacked" for training, "sampling" saves the sampler a copy.

    Returns:
      The policy, and its params in that form.

    Raises:
      PolicyError: names the file, the tensor, what was expected and what was found.
      InputError: a dtype or form that does not exist.
    """
    name = dtype_name(dtype)
    if form not in ("stacked", "sampling"):
        raise InputError(f"form must be stacked or sampling, got {form!r}")
    directory = open_policy_dir(location)
    config, head = _config_and_head(directory)
    tensors = find_tensors(directory, config)
    if head is not None:
        warnings.warn(
            f"{directory.root}: config.json says tie_word_embeddings, but the weights "
            f"hold {head}, which is not the embedding: it is used, and they are not "
            "tied (tie_word_embeddings false in config.json would say so)",
            stacklevel=2,
        )
    name = name or _widest(tensors)
    # Imported late: bad directories are refused without the cost of jax.
    from gru_mem_jax.policy.functional import make_policy
    from gru_mem_jax.policy.loading import ParamsLoader

    policy = make_policy(config)
    loader = ParamsLoader(policy, name, mesh, form)
    loader.check_memory(directory.root)
    for tensor, read in read_tensors(directory, tensors):
        loader.add(tensor, read)
    params, not_finite = loader.finish()
    for tensor in not_finite:
        warnings.warn(
            f"{directory.root / tensor.file}: tensor {tensor.name!r} holds values that "
            "are not finite",
            stacklevel=2,
        )
    return policy, params


def dtype_name(dtype: Any) -> str | None:
    """The name of a dtype that weights may have; None stays None.

    Raises:
      InputError: it is none of DTYPES.
    """
    if dtype is None:
        return None
    name = dtype if isinstance(dtype, str) else getattr(dtype, "__name__", str(dtype))
    if name not in DTYPES:
        raise InputError(f"dtype must be one of {', '.join(DTYPES)}, got {name!r}")
    return name


def _widest(tensors: list[StoredTensor]) -> str:
    found = {tensor.dtype for tensor in tensors}
    return found.pop() if len(found) == 1 else "float32"

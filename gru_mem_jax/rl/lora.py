"""Low-rank adapters (Hu et al., "LoRA", arXiv 2106.09685) over plain dicts of params.

    W' = W + (alpha / rank) A B        A [in, rank], B [rank, out]

W is frozen, A and B are trained; B starts at 0, so that W' starts at W. The sum is made
inside the training step, so that the policy, packing and the sampler see ordinary
params. Making it costs rank / tokens of what the step's products with W cost.

Why not qwix: it adapts a model by calling it once and catching the products of its
flax modules. Here layers are stacked arrays, put together to a module inside `lax.scan`
while a program is traced: there is no model to call, and adapters made in there would
be lost with the trace.
"""

import dataclasses
import json
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gru_mem_jax.errors import InputError
from gru_mem_jax.policy.functional import Params, Policy
from gru_mem_jax.records import check_int, check_number, plain_numbers

Adapters = dict[str, Any]
Path = tuple[jax.tree_util.DictKey, ...]  # of a leaf

# Kernels that may have an adapter, and what Hugging Face calls them.
TARGETS = {
    "q": ("attn", "self_attn.q_proj"),
    "k": ("attn", "self_attn.k_proj"),
    "v": ("attn", "self_attn.v_proj"),
    "o": ("attn", "self_attn.o_proj"),
    "gate": ("mlp", "mlp.gate_proj"),
    "up": ("mlp", "mlp.up_proj"),
    "down": ("mlp", "mlp.down_proj"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Which kernels are adapted, and how.

    Attributes:
      rank: of each adapter.
      alpha: the adapter's product counts alpha / rank.
      targets: kernels of each layer, of "q", "k", "v", "o", "gate", "up", "down".
      seed: A is drawn from it.
    """

    rank: int = 16
    alpha: float = 32.0
    targets: tuple[str, ...] = tuple(TARGETS)
    seed: int = 0

    def __post_init__(self) -> None:
        plain_numbers(self)
        check_int("rank", self.rank, 1, 1 << 14)
        check_number("alpha", self.alpha, 0, 1e6)
        check_int("seed", self.seed, 0)
        if isinstance(self.targets, str) or not self.targets:
            raise InputError(f"targets must be names of kernels, got {self.targets!r}")
        for name in self.targets:
            if name not in TARGETS:
                raise InputError(f"LoRA targets are {', '.join(TARGETS)}; got {name!r}")

    @property
    def scale(self) -> float:
        """alpha / rank."""
        return self.alpha / self.rank


def adapter_axes(policy: Policy, config: LoraConfig) -> Adapters:
    """Axis names of each adapter, as `Policy.logical_axes`."""
    axes = policy.logical_axes()["layers"]

    def of(kernel: tuple[str, str, str]) -> dict[str, tuple[str, str, str]]:
        layers, size_in, size_out = kernel
        return {"a": (layers, size_in, "rank"), "b": (layers, "rank", size_out)}

    return _per_target(config, lambda part, name: of(axes[part][name]["kernel"]))


def abstract_adapters(policy: Policy, config: LoraConfig) -> Adapters:
    """Shapes of the adapters: a tree of float32 jax.ShapeDtypeStruct."""
    layers = policy.abstract_params()["layers"]

    def of(kernel: jax.ShapeDtypeStruct) -> dict[str, jax.ShapeDtypeStruct]:
        depth, size_in, size_out = kernel.shape
        return {
            "a": jax.ShapeDtypeStruct((depth, size_in, config.rank), jnp.float32),
            "b": jax.ShapeDtypeStruct((depth, config.rank, size_out), jnp.float32),
        }

    return _per_target(config, lambda part, name: of(layers[part][name]["kernel"]))


def init_adapters(policy: Policy, config: LoraConfig) -> Adapters:
    """A uniform in +-sqrt(3 / in) (variance 1 / in), B zero.

    Returns:
      {"layers": {"attn": {"q": {"a": [N, in, rank], "b": [N, rank, out]}, ...}, ...}}
    """
    flat, tree = jax.tree_util.tree_flatten_with_path(abstract_adapters(policy, config))
    keys = jax.random.split(jax.random.key(config.seed), len(flat))

    def draw(path: Path, leaf: jax.ShapeDtypeStruct, key: jax.Array) -> jax.Array:
        if path[-1].key == "b":
            return jnp.zeros(leaf.shape, leaf.dtype)
        bound = (3 / leaf.shape[1]) ** 0.5
        return jax.random.uniform(key, leaf.shape, leaf.dtype, -bound, bound)

    leaves = [draw(path, leaf, key) for (path, leaf), key in zip(flat, keys)]
    adapters: Adapters = jax.tree_util.tree_unflatten(tree, leaves)
    return adapters


def merge(params: Params, adapters: Adapters, scale: float) -> Params:
    """Params with W + scale A B in place of each adapted W.

    Args:
      params: stacked form; dtype of the result.
      adapters: of `init_adapters`, trained or not.
      scale: `LoraConfig.scale`.
    """
    layers = dict(params["layers"])
    for part, kernels in adapters["layers"].items():
        layers[part] = dict(layers[part])
        for name, adapter in kernels.items():
            kernel = layers[part][name]["kernel"]
            product = jnp.einsum("nir,nro->nio", adapter["a"], adapter["b"])
            merged = kernel.astype(jnp.float32) + scale * product
            layers[part][name] = layers[part][name] | {
                "kernel": merged.astype(kernel.dtype)
            }
    return params | {"layers": layers}


def save_adapters(
    adapters: Adapters,
    config: LoraConfig,
    directory: str | pathlib.Path,
    base: str = "",
) -> None:
    """Writes adapters in the layout of PEFT, which `PeftModel.from_pretrained` loads.

    Args:
      adapters: arrays, as of `init_adapters`.
      config: rank, alpha and targets.
      directory: an existing folder; gets adapter_model.safetensors and
        adapter_config.json.
      base: name or path of the model that was adapted, for the reader.
    """
    from safetensors.numpy import save_file

    directory = pathlib.Path(directory)
    tensors = {}
    for kernels in adapters["layers"].values():
        for name, adapter in kernels.items():
            for letter, array in adapter.items():
                array = np.asarray(array, np.float32)
                for layer, matrix in enumerate(array):
                    key = f"layers.{layer}.{TARGETS[name][1]}.lora_{letter.upper()}"
                    tensors[f"base_model.model.model.{key}.weight"] = (
                        np.ascontiguousarray(matrix.T)
                    )
    save_file(tensors, directory / "adapter_model.safetensors", {"format": "pt"})
    record = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": config.rank,
        "lora_alpha": config.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "target_modules": [TARGETS[n][1].split(".")[1] for n in config.targets],
    }
    text = json.dumps(record, indent=2) + "\n"
    (directory / "adapter_config.json").write_text(text, encoding="utf-8")


def _per_target(config: LoraConfig, make: Callable[[str, str], Any]) -> Adapters:
    layers: Adapters = {}
    for name in config.targets:
        part = TARGETS[name][0]
        layers.setdefault(part, {})[name] = make(part, name)
    return {"layers": layers}

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
import itertools
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gru_mem_jax.errors import InputError
from gru_mem_jax.policy.functional import Params, Policy
from gru_mem_jax.records import check_int, check_number, plain_numbers

_LISTS = ("targets", "layers")
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
    """Which kernels of which layers are adapted, and how.

    Attributes:
      rank: of each adapter.
      alpha: the adapter's product counts alpha / rank.
      targets: kernels of each layer, of "q", "k", "v", "o", "gate", "up", "down".
      layers: numbers of the layers, from 0, or from the end as -1; None: all. Below the
        first of them nothing is trained, and there is no backward pass.
      seed: A is drawn from it.
    """

    rank: int = 16
    alpha: float = 32.0
    targets: tuple[str, ...] = tuple(TARGETS)
    layers: tuple[int, ...] | None = None
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
        if self.layers is not None and not (
            isinstance(self.layers, tuple) and self.layers
        ):
            raise InputError(
                "layers must be a tuple of numbers of layers, e.g. (-2, -1), or None, "
                f"got {self.layers!r}"
            )
        for number in self.layers or ():
            check_int("a layer of layers", number, -(1 << 31), 1 << 31)

    @property
    def scale(self) -> float:
        """alpha / rank."""
        return self.alpha / self.rank

    def indices(self, depth: int) -> tuple[int, ...]:
        """The adapted layers of `depth`, rising from 0.

        Raises:
          InputError: there is no such layer, or it is named twice.
        """
        if self.layers is None:
            return tuple(range(depth))
        for number in self.layers:
            if not -depth <= number < depth:
                raise InputError(
                    f"LoraConfig.layers has layer {number}, and the policy has "
                    f"{depth}: 0 to {depth - 1}, or -{depth} to -1 from the end"
                )
        found = sorted(number % depth for number in self.layers)
        for one, other in itertools.pairwise(found):
            if one == other:
                raise InputError(f"LoraConfig.layers names layer {one} twice")
        return tuple(found)

    def first_layer(self, depth: int) -> int:
        """The lowest adapted layer of `depth`."""
        return self.indices(depth)[0]


def to_record(config: LoraConfig, depth: int) -> dict[str, Any]:
    """As a checkpoint keeps it: equal for equal adapters of a policy of `depth`."""
    record = dataclasses.asdict(config) | {"targets": list(config.targets)}
    del record["layers"]  # absent where all are adapted, as in earlier checkpoints
    layers = list(config.indices(depth))
    return record if len(layers) == depth else record | {"layers": layers}


def from_record(record: Mapping[str, Any]) -> LoraConfig:
    """What `to_record` has written."""
    lists = {name: tuple(record[name]) for name in _LISTS if name in record}
    return LoraConfig(**{**record, **lists})


def adapter_axes(policy: Policy, config: LoraConfig) -> Adapters:
    """Axis names of each adapter, as `Policy.logical_axes`."""
    axes = policy.logical_axes()["layers"]

    def of(kernel: tuple[str, str, str]) -> dict[str, tuple[str, str, str]]:
        layers, size_in, size_out = kernel
        return {"a": (layers, size_in, "rank"), "b": (layers, "rank", size_out)}

    return _per_target(config, lambda part, name: of(axes[part][name]["kernel"]))


def abstract_adapters(policy: Policy, config: LoraConfig) -> Adapters:
    """Shapes of the adapters: a tree of float32 jax.ShapeDtypeStruct.

    Raises:
      InputError: the policy has not the layers.
    """
    layers = policy.abstract_params()["layers"]
    number = len(config.indices(policy.config.num_hidden_layers))

    def of(kernel: jax.ShapeDtypeStruct) -> dict[str, jax.ShapeDtypeStruct]:
        _, size_in, size_out = kernel.shape
        return {
            "a": jax.ShapeDtypeStruct((number, size_in, config.rank), jnp.float32),
            "b": jax.ShapeDtypeStruct((number, config.rank, size_out), jnp.float32),
        }

    return _per_target(config, lambda part, name: of(layers[part][name]["kernel"]))


def init_adapters(policy: Policy, config: LoraConfig) -> Adapters:
    """A uniform in +-sqrt(3 / in) (variance 1 / in), B zero.

    Returns:
      {"layers": {"attn": {"q": {"a": [N, in, rank], "b": [N, rank, out]}, ...}, ...}}
      with N the number of adapted layers.
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


def merge(params: Params, adapters: Adapters, config: LoraConfig) -> Params:
    """Params with W + (alpha / rank) A B in place of each adapted W.

    Args:
      params: stacked form; dtype of the result.
      adapters: of `init_adapters`, trained or not.
      config: that they were made with.
    """
    layers = dict(params["layers"])
    for part, kernels in adapters["layers"].items():
        layers[part] = dict(layers[part])
        for name, adapter in kernels.items():
            kernel = layers[part][name]["kernel"]
            product = jnp.einsum("nir,nro->nio", adapter["a"], adapter["b"])
            chosen = kernel
            if some := config.layers is not None:
                at = np.asarray(config.indices(len(kernel)))
                chosen = kernel[at]
            merged = chosen.astype(jnp.float32) + config.scale * product
            merged = merged.astype(kernel.dtype)
            if some:
                merged = jnp.asarray(kernel).at[at].set(merged)
            layers[part][name] = layers[part][name] | {"kernel": merged}
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
      config: that they were made with, layers by number from 0.
      directory: an existing folder; gets adapter_model.safetensors and
        adapter_config.json.
      base: name or path of the model that was adapted, for the reader.
    """
    from safetensors.numpy import save_file

    if any(number < 0 for number in config.layers or ()):
        raise InputError("adapters are saved with their layers' numbers from 0")
    directory = pathlib.Path(directory)
    tensors = {}
    for kernels in adapters["layers"].values():
        for name, adapter in kernels.items():
            for letter, array in adapter.items():
                array = np.asarray(array, np.float32)
                numbers = sorted(config.layers or range(len(array)))
                for layer, matrix in zip(numbers, array, strict=True):
                    key = f"layers.{layer}.{TARGETS[name][1]}.lora_{letter.upper()}"
                    tensors[f"base_model.model.model.{key}.weight"] = (
                        np.ascontiguousarray(matrix.T)
                    )
    save_file(tensors, directory / "adapter_model.safetensors", {"format": "pt"})
    record: dict[str, Any] = {
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
    if config.layers is not None:
        record["layers_to_transform"] = sorted(config.layers)
        record["layers_pattern"] = "layers"
    text = json.dumps(record, indent=2) + "\n"
    (directory / "adapter_config.json").write_text(text, encoding="utf-8")


def _per_target(config: LoraConfig, make: Callable[[str, str], Any]) -> Adapters:
    layers: Adapters = {}
    for name in config.targets:
        part = TARGETS[name][0]
        layers.setdefault(part, {})[name] = make(part, name)
    return {"layers": layers}

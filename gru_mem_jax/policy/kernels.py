"""Which implementation of attention runs: chosen by platform, in one place.

What a program may need attention for, and what there is beside `blocks`, the path of
plain XLA that every device and policy has:

* rows that are trained on, trees of conversations: `splash` on TPU;
* decoding, one query a slot: `paged` on TPU, `cudnn` on GPU. Both read true lengths, so
  that one program serves all;
* prefill: `splash` on TPU; `cudnn` on GPU, for blocks that start their prompts.

A kernel that cannot do what a policy or its sizes ask for is not taken, and the choice
says why. The platform is that of the devices that a program is for, also where they
are a topology that nobody holds.
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from gru_mem_jax.errors import InputError

if TYPE_CHECKING:
    from jax.sharding import Mesh

    from gru_mem_jax.policy.config import PolicyConfig

AUTO, BLOCKS, SPLASH, PAGED, CUDNN = "auto", "blocks", "splash", "paged", "cudnn"
ROW_ATTENTIONS = (AUTO, BLOCKS, SPLASH)
SAMPLER_ATTENTIONS = (AUTO, BLOCKS, PAGED, CUDNN)
# With these a decode program reads of each slot what it holds, and no more.
TRUE_LENGTHS = (PAGED, CUDNN)

LANES = 128  # of a TPU's registers
_TILE = 16  # rows of a bfloat16 tile; float32 has half
_PAGE = 512  # keys that are read at once, about
_MOST_PAGES = 2**16  # int32 of the page table; it lies in 1 MiB of scalar memory
_PLATFORMS = {SPLASH: "tpu", PAGED: "tpu", CUDNN: "gpu"}
_MADE_FOR = {"tpu": "TPUs", "gpu": "GPUs"}


class Choice(NamedTuple):
    """An implementation, and why it was taken."""

    name: str
    why: str


class SamplerSizes(NamedTuple):
    """What a choice for the sampler depends on.

    Attributes:
      slots: S.
      length: C, positions of a slot.
      dtype: of weights and cache, by name.
      trunks: whether rows see a trunk before their own keys.
    """

    slots: int
    length: int
    dtype: str
    trunks: bool = False


class SamplerAttention(NamedTuple):
    """The choices for the sampler's programs."""

    prefill: Choice
    decode: Choice


def platform_of(mesh: "Mesh | None") -> str:
    """The platform ("cpu", "tpu" or "gpu") of a mesh; None: of the default device."""
    if mesh is not None:
        return str(mesh.devices.flat[0].platform)
    import jax

    return jax.default_backend()


def row_attention(
    asked: str, mesh: "Mesh | None", setting: str = "LearnerConfig.attention"
) -> Choice:
    """The attention of rows that are trained on, which are trees (`reach`).

    Args:
      asked: of ROW_ATTENTIONS.
      mesh: of the learner; None: the default device.
      setting: where it was asked, for errors.

    Raises:
      InputError: what was asked for is not to be had on these devices.
    """
    platform = platform_of(mesh)
    obstacles = {SPLASH: _other_platform(SPLASH, platform)}
    reasons = {"gpu": "cuDNN knows no conversations within a row"}
    return _choose(asked, obstacles, platform, setting, reasons.get(platform))


def sampler_attention(
    asked: str,
    config: "PolicyConfig",
    sizes: SamplerSizes,
    mesh: "Mesh | None",
    setting: str = "EngineConfig.attention",
) -> SamplerAttention:
    """The attention of the sampler's programs.

    Args:
      asked: of SAMPLER_ATTENTIONS; a kernel is asked for decoding, and prefill has
        what its platform has.
      config: of the policy.
      sizes: of the pool of slots.
      mesh: of the sampler; None: the default device.
      setting: where it was asked, for errors.

    Raises:
      InputError: what was asked for is not to be had on these devices, for this policy
        or in these sizes.
    """
    platform = platform_of(mesh)
    decode = {
        PAGED: _no_paged(config, sizes, mesh, platform),
        CUDNN: _no_cudnn(config, sizes, platform, decodes=True),
    }
    prefill = {
        SPLASH: _no_splash_prefill(sizes, platform),
        CUDNN: _no_cudnn(config, sizes, platform, decodes=False),
    }
    return SamplerAttention(
        _choose(BLOCKS if asked == BLOCKS else AUTO, prefill, platform, setting),
        _choose(asked, decode, platform, setting),
    )


def describe(
    mesh: "Mesh | None",
    rows: Choice | None = None,
    sampler: SamplerAttention | None = None,
) -> str:
    """One line that says what was taken and why."""
    choices = {} if rows is None else {"rows": rows}
    if sampler is not None:
        choices |= sampler._asdict()
    uses: dict[Choice, list[str]] = {}
    for use, choice in choices.items():
        uses.setdefault(choice, []).append(use)
    parts = (f"{', '.join(use)} by {c.name} ({c.why})" for c, use in uses.items())
    return f"attention on {_device(mesh)}: {'; '.join(parts)}"


def page_length(length: int) -> int | None:
    """Keys that `paged` reads at once: a divisor of C near 512; None: there is none."""
    pages = [n for n in range(_TILE, length + 1, _TILE) if length % n == 0]
    return max((n for n in pages if n <= _PAGE), default=None)


def heads_axis(mesh: "Mesh", heads: int, kv_heads: int) -> str | None:
    """The axis that heads are split over; None: each device has all of them.

    Query heads follow their key heads: both must divide evenly.
    """
    from gru_mem_jax.parallelism import TENSOR

    ways = mesh.shape[TENSOR]
    return TENSOR if heads % ways == 0 and kv_heads % ways == 0 else None


def rows_axes(mesh: "Mesh", rows: int) -> tuple[str, str] | None:
    """The axes that rows or slots are split over; None: each device has them all."""
    from gru_mem_jax.parallelism import DATA, FSDP, row_shards

    return (DATA, FSDP) if rows % row_shards(mesh) == 0 else None


def _device(mesh: "Mesh | None") -> str:
    if mesh is not None:
        return str(mesh.devices.flat[0].device_kind)
    import jax

    return str(jax.devices()[0].device_kind)


def _choose(
    asked: str,
    obstacles: Mapping[str, str | None],
    platform: str,
    setting: str,
    reason: str | None = None,
) -> Choice:
    """The first kernel without an obstacle, or what was asked for, or blocks."""
    if asked == BLOCKS:
        return Choice(BLOCKS, f"set by {setting}")
    if asked != AUTO:
        if (obstacle := obstacles[asked]) is not None:
            raise InputError(
                f'{setting} "{asked}" cannot be had: {obstacle}; set it to "{AUTO}" '
                f'or "{BLOCKS}"'
            )
        return Choice(asked, f"set by {setting}")
    for name, obstacle in obstacles.items():
        if obstacle is None:
            return Choice(name, f"the kernel for {_MADE_FOR[platform]}")
    ours = [
        text
        for name, text in obstacles.items()
        if text is not None and _PLATFORMS[name] == platform
    ]
    return Choice(BLOCKS, reason or "; ".join(ours) or f"no kernel for {platform}")


def _other_platform(name: str, platform: str) -> str | None:
    wanted = _PLATFORMS[name]
    if platform == wanted:
        return None
    return f"it is for {_MADE_FOR[wanted]}, and the mesh has devices of {platform}"


def _windows(config: "PolicyConfig", length: int) -> bool:
    return any(w is not None and w < length for w in config.windows)


def _no_paged(
    config: "PolicyConfig", sizes: SamplerSizes, mesh: "Mesh | None", platform: str
) -> str | None:
    """Why `paged` cannot decode this; None: it can."""
    if (text := _other_platform(PAGED, platform)) is not None:
        return text
    if sizes.trunks:
        return "paged attention gives no log-sum-exp to merge a trunk with"
    if _windows(config, sizes.length):
        return "paged attention has no window"
    if sizes.dtype != "bfloat16":
        return f"paged attention reads bfloat16, here {sizes.dtype}"
    if config.head_dim % LANES:
        return f"paged attention needs heads of {LANES}, here {config.head_dim}"
    page = page_length(sizes.length)
    if page is None:
        return f"slots of {sizes.length} tokens have no pages of {_TILE}"
    pages = sizes.slots * config.num_key_value_heads * (sizes.length // page)
    if mesh is not None:
        heads = (config.num_attention_heads, config.num_key_value_heads)
        for axis in (rows_axes(mesh, sizes.slots), heads_axis(mesh, *heads)):
            names = (axis,) if isinstance(axis, str) else axis or ()
            pages //= math.prod(mesh.shape[name] for name in names)
    if pages > _MOST_PAGES:
        return f"a table of {pages} pages is more than {_MOST_PAGES}"
    return None


def _no_splash_prefill(sizes: SamplerSizes, platform: str) -> str | None:
    """Why `splash` cannot read prompts; None: it can."""
    if (text := _other_platform(SPLASH, platform)) is not None:
        return text
    if sizes.trunks:
        return "what is behind a trunk is short, and merged with it by blocks"
    return None


def _no_cudnn(
    config: "PolicyConfig", sizes: SamplerSizes, platform: str, *, decodes: bool
) -> str | None:
    """Why cuDNN cannot be taken; None: it can."""
    if (text := _other_platform(CUDNN, platform)) is not None:
        return text
    if sizes.trunks:
        return "trunks are merged by a log-sum-exp that is taken from blocks"
    if config.attn_logit_softcapping is not None:
        return "cuDNN has no soft-cap"
    if decodes and _windows(config, sizes.length):
        return "cuDNN has no window for one query"
    if config.head_dim > 128 or config.head_dim % 8:
        return f"cuDNN needs heads of at most 128, a multiple of 8: {config.head_dim}"
    if sizes.dtype != "bfloat16":
        return f"cuDNN needs bfloat16, here {sizes.dtype}"
    return None

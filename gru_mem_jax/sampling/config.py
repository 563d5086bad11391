"""Sizes of the engine, and the program shapes that follow from them."""

import dataclasses
from collections.abc import Iterator

from gru_mem_jax.errors import InputError
from gru_mem_jax.policy.kernels import AUTO, SAMPLER_ATTENTIONS
from gru_mem_jax.records import check_choice, check_int, plain, plain_numbers

FRESH_LENGTH = 256
MOST_COPIED = 2**17  # cache positions, over all rows of a prefill
DTYPES = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """Sizes of an engine; the compiled programs follow from them.

    A run or an evaluation on n devices has n / `tensor` engines of these sizes: see
    `engine_pool`.

    Attributes:
      slots: S, requests that decode together in one engine.
      max_length: C, longest prompt and completion together, in tokens.
      trunks: R, how many trunks are held: the tokens that prompts begin with, before
        their memory, are stored once and not in each slot (see `trunks`); 0: each slot
        holds all of its own.
      trunk_length: T, longest trunk; None: what a tail lacks to max_length.
      tail_length: U, what a slot holds behind its trunk, so at least memory, template
        and completion; None: what a trunk lacks to max_length, or a quarter of it.
      dtype: "float32" or "bfloat16", of weights and cache; None: float32 on CPU,
        bfloat16 elsewhere.
      attention: "blocks" on any device; "paged", the TPU kernel for decoding; "cudnn"
        on GPUs; "auto": a kernel where there is one that can (see `policy.kernels`).
      decode_block: most tokens that a row decodes before the host sees them.
      prefill_tokens: most tokens of one prefill program, padding included.
      prefill_blocks: prompts are read in blocks of these lengths, largest first.
      min_shared_tokens: a shorter prefix is computed rather than copied.
      refill_after: a decode block ends when this many rows have ended, whose slots are
        then refilled together; None: one for each 16 active rows, at least one.
      max_stop_ids: most stop ids that a request may have.
      tensor: devices of one engine, which its weights and heads are split over; a power
        of two. None: as few as hold it, see `footprint.choose_tensor`.
      resident: false frees weights and cache while a training step updates the policy,
        for devices that do not hold both.
    """

    slots: int = 32
    max_length: int = 9216
    trunks: int = 0
    trunk_length: int | None = None
    tail_length: int | None = None
    dtype: str | None = None
    attention: str = AUTO
    decode_block: int = 32
    prefill_tokens: int = 2048
    prefill_blocks: tuple[int, ...] = (32, 512)
    min_shared_tokens: int = 16
    refill_after: int | None = None
    max_stop_ids: int = 8
    tensor: int | None = None
    resident: bool = True

    def __post_init__(self):
        plain_numbers(self)
        numbers = ("slots", "max_length", "decode_block", "prefill_tokens")
        numbers += ("min_shared_tokens", "max_stop_ids")
        for name in numbers:
            check_int(name, getattr(self, name), 2 if name == "max_length" else 1)
        check_int("trunks", self.trunks, 0)
        for name in ("refill_after", "trunk_length", "tail_length", "tensor"):
            if getattr(self, name) is not None:
                check_int(name, getattr(self, name), 1)
        if self.tensor is not None and self.tensor & (self.tensor - 1):
            raise InputError(f"tensor must be a power of two, got {self.tensor}")
        if not isinstance(self.resident, bool):
            raise InputError(f"resident must be True or False, got {self.resident!r}")
        if self.dtype is not None:
            check_choice("dtype", self.dtype, DTYPES)
        check_choice("attention", self.attention, SAMPLER_ATTENTIONS)
        blocks = tuple(map(plain, self.prefill_blocks))
        for block in blocks:
            check_int("prefill_blocks", block, 1)
        if not blocks or list(blocks) != sorted(set(blocks)):
            raise InputError(
                f"prefill_blocks must be rising lengths, at least one, got {blocks}"
            )
        object.__setattr__(self, "prefill_blocks", blocks)
        if self.trunks and sum(self.pool_lengths) < self.max_length:
            trunk, tail = self.pool_lengths
            raise InputError(
                f"trunk_length {trunk} and tail_length {tail} are together less than "
                f"max_length {self.max_length}: raise one of them"
            )

    def lowered_to(self, longest: int) -> "EngineConfig":
        """Lowers max_length to what `longest` tokens need, a multiple of 64."""
        need = min(self.max_length, -(-longest // 64) * 64)
        lengths = {}
        for name in ("trunk_length", "tail_length"):
            if (given := getattr(self, name)) is not None:
                lengths[name] = min(given, need)
        return dataclasses.replace(self, max_length=need, **lengths)

    def sized_for(self, longest: int) -> "EngineConfig":
        """As `lowered_to`; a max_length left at its default is raised as well."""
        if self.max_length != type(self).max_length:
            return self.lowered_to(longest)
        return dataclasses.replace(self, max_length=-(-longest // 64) * 64)

    @property
    def pool_lengths(self) -> tuple[int, int]:
        """T and U; without trunks 0 and max_length."""
        if not self.trunks:
            return 0, self.max_length
        trunk, tail = self.trunk_length, self.tail_length
        if tail is None:
            left = -(-self.max_length // 256) * 64 if trunk is None else 0
            tail = left or max(1, self.max_length - trunk)
        if trunk is None:
            trunk = max(1, self.max_length - tail)
        return trunk, tail

    @property
    def trunk_pool(self) -> "EngineConfig":
        """Sizes of the pool of trunks: one that holds R slots of T tokens."""
        return self._pool(self.trunks, self.pool_lengths[0])

    @property
    def tail_pool(self) -> "EngineConfig":
        """Sizes of the pool of tails: S slots of U tokens; without trunks `self`."""
        return self._pool(self.slots, self.pool_lengths[1])

    def _pool(self, slots: int, length: int) -> "EngineConfig":
        pool = {"trunks": 0, "trunk_length": None, "tail_length": None}
        return dataclasses.replace(self, slots=slots, max_length=length, **pool)

    def patience(self, active: int) -> int:
        """How many of the `active` rows must end to end a decode block.

        With few rows the first that ends is refilled at once.
        """
        return self.refill_after or max(1, active // 16)

    @property
    def decode_attends(self) -> tuple[int, ...]:
        """Numbers of cache positions that decode programs read: 128, 256, 512, ..., C.

        Of a pool: see `tail_pool`. A kernel that reads true lengths needs the last
        alone: `Programs.decode_attends`.

        Reading a part of the cache copies it first: parts of more than half do not pay.
        """
        lengths, power = [], 128
        while power <= self.max_length // 2:
            lengths.append(power)
            power *= 2
        return (*lengths, self.max_length)

    @property
    def prefill_attends(self) -> tuple[int, ...]:
        """The same for prefill, coarser: there it costs little beside the products."""
        coarse = [n for n in self.decode_attends[:-1] if n <= 512 or n.bit_length() % 2]
        return (*coarse, self.max_length)

    @property
    def block_lengths(self) -> tuple[int, ...]:
        """Prefill block lengths that fit max_length, the shortest always among them."""
        first, *rest = self.prefill_blocks
        return (first, *(n for n in rest if n <= self.max_length))

    def prefill_rows(self, length: int, attend: int) -> tuple[int, ...]:
        """Rows that a prefill program may have: 1, 4, 16, ...

        Each row copies what it reads of the cache: long reads have few rows.
        """
        most = min(self.prefill_tokens // length, MOST_COPIED // max(attend, length))
        useful = 2 * self.slots * max(1, self.max_length // length)
        rows = [1]
        while rows[-1] * 4 <= min(most, useful):
            rows.append(rows[-1] * 4)
        return tuple(rows)

    def prefill_attend(self, length: int, stop: int) -> int:
        """Attend of a prefill of blocks of `length` that end at `stop` or before."""
        need = max(stop, min(length, self.max_length))
        return smallest_at_least(self.prefill_attends, need)

    def prefill_shapes(self, longest: int) -> Iterator[tuple[int, int, int]]:
        """All (rows, block length, attend) that prompts up to `longest` may need.

        Attend 0 stands for long blocks at the start of their prompts: such a block sees
        only itself, which saves half of the scores.
        """
        for length in self.block_lengths:
            first = self.prefill_attend(length, 1)
            attends = [n for n in up_to(self.prefill_attends, longest) if n >= first]
            if length >= FRESH_LENGTH:
                attends.append(0)
            for attend in attends:
                for rows in self.prefill_rows(length, attend):
                    yield rows, length, attend


def up_to(sizes: tuple[int, ...], longest: int) -> tuple[int, ...]:
    """The rising `sizes` that lengths up to `longest` use."""
    return sizes[: 1 + sizes.index(smallest_at_least(sizes, longest))]


def fitting(need: int, sizes: tuple[int, ...]) -> int:
    """The size to cover `need`: one up to a third larger, else the largest below."""
    above = next((n for n in sizes if n >= need), None)
    if above is not None and (need >= 0.75 * above or above == sizes[0]):
        return above
    return max(n for n in sizes if n <= need)


def smallest_at_least(sizes: tuple[int, ...], need: int) -> int:
    """The smallest of rising `sizes` that is at least `need`."""
    return next(size for size in sizes if size >= need)

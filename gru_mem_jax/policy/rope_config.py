"""Settings of rotary position embedding; no jax, so that files are checked quickly."""

import dataclasses

from gru_mem_jax.errors import PolicyError
from gru_mem_jax.policy.checks import check_number
from gru_mem_jax.records import plain_numbers

SUPPORTED = ("default", "linear", "llama3", "yarn")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RopeConfig:
    """Frequencies of one kind of layer.

    Attributes:
      theta: base of the geometric series of wavelengths.
      type: "default", "linear" (Chen et al., arXiv 2306.15595), "llama3" (Llama 3.1),
        "yarn" (Peng et al., arXiv 2309.00071).
      factor: how many times the context is stretched; 1 for "default".
      original_max_position_embeddings: the window before it was stretched; "llama3"
        and "yarn" require it.
      low_freq_factor, high_freq_factor: "llama3".
      beta_fast, beta_slow, truncate: "yarn".
      attention_factor: "yarn": multiplies cos and sin; None takes the paper's value.
      mscale, mscale_all_dim: "yarn": DeepSeek's form of the attention factor.
    """

    theta: float = 10_000.0
    type: str = "default"
    factor: float = 1.0
    original_max_position_embeddings: int | None = None
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    attention_factor: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None

    def __post_init__(self):
        plain_numbers(self)
        if self.type not in SUPPORTED:
            raise PolicyError(
                f"rope type {self.type!r} is not supported: expected one of "
                f"{', '.join(SUPPORTED)}"
            )
        check_number("rope_theta", self.theta, low=1.0, high=1e12, open_low=True)
        check_number("rope factor", self.factor, low=1.0, high=1e6)
        if self.type in ("llama3", "yarn"):
            check_number(
                "rope original_max_position_embeddings",
                self.original_max_position_embeddings,
                low=1,
                high=2**31 - 1,
                integer=True,
            )
        if self.type == "llama3":
            check_number("rope low_freq_factor", self.low_freq_factor, low=1e-6)
            check_number("rope high_freq_factor", self.high_freq_factor, low=1e-6)
            if self.low_freq_factor >= self.high_freq_factor:
                raise PolicyError(
                    "rope low_freq_factor must be below high_freq_factor, got "
                    f"{self.low_freq_factor} and {self.high_freq_factor}"
                )
        if self.type == "yarn":
            check_number("rope beta_fast", self.beta_fast, low=1e-6)
            check_number("rope beta_slow", self.beta_slow, low=1e-6)
            for name in ("attention_factor", "mscale", "mscale_all_dim"):
                if (value := getattr(self, name)) is not None:
                    check_number(f"rope {name}", value, low=0.0, high=1e6)

"""RULER's 13 tasks (Hsieh et al. 2024, arXiv 2404.06654), at any length.

Wordings, kinds of keys and values, numbers and placements are those of
github.com/NVIDIA/RULER (Apache-2.0); docs/differences.md says what differs.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "wording": ["TASKS", "upstream_input"],
    },
)

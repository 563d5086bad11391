"""Steps of a run on disk: written aside, proven, then named; checked when restored."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "manager": ["Checkpoints"],
        "step": ["Restored"],
        "store": ["RunState", "RunStore"],
    },
)

"""The processes of a run on several hosts: how they join, exchange values, and end."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "processes": [
            "HEARTBEAT_SECONDS",
            "Hosts",
            "Stopped",
            "current",
            "start",
        ],
    },
)

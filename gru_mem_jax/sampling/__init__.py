"""The sampling engine: many trajectories over few slots, with shared prefixes."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "config": ["EngineConfig"],
        "engine": ["Engine"],
        "footprint": ["check_engine_fits"],
        "prefix_store": ["PrefixStore"],
        "remote": ["RemoteGenerator"],
        "remote_server": ["RemoteConfig"],
    },
)

"""How far a policy's gates can be believed, and the thresholds that follow from it."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "exits": ["ExitCurve", "choose_exit", "exit_curve", "stops"],
        "gates": ["Rates", "Reliability", "choose_gate", "rates", "reliability"],
        "readings": ["GatedReading", "calibrate_gates", "reading"],
    },
)

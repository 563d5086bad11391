"""A run's files on disk (docs/run_folder.md): folder, rows, samples, plots.

Its checkpoints are in `gru_mem_jax.runs.checkpoints`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "export": ["export_run"],
        "folder": ["RunFolder", "describe_environment"],
        "metrics": ["MetricsWriter", "read_metrics"],
        "plots": ["plot_training"],
        "rollouts": ["load_rollouts", "save_rollouts"],
        "samples": ["TrainingSample", "read_samples", "sample_steps"],
        "signals": ["StopSignal", "Watchdog"],
    },
)

"""Which programs are being compiled, by JAX's own events."""

import threading
from collections.abc import Callable


class CompilationNotices:
    """While entered, reports programs that take noticeably long to compile.

    Compilation is recognised by JAX's own events, without help of the caller.
    """

    _LOWERED = "/jax/core/compile/jaxpr_to_mlir_module_duration"
    _COMPILED = "/jax/core/compile/backend_compile_duration"
    _HIT = "/jax/compilation_cache/cache_hits"

    def __init__(
        self,
        began: Callable[[str], None],
        ended: Callable[[str, float, bool], None],
        patience: float = 0.5,
    ):
        """Nothing is registered before `__enter__`.

        Args:
          began: called with a program's name, from a timer's thread, after it has
            been compiling for `patience` seconds.
          ended: called with the name, the seconds, and whether it came from the disk
            cache, for each program that took longer.
          patience: seconds.
        """
        self._began, self._ended = began, ended
        self._patience = patience
        self._timer: threading.Timer | None = None
        self._hit = False

    def __enter__(self) -> "CompilationNotices":
        import jax

        jax.monitoring.register_event_duration_secs_listener(self._on_duration)
        jax.monitoring.register_event_listener(self._on_event)
        return self

    def __exit__(self, *exc) -> None:
        import jax

        self._stop_timer()
        jax.monitoring.unregister_event_duration_listener(self._on_duration)
        jax.monitoring.unregister_event_listener(self._on_event)

    def _on_event(self, event: str, **details) -> None:
        self._hit = self._hit or event == self._HIT

    def _on_duration(self, event: str, seconds: float, **details) -> None:
        name = str(details.get("fun_name", "a program"))
        name = name.removeprefix("jit(").removesuffix(")")
        if event == self._LOWERED:
            self._stop_timer()
            self._hit = False
            self._timer = threading.Timer(self._patience, self._began, (name,))
            self._timer.daemon = True
            self._timer.start()
        elif event == self._COMPILED:
            self._stop_timer()
            if seconds > self._patience:
                self._ended(name, seconds, self._hit)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

"""Keeps Orbax from telling in pages what is raised as an error anyway.

When a write fails, Orbax logs the same traceback from three threads, and writes that it
gave up on end in a closed event loop. The first is dropped while something is being
saved, the second also after a failure, for it comes late.
"""

import logging
import sys


class OrbaxNoise:
    """Silences it between `start` and `stop`."""

    def __init__(self):
        """Nothing is silenced yet."""
        self._hook = None

    def start(self) -> None:
        """From here on, until `stop`."""
        logging.getLogger("absl").addFilter(_is_not_orbax)
        if self._hook is None:
            self._hook = sys.unraisablehook
            sys.unraisablehook = self._unraisable

    def stop(self) -> None:
        """As it was before."""
        logging.getLogger("absl").removeFilter(_is_not_orbax)
        if sys.unraisablehook == self._unraisable:
            sys.unraisablehook = self._hook
            self._hook = None

    def _unraisable(self, args) -> None:
        closed = isinstance(args.exc_value, RuntimeError)
        if not (closed and "Event loop is closed" in str(args.exc_value)):
            self._hook(args)


def _is_not_orbax(record: logging.LogRecord) -> bool:
    return "[process=" not in str(record.msg) and "orbax" not in record.pathname

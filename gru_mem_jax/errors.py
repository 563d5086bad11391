"""Errors that a user can act on.

The command line prints them as one line and exits with `exit_status`; library users
catch them by class. A message says what was wrong, where, what was expected, and what
to do, in one line.
"""


class GRUMemError(Exception):
    """Base of all errors raised on purpose by this package."""

    exit_status = 1


class InputError(GRUMemError, ValueError):
    """An input, a flag or a configuration value that cannot be used (status 2)."""

    exit_status = 2


class PolicyError(InputError):
    """A policy directory that cannot be loaded: names the file and the tensor."""


class RunError(GRUMemError, RuntimeError):
    """A run that started well and then failed (status 1)."""

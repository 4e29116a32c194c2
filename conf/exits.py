"""The exit codes of every command, and the errors that carry them.

A user's mistake is raised as one of these errors, printed as one line (what, where, the way out)
and becomes the process's exit code. Any other exception is our own bug and keeps its traceback.
"""

from enum import IntEnum


class Exit(IntEnum):
    """What a command's exit code tells a script, a scheduler or a supervisor."""

    OK = 0
    CONFIG = 10  # a setting is unknown, mistyped, out of range, or differs from the run's own
    DATASET = 11  # the data set or the corpus is missing, empty, or not the one the run began with
    NO_CHECKPOINT = 12  # a checkpoint was demanded and no valid one is left
    CORRUPT = 13  # bytes on disk differ from their recorded hash
    NON_FINITE = 14  # the loss or the gradient stayed NaN or infinite
    HANG = 15  # the watchdog ended a job that made no progress
    LEASE_HELD = 16  # another live process owns the directory
    DISK = 17  # no space, no quota, or an input/output error
    REFUSED = 18  # refused for safety
    REQUEUE = 75  # stopped on request with a checkpoint written: start me again (EX_TEMPFAIL)


class UserError(ValueError):
    """A mistake that the user can mend; its text is one line that names the way out."""

    code = Exit.CONFIG


class ConfigError(UserError):
    """A setting is unknown, mistyped, out of range, or contradicts another."""


class DatasetError(UserError):
    """A corpus, an index or a vocabulary is missing, empty or another one than recorded."""

    code = Exit.DATASET


class NoCheckpointError(UserError):
    """No valid checkpoint is left where one is needed."""

    code = Exit.NO_CHECKPOINT


class CorruptError(UserError):
    """Bytes on disk differ from what was recorded when they were written."""

    code = Exit.CORRUPT


class NonFiniteError(UserError):
    """The loss or the gradient stayed NaN or infinite for too many steps in a row."""

    code = Exit.NON_FINITE


class LeaseHeldError(UserError):
    """Another live process owns the directory."""

    code = Exit.LEASE_HELD


class RefusedError(UserError):
    """Refused, because going on could lose or leak something."""

    code = Exit.REFUSED

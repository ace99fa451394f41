"""The exit statuses of the command line, which scripts that start runs again go by. Nothing here needs JAX."""

FAILURE = 1  # it came out badly: a step does not fit, a checkpoint is damaged, a memory is not there, no update could be done any more
USER_ERROR = 2  # the user is to put something right
STOPPED = 75  # a run was told to stop and is saved; the same command goes on. EX_TEMPFAIL of sysexits.h: "try again"


class Stopped(Exception):
    """A run was told to stop, by SIGTERM or Ctrl-C, and is saved; the message says where."""


class Failed(Exception):
    """It came out badly, and nothing that the user wrote is wrong; the message says what."""

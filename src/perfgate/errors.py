"""Every error perfgate raises on purpose, as one tree.

* PerfgateError

  * InputError — something a person wrote is wrong

    * UnknownNameError — a server, workload, GPU, model, metric or layer that no catalogue has
    * CatalogueError — a TOML mistake: file, table and key are named

  * ServerError — a vLLM server did not do what was asked

    * BootError — the process ended before it was ready
    * BootTimeoutError — alive, but not ready within its boot timeout
    * IdentityError — the server that answers is not the one that was started
    * PortInUseError — the port was taken by somebody else
    * ServerDiedError — the server, or one of its engine processes, ended while it was needed
    * StopError — processes, the port or GPU memory outlived the stop

  * LoadError — the load could not be generated at all (a failed request is not an error, it is a result)

  * BaselineError — a baseline cannot be used

    * BaselineMissingError, BaselineCorruptError, BaselineSchemaError, BaselineConflictError, BaselineReadOnlyError, BaselineAccessError

  * ResultsError — a session's results file, or several together, cannot be used

    * ResultsMissingError, ResultsCorruptError, ResultsSchemaError, ResultsConflictError, ResultsAccessError

  * NoiseError — a noise model cannot be fitted, read or written

    * NoiseMissingError, NoiseCorruptError, NoiseSchemaError, NoiseAccessError

  * HistoryError — the history of sessions cannot be read or added to; never a reason to change a verdict

  * CoverageError — autotune-key coverage could not be determined (never "covered")
  * EnvironmentProbeError — the machine could not be identified
"""

from __future__ import annotations

from perfgate.plaintext import plain


class PerfgateError(Exception):
    """Root of the tree.

    Args:
        message: what was given, where, and what is wrong with it.
        remedy: what to do about it; shown on its own line.
    """

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        # Messages quote names, answers and log lines, and end on terminals and in the logs of runners.
        return plain(f"{self.message}\n{self.remedy}" if self.remedy else self.message)


class InputError(PerfgateError):
    """Something a person wrote is wrong."""


class UnknownNameError(InputError):
    """A name that no catalogue has; the message lists the nearest ones."""


class CatalogueError(InputError):
    """A TOML mistake, with its file, table and key."""


class ServerError(PerfgateError):
    """A vLLM server did not do what was asked."""


class BootError(ServerError):
    """The server process ended before it was ready."""


class BootTimeoutError(ServerError):
    """The server stayed alive but was not ready within its boot timeout."""


class IdentityError(ServerError):
    """The server that answers is not the one that was started."""


class PortInUseError(ServerError):
    """The port was taken by a process that is not ours."""


class ServerDiedError(ServerError):
    """The server, or one of its engine processes, ended while it was needed."""


class StopError(ServerError):
    """Processes, the port or GPU memory outlived the stop."""


class LoadError(PerfgateError):
    """The load could not be generated at all."""


class BaselineError(PerfgateError):
    """A baseline cannot be used."""


class BaselineMissingError(BaselineError):
    """No baseline is stored for the cell."""


class BaselineCorruptError(BaselineError):
    """A baseline file is not what the schema says; file, field and remedy are named."""


class BaselineSchemaError(BaselineError):
    """A baseline file has a schema number this version does not read."""


class BaselineConflictError(BaselineError):
    """A baseline changed between being read and being written."""


class BaselineReadOnlyError(BaselineError):
    """A write was asked of a store that only reads."""


class BaselineAccessError(BaselineError):
    """The file system refused to read or to write: no permission, disk full, a lock that nobody gives back."""


class ResultsError(PerfgateError):
    """A session's results cannot be used."""


class ResultsMissingError(ResultsError):
    """There is no results file at the path."""


class ResultsCorruptError(ResultsError):
    """A results file is not what the schema says; file, field and remedy are named."""


class ResultsSchemaError(ResultsError):
    """A results file has a schema number this version does not read."""


class ResultsConflictError(ResultsError):
    """Two results contradict each other, or one would replace another."""


class ResultsAccessError(ResultsError):
    """The file system refused to read or to write results."""


class NoiseError(PerfgateError):
    """A noise model cannot be fitted, read or written."""


class NoiseMissingError(NoiseError):
    """There is no noise model where one was named."""


class NoiseCorruptError(NoiseError):
    """A noise model's file is not what the schema says; file, field and remedy are named."""


class NoiseSchemaError(NoiseError):
    """A noise model's file has a schema number this version does not read."""


class NoiseAccessError(NoiseError):
    """The system refuses to read or write a noise model."""


class HistoryError(PerfgateError):
    """The history of sessions cannot be read or added to."""


class CoverageError(PerfgateError):
    """Autotune-key coverage could not be determined."""


class EnvironmentProbeError(PerfgateError):
    """The machine could not be identified."""

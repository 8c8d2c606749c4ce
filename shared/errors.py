"""The one base class of errors that a person may see.

Wrong order of calls is a ``RuntimeError``; hostile or broken input is a subclass of ``FedrecallError`` whose message
names the value, the place and what would be right. Only the command line prints errors or exits.
"""

from __future__ import annotations


class FedrecallError(Exception):
    """Base of every domain error; ``str(error)`` is one sentence for a person."""


class ConfigError(FedrecallError):
    """A configuration key, value or combination that cannot run."""


class DataError(FedrecallError):
    """Behaviour or catalogue input that cannot be read; names ``file:line`` where there is one."""


class FetchError(FedrecallError):
    """A download that failed, or whose bytes are not the expected ones."""


class PlanError(FedrecallError):
    """A privacy plan that promises nothing, or something that the mechanism cannot give."""


class LedgerError(FedrecallError):
    """A ledger that is broken, locked, or about to be rewritten."""


class ProtocolError(FedrecallError):
    """A message that is malformed, out of range, or of another plan."""


class DeclinedError(FedrecallError):
    """A client refuses a task; the reason stays on the client's side."""


class RunError(FedrecallError):
    """A run that cannot start or go on: folder in use, read-only, checkpoint missing."""

"""Every exception of LightIPN, cut by what the catcher does next.

LightIPNError
├── ConfigError                  the operator fixes the configuration; carries every problem with its key   -> exit 2
├── SourceError                  a chain source let us down; carries .source
│   ├── SourceUnavailableError   refused, closed, timed out                                         -> back off, rotate
│   ├── SourceRefusedError       well-formed error answer; carries .code                        -> report, maybe rotate
│   ├── SourceDistrustedError    its certificate is not the one we know          -> not used until the operator says so
│   └── SourceMisbehavedError    broke the protocol or lied                                         -> drop and penalise
│       ├── ProtocolError        not JSON-RPC, wrong shape, unasked answer, oversized line
│       ├── HeaderError          does not connect, wrong bits, too little work
│       ├── BlockError           not a block, or its transactions are not those of its header
│       ├── MerkleBranchError    proof malformed, or its root differs
│       ├── TransactionError     raw bytes are no transaction, or not the one asked for
│       └── HistoryError         contradicts its own status, or itself
├── StoreError                   schema newer than we are, disk full, corrupt                             -> exit 1
│   └── StoreMismatchError       in use by another service, or of another network                         -> exit 2
└── RequestError                 the caller's mistake; .code (kebab-case), .status_hint      -> the dialect's own shape

Messages: lower case, no trailing dot, the value and what was wanted. No secrets, no full URLs, and never a server's own
words (a hostile server would write a phishing text there): those become codes.
"""

from collections.abc import Sequence


class LightIPNError(Exception):
    """Anything LightIPN raises on purpose."""


class ConfigError(LightIPNError):
    """The configuration is wrong; every problem is named at once."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(self.problems))


class SourceError(LightIPNError):
    """A chain source let us down."""

    def __init__(self, message: str, *, source: str = "") -> None:
        self.source = source
        super().__init__(message)


class SourceUnavailableError(SourceError):
    """The source refused the connection, closed it, or did not answer in time."""


class SourceRefusedError(SourceError):
    """The source answered with a well-formed error; its text is dropped, its code kept."""

    def __init__(self, message: str, *, code: int, source: str = "") -> None:
        self.code = code
        super().__init__(message, source=source)


class SourceDistrustedError(SourceError):
    """The source's certificate is not the one that is known or configured."""


class SourceMisbehavedError(SourceError):
    """The source broke the protocol, or lied; ``raw`` is what it sent, or its beginning."""

    def __init__(self, message: str, *, source: str = "", raw: bytes = b"") -> None:
        self.raw = raw
        super().__init__(message, source=source)


class ProtocolError(SourceMisbehavedError):
    """Not JSON-RPC, a wrong shape, an unasked answer, or an oversized line."""


class HeaderError(SourceMisbehavedError):
    """A header does not connect, has the wrong bits, or too little work."""


class BlockError(SourceMisbehavedError):
    """Bytes are not a block, or its transactions are not those that its header commits to."""


class MerkleBranchError(SourceMisbehavedError):
    """A merkle branch is malformed, or folds to another root."""


class TransactionError(SourceMisbehavedError):
    """Raw bytes are not a transaction, or not the one that was asked for."""


class HistoryError(SourceMisbehavedError):
    """A history contradicts its own status, or itself."""


class StoreError(LightIPNError):
    """The database cannot be used: too new, full, or corrupt."""


class StoreMismatchError(StoreError):
    """The database belongs to somebody else: a running service, or another network."""


class RequestError(LightIPNError):
    """A caller's mistake, or a call that cannot be answered now.

    Args:
        code: kebab-case, stable; programs match on it.
        status_hint: the HTTP status that fits, for dialects without a rule of their own.
    """

    def __init__(self, message: str, *, code: str, status_hint: int = 400) -> None:
        self.code = code
        self.status_hint = status_hint
        super().__init__(message)

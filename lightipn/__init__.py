"""LightIPN: Bitcoin payment notifications without a full node.

The folders are the data flow: ``electrum`` → ``tracker`` (which proves, with ``chain``) → ``ledger`` → ``outbox`` →
``delivery``; ``store`` keeps all of it, ``dialects`` say it in words that shops know.
``get_received`` and ``get_user_received`` ask a running service, or its database, from Python.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightipn.received import get_received, get_user_received

__all__ = ["get_received", "get_user_received"]


def __getattr__(name: str) -> Any:
    """Import the two functions when they are first used: the service itself does not carry them."""
    if name in __all__:
        from lightipn import received

        return getattr(received, name)
    raise AttributeError(f"module 'lightipn' has no attribute {name!r}")

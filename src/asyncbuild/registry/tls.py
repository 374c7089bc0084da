"""The TLS context of connections, made on first use."""

from __future__ import annotations

import ssl

import trio

from asyncbuild.registry.authorities import TrustSettings, make_context


class Trust:
    """The TLS context of some `TrustSettings`, made once, in a thread."""

    def __init__(self, settings: TrustSettings) -> None:
        self.settings = settings
        self._context: ssl.SSLContext | None = None
        self._lock = trio.Lock()

    async def context(self) -> ssl.SSLContext:
        """The context; raises `UsageError` for a file of authorities that cannot be read."""
        async with self._lock:
            if self._context is None:
                self._context = await trio.to_thread.run_sync(make_context, self.settings)
            return self._context

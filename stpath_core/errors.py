"""The one exception family: everything stpath raises on purpose derives from StpathError."""

from __future__ import annotations


class StpathError(Exception):
    """Anything stpath refuses to do."""


class InputError(StpathError, ValueError):
    """What was given cannot be used. The message says what was given, what is needed and what to do.

    A name or value that a file brings may be of any length: a message of more than 1,900 characters is cut.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(message if len(message) <= 1900 else f"{message[:1200]} ... {message[-600:]}")


class DownloadError(StpathError):
    """A download or an archive is not what it should be. What is whole stays; nothing else is left in its place."""

"""The one exception family: everything stpath raises on purpose derives from StpathError."""

from __future__ import annotations


class StpathError(Exception):
    """Anything stpath refuses to do."""


class InputError(StpathError, ValueError):
    """What was given cannot be used. The message says what was given, what is needed and what to do."""


class DownloadError(StpathError):
    """A download or an archive is not what it should be. What is whole stays; nothing else is left in its place."""

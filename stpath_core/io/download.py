"""Fetch one file: over https only, resumed where it stopped, and put in place only when it is whole and as expected.

While it is fetched a file lies beside its place as `NAME.part`, with `NAME.part.json` saying which url and which
version of it (ETag or Last-Modified) the bytes are from. Nothing that arrives is ever executed.
"""

from __future__ import annotations

import hashlib
import http.client
import ipaddress
import json
import os
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urljoin, urlsplit

from stpath_core.errors import DownloadError
from stpath_core.io.files import held

MAX_REDIRECTS = 5
TIMEOUT_S = 60.0
BLOCK = 2**16
MB = 10**6
REDIRECTS = (301, 302, 303, 307, 308)


@dataclass(frozen=True)
class Fetched:
    """What came: its size, its sha256, the address that answered in the end, and how many bytes were here before."""

    bytes: int
    sha256: str
    url: str
    resumed_from: int


def _quiet(items: Iterable[int], *, total: int | None = None) -> Iterable[int]:
    del total
    return items


def fetch(
    url: str,
    path: str | Path,
    *,
    sha256: str | None = None,
    size: int | None = None,
    progress: Callable[..., Iterable[int]] = _quiet,
) -> Fetched:
    """Download `url` to `path`, going on from `path`.part where there is one.

    sha256, size (bytes) : what the file must be, where it is known
    progress : wraps an iterable with one item a megabyte, as `progress.track` does; called with `total=`

    Raises DownloadError; a truncated .part is kept and resumed by the next call, a wrong file is removed.

    Examples
    --------
    >>> fetch("https://host.org/fold_1.zip", "data/fold_1.zip").sha256      # doctest: +SKIP
    """
    path = Path(path)
    refuse_address(url)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    with part.open("ab") as out:
        if not held(out, part):
            message = f"{path.name} is being downloaded by another process; wait for it"
            raise DownloadError(message)
        try:
            have, version = _kept(part, url)
            response, have = _open(url, have, version)
            with response:
                left = _left(response, have, path, sha256=sha256, size=size)
                out.truncate(have)
                _write_state(part, url, response.headers)
                digest = _digest(part)
                megabytes = None if left is None else -(-left // MB)
                for _ in progress(_copy(response, out, digest, left), total=megabytes):
                    pass
        except (OSError, http.client.HTTPException) as error:
            kept = "what came is kept, run the same command to go on" if out.tell() else "nothing came"
            message = f"{url} stopped ({_said(error)}): {kept}"
            raise DownloadError(message) from error
        finally:
            out.flush()
            os.fsync(out.fileno())
            if not part.stat().st_size:  # nothing came
                _discard(part)
        came = part.stat().st_size if part.exists() else 0
        if left is not None and came != have + left:
            message = f"{url} ended after {came} of {have + left} bytes; run the same command to go on"
            raise DownloadError(message)
        if sha256 and digest.hexdigest() != sha256.lower():
            _discard(part)
            message = f"{url} has sha256 {digest.hexdigest()}, expected {sha256}; nothing was kept: was it changed?"
            raise DownloadError(message)
        if not came:
            message = f"{url} is empty; nothing was kept"
            raise DownloadError(message)
        part.replace(path)
        _state(part).unlink(missing_ok=True)
    return Fetched(came, digest.hexdigest(), response.url, have)


def sha256_of(path: Path) -> str:
    """The sha256 of a file."""
    return _digest(path).hexdigest()


def refuse_address(url: str, *, before: str = "") -> None:
    """Raise unless the address is https, or http on this machine (tests), and no step down from `before`."""
    parts = urlsplit(url)
    if parts.hostname and parts.scheme == "https":
        return
    if parts.hostname and parts.scheme == "http" and _is_here(parts.hostname) and not before.startswith("https:"):
        return
    led = f"{before} leads to {url}" if before else url
    message = f"{led}: only https is followed; nothing was read from there"
    raise DownloadError(message)


def _is_here(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Redirects come back as errors, so that each step is looked at before it is taken."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _connect(url: str, headers: dict[str, str]) -> Any:
    """Open an address, following at most MAX_REDIRECTS allowed redirects."""
    here = url
    refuse_address(here)
    for _ in range(MAX_REDIRECTS + 1):
        proxies = {} if _is_here(urlsplit(here).hostname or "") else None
        opener = urllib.request.build_opener(_NoRedirect, urllib.request.ProxyHandler(proxies))
        request = urllib.request.Request(
            here, headers=headers | {"User-Agent": "stpath", "Accept-Encoding": "identity"}
        )
        try:
            return opener.open(request, timeout=TIMEOUT_S)
        except urllib.error.HTTPError as error:
            with error:
                if error.code == 416 and "Range" in headers:  # the file is shorter now than what is here
                    headers = {k: v for k, v in headers.items() if k not in ("Range", "If-Range")}
                    continue
                if error.code not in REDIRECTS or not error.headers.get("Location"):
                    message = f"{here} answered {error.code} {error.reason}: the address may have moved"
                    raise DownloadError(message) from None
                there = urljoin(here, error.headers["Location"])
        refuse_address(there, before=here)
        here = there
    message = f"{url} redirects more than {MAX_REDIRECTS} times; nothing was fetched"
    raise DownloadError(message)


def _kept(part: Path, url: str) -> tuple[int, str]:
    """How many bytes may be gone on from, and the version they are of; (0, "") where that cannot be known."""
    try:
        state = json.loads(_state(part).read_text(encoding="utf-8"))
        same, version = state["url"] == url, str(state["version"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0, ""
    return (part.stat().st_size, version) if same and version else (0, "")


def _open(url: str, have: int, version: str) -> tuple[Any, int]:
    """A response and where its body begins: at 0 when the server ignores Range or has another version by now."""
    response = _connect(url, {"Range": f"bytes={have}-", "If-Range": version} if have else {})
    if response.status != 206:
        return response, 0
    given = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", "").strip())
    if given and int(given[1]) == have and _version(response.headers) in ("", version):
        return response, have
    response.close()
    return _connect(url, {}), 0


def _left(response: Any, have: int, path: Path, *, sha256: str | None, size: int | None) -> int | None:
    """How many bytes the body has; None where it marks its own end. Refuses what cannot be the file."""
    headers: Message = response.headers
    if headers.get_content_type() == "text/html" and path.suffix.lower() not in (".html", ".htm"):
        message = f"{response.url} is a web page, not {path.name}: the file has moved, or asks for a login"
        raise DownloadError(message)
    length = headers.get("Content-Length", "")
    left = int(length) if length.isdigit() else None
    if left is None and not (response.chunked or sha256 or size):
        message = f"{response.url} does not say how long it is: whether it came whole could not be told"
        raise DownloadError(message)
    if size is not None and left is not None and have + left != size:
        message = f"{response.url} has {have + left} bytes, expected {size}: it is another file"
        raise DownloadError(message)
    left = size - have if left is None and size is not None else left
    free = shutil.disk_usage(path.parent).free
    if left is not None and left > free:
        message = f"{path.name} needs {left / 1e9:.1f} GB, {free / 1e9:.1f} are free in {path.parent}: pass --to DIR"
        raise DownloadError(message)
    return left


def _copy(response: Any, out: BinaryIO, digest: Any, left: int | None) -> Iterator[int]:
    """Write the body, at most `left` bytes of it; yields once a megabyte, and at the end if one was begun."""
    done = told = 0
    while block := response.read(BLOCK if left is None else min(BLOCK, left - done)):
        out.write(block)
        digest.update(block)
        done += len(block)
        while done >= (told + 1) * MB:
            told += 1
            yield told
    if done > told * MB:
        yield told + 1


def _digest(path: Path) -> Any:
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while block := handle.read(2**20):
            digest.update(block)
    return digest


def _state(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _version(headers: Message) -> str:
    """ETag or Last-Modified. A weak ETag (W/...) does not promise equal bytes, so it is no version."""
    tag = headers.get("ETag", "")
    return tag if tag and not tag.startswith("W/") else headers.get("Last-Modified", "")


def _write_state(part: Path, url: str, headers: Message) -> None:
    """Say which url and version the bytes are of."""
    aside = part.with_name(f"{part.name}.new")
    aside.write_text(json.dumps({"url": url, "version": _version(headers)}), encoding="utf-8")
    aside.replace(_state(part))


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    _state(part).unlink(missing_ok=True)


def _said(error: Exception) -> str:
    return str(getattr(error, "reason", "") or error) or type(error).__name__

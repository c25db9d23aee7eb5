"""Pushing as the distribution specification has it, without a tool's opinion: nested indexes, any digest algorithm."""

from __future__ import annotations

import hashlib
import urllib.request
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote, urljoin

from images import Image

TIMEOUT_SECONDS: Final = 10.0


def upload(url: str, repository: str, image: Image, tag: str) -> None:
    """Put everything of an image into a registry, its manifests below first, and tag the one at the top."""
    for digest, data in image.blobs.items():
        if digest not in image.manifests:
            upload_blob(url, repository, digest, data)
    for digest, media_type in image.manifests.items():
        put_manifest(url, repository, digest, image.blobs[digest], media_type)
    put_manifest(url, repository, tag, image.blobs[image.digest], image.manifests[image.digest])


def upload_blob(url: str, repository: str, digest: str, data: bytes) -> None:
    """POST and PUT."""
    location = _ask("POST", f"{url}/v2/{repository}/blobs/uploads/", b"", {"Content-Length": "0"})
    target = urljoin(url, location)
    separator = "&" if "?" in target else "?"
    _ask("PUT", f"{target}{separator}digest={quote(digest)}", data, {"Content-Type": "application/octet-stream"})


def put_manifest(url: str, repository: str, reference: str, raw: bytes, media_type: str) -> None:
    """PUT under a tag or a digest."""
    _ask("PUT", f"{url}/v2/{repository}/manifests/{reference}", raw, {"Content-Type": media_type})


def digest_of(data: bytes, algorithm: str) -> str:
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


def _ask(method: str, url: str, data: bytes, headers: Mapping[str, str]) -> str:
    """One request that must succeed; where it says to go next."""
    request = urllib.request.Request(url, data, dict(headers), method=method)
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=TIMEOUT_SECONDS) as answer:
        return str(answer.headers.get("Location", ""))

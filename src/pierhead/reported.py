"""What a person reads in `kubectl describe pod` after a pull failed: containerd's error as the kubelet shows it.

The texts are made where their values are (`gowords`, `auth`, `walk`); here they are put together. Follows containerd
v2.3.4, internal/cri/server/images/image_pull.go and client/pull.go (specification, section 8.8).
"""

from __future__ import annotations

from pierhead.auth import AuthorizationFailed, BadCredential
from pierhead.errors import PierheadError
from pierhead.gowords import content_mismatch, transport_words
from pierhead.oci import InvalidManifest, NoMatchingPlatform
from pierhead.reference import InvalidReference, Reference
from pierhead.store import ContentMismatch
from pierhead.transport import TransportError
from pierhead.walk import AllRoutesFailed, ResolveFailed


def kubelet_text(reference: Reference, error: PierheadError) -> str:
    """What the kubelet shows of a pull of `reference` that ended with `error`: one line, or more with a registry's own.

    With the profile CONTAINERD it is containerd's text; with OURS what containerd would make of the same failure.
    """
    return f'failed to pull and unpack image "{reference}": {_words(error)}'


def unparsed_text(error: InvalidReference) -> str:
    """What the kubelet shows of a name that is no image reference."""
    return f'failed to parse image reference "{error.text}": {error.go_text}'


def _words(error: PierheadError) -> str:
    match error:
        case AllRoutesFailed() | ResolveFailed() | AuthorizationFailed() | BadCredential():
            words = error.go_text
        case TransportError():
            words = error.go_text or transport_words(error)
        case ContentMismatch():
            words = content_mismatch(error)
        case NoMatchingPlatform():
            words = "no match for platform in manifest: not found"
        case InvalidManifest():
            words = f"failed to unmarshal: {error.message}"
        case _:
            words = ""
    return words or error.message

"""The form of registries.yaml as a JSON Schema, for editors (yaml-language-server and what builds on it).

Stricter than K3s, which ignores what it does not know: an editor should say so while one types. Keys that begin with
`x-` are left alone, as everywhere. Specification, section 1.2.
"""

from __future__ import annotations

from typing import Any, Final

DRAFT: Final = "http://json-schema.org/draft-07/schema#"  # what editors understand best

_PATH: Final = {"type": "string", "minLength": 1}


def _described(about: str, **more: Any) -> dict[str, Any]:
    return {"description": about, **more}


_MIRROR: Final = _described(
    "Where images of this registry are asked for; null is a mirror without endpoints.",
    type=["object", "null"],
    additionalProperties=False,
    patternProperties={"^x-": {}},
    properties={
        "endpoint": _described(
            "Places to ask, in order: https://host:port. A path stands in the place of /v2; it is no prefix.",
            type=["array", "null"],
            items={"type": "string", "minLength": 1},
            uniqueItems=True,
        ),
        "rewrite": _described(
            "For a pattern (RE2, found anywhere in the repository) what takes its place; $1 is the first group.",
            type=["object", "null"],
            additionalProperties={"type": "string"},
        ),
    },
)

_AUTH: Final = _described(
    "Credentials: username and password, or auth, or identity_token.",
    type=["object", "null"],
    additionalProperties=False,
    patternProperties={"^x-": {}},
    properties={
        "username": _described("The user's name.", type="string"),
        "password": _described("The password.", type="string"),
        "auth": _described("base64 of username:password.", type="string", pattern="^[A-Za-z0-9+/]*={0,2}$"),
        "identity_token": _described("A token that is exchanged for access tokens.", type="string"),
    },
)

_TLS: Final = _described(
    "How the connection is secured.",
    type=["object", "null"],
    additionalProperties=False,
    patternProperties={"^x-": {}},
    properties={
        "ca_file": _described("A CA (PEM) that is trusted beside the system's.", **_PATH),
        "cert_file": _described("The client's certificate (PEM), never the server's.", **_PATH),
        "key_file": _described("The key of cert_file.", **_PATH),
        "insecure_skip_verify": _described("Do not verify the server's certificate; it is still TLS.", type="boolean"),
    },
    dependencies={"cert_file": ["key_file"], "key_file": ["cert_file"]},
)

_NAME: Final = {"pattern": r"^[^/\s]+$"}  # host[:port], never a URL


def schema() -> dict[str, Any]:
    """The JSON Schema of registries.yaml."""
    return {
        "$schema": DRAFT,
        "title": "registries.yaml of K3s and RKE2",
        "type": ["object", "null"],
        "additionalProperties": False,
        "patternProperties": {"^x-": {}},
        "properties": {
            "mirrors": _described(
                'By registry (docker.io, reg.lan:5000, or "*" for all others) where its images are asked for.',
                type=["object", "null"],
                propertyNames=_NAME,
                additionalProperties=_MIRROR,
            ),
            "configs": _described(
                "By host[:port] of an endpoint, exactly as the endpoint has it, its credentials and TLS.",
                type=["object", "null"],
                propertyNames=_NAME,
                additionalProperties=_described(
                    "Credentials and TLS of one host.",
                    type=["object", "null"],
                    additionalProperties=False,
                    patternProperties={"^x-": {}},
                    properties={"auth": _AUTH, "tls": _TLS},
                ),
            ),
        },
    }

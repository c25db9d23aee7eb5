"""nginx as people put it in front of a registry: for client certificates, or to offer it below another path."""

from __future__ import annotations

import socket
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from pki import Pki
from real import RealProgram, clean_environment

_CONFIGURATION: Final = """\
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr notice;
events {{ worker_connections 64; }}
http {{
  access_log {folder}/access.log;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{port}{ssl};
    {tls}
    client_max_body_size {largest_body};
    location {path}/ {{
      proxy_pass {upstream}/v2/;
      proxy_set_header Host $http_host;
      proxy_set_header X-Forwarded-Proto {scheme};
      proxy_request_buffering off;
    }}
  }}
}}
"""
_TLS: Final = """\
ssl_certificate {cert};
    ssl_certificate_key {key};
    ssl_client_certificate {ca};
    ssl_verify_client on;"""


class Nginx:
    """What `upstream` (a URL) has at /v2, at `path`.

    With `tls` it wants client certificates: without one it finishes the handshake and answers 400. A request with more
    than `largest_body` (as nginx writes it, 0 for no limit) is answered 413.
    """

    def __init__(
        self, folder: Path, upstream: str, *, path: str = "/v2", tls: Pki | None = None, largest_body: str = "0"
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._largest_body = largest_body
        self._folder, self._upstream, self._path, self._tls = folder, upstream, path, tls
        self._program = RealProgram(
            ("nginx", "-p", folder, "-e", "stderr", "-c", folder / "nginx.conf"),
            folder / "nginx.log",
            clean_environment(folder),
        )
        self.port = 0

    def __enter__(self) -> Self:
        self.port = _free_port()  # nginx cannot be told to take a free one
        (self._folder / "nginx.conf").write_text(self._configuration())
        self._program.start()
        try:
            self._program.wait_until(self._listens, what="nginx to listen")
        except BaseException:
            self._program.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._program.stop()

    @property
    def address(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """Where it is, without a path."""
        return f"{self._scheme}://{self.address}"

    @property
    def _scheme(self) -> str:
        return "https" if self._tls else "http"

    def _configuration(self) -> str:
        tls = self._tls
        own = {"cert": tls.server.cert, "key": tls.server.key, "ca": tls.ca} if tls else {}
        return _CONFIGURATION.format(
            folder=self._folder,
            port=self.port,
            ssl=" ssl" if tls else "",
            tls=_TLS.format(**own) if tls else "",
            path=self._path,
            upstream=self._upstream,
            scheme=self._scheme,
            largest_body=self._largest_body,
        )

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port

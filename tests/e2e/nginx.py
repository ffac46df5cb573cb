"""An nginx in front of a server under test."""

from __future__ import annotations

import http.client
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.e2e.patience import PATIENCE
from tests.e2e.server import free_port

PROGRAM = shutil.which("nginx") or "/usr/sbin/nginx"
USER = "www-data"
"""The user of the workers, if root starts nginx."""

_CONFIGURATION = """
daemon off;
pid {folder}/nginx.pid;
{user}
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    {maps}
    server {{
        listen 127.0.0.1:{port};
        {rules}
    }}
}}
"""


@contextmanager
def nginx(folder: Path, rules: str, maps: str = "") -> Iterator[int]:
    """Run an nginx with one server of these rules, and these maps; yields its port."""
    port, log = free_port(), folder / "nginx.log"
    user = f"user {USER};" if os.geteuid() == 0 else ""
    configuration = folder / "nginx.conf"
    configuration.write_text(
        _CONFIGURATION.format(folder=folder, port=port, user=user, rules=rules, maps=maps)
    )
    process = subprocess.Popen(
        [PROGRAM, "-p", str(folder), "-c", str(configuration), "-e", str(log)],
        stdin=subprocess.DEVNULL,
    )
    try:
        wait_for_port(port, process, log)
        yield port
    finally:
        process.terminate()
        process.wait(PATIENCE)


def wait_for_port(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until the proxy listens."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        try:
            connection.connect()
        except OSError:
            time.sleep(0.02)
        else:
            return
        finally:
            connection.close()
    raise AssertionError(f"nothing listens: {log.read_text()}")

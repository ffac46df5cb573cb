"""Real proxies in front of a server under test, with the blocks of docs/proxies.md.

Each has three ports: `http` and `https` with the blocks, at `/` and below `/push/`, and `bare` with
the shortest configuration that forwards anything.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.blocks import sections_of
from tests.e2e.certificate import certificate
from tests.e2e.nginx import wait_for_port
from tests.e2e.patience import PATIENCE
from tests.e2e.server import free_port

BLOCKS = sections_of(
    "docs/proxies.md", "nginx", "Caddy", "HAProxy", "Apache", "Trusted proxies", "PROXY protocol"
)
NAME = "push.example"


@dataclass(frozen=True)
class Place:
    """Where a proxy runs: its folder, its ports, and the ports of two servers.

    `bare` leads to `keyless`, the others to `server`.
    """

    folder: Path
    http: int
    https: int
    bare: int
    server: int
    keyless: int

    @property
    def certificate(self) -> Path:
        """The certificate; the key is in `key.pem` beside it, both are in `both.pem`."""
        return self.folder / "certificate.pem"

    def url(self, scheme: str, path: str = "/", host: str = "localhost") -> str:
        """The URL of a path, at the port of a scheme, or of `bare`."""
        port = {"http": self.http, "https": self.https, "bare": self.bare}[scheme]
        return f"{'https' if scheme == 'https' else 'http'}://{host}:{port}{path}"


@dataclass(frozen=True)
class Proxy:
    """A kind of proxy.

    `configure` writes the configuration and returns the command. `user` is the one that Debian runs
    it as; `becomes` says whether the program itself changes to it. `waits`: whether requests wait
    while the server restarts, or the server's socket has to be held.
    """

    name: str
    user: str
    becomes: bool
    waits: bool
    configure: Callable[[Place], list[str]]

    def __str__(self) -> str:
        return self.name

    @contextmanager
    def run(self, server: int, keyless: int) -> Iterator[Place]:
        """Run it in front of two ports."""
        with tempfile.TemporaryDirectory(prefix="pushserver-proxy-") as name:
            folder = Path(name)
            key, pem = certificate(folder, "localhost", NAME)
            (folder / "both.pem").write_bytes(pem.read_bytes() + key.read_bytes())
            place = Place(folder, free_port(), free_port(), free_port(), server, keyless)
            command = self.configure(place)
            root = os.geteuid() == 0
            if root:
                for path in (folder, *folder.rglob("*")):
                    shutil.chown(path, self.user)
            log = folder / "log"
            with log.open("wb") as output:
                process = subprocess.Popen(
                    command,
                    cwd=folder,
                    env={"PATH": os.environ["PATH"], "HOME": name},
                    user=self.user if root and not self.becomes else None,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            try:
                for port in (place.http, place.https, place.bare):
                    wait_for_port(port, process, log)
                yield place
            finally:
                # With its children, of which Apache's go on for ten seconds while streams are open.
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait(PATIENCE)


def put(text: str, *pairs: tuple[str, object]) -> str:
    """The text with replacements, each of which it must need."""
    for old, new in pairs:
        assert old in text, f"{old!r} is not in {text}"
        text = text.replace(old, str(new))
    return text


def block(section: str, number: int, place: Place) -> str:
    """A block of the document, with the port of the server."""
    text = BLOCKS[section][number].text
    return text.replace("127.0.0.1:8080", f"127.0.0.1:{place.server}")


def _program(name: str) -> str:
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") or name


def _nginx(place: Place) -> list[str]:
    folder = place.folder
    (folder / "snippets").mkdir()
    (folder / "snippets" / "pushserver.conf").write_text(block("nginx", 0, place))
    site = put(
        block("nginx", 1, place),
        ("listen 80;", f"listen 127.0.0.1:{place.http};"),
        ("listen 443 ssl", f"listen 127.0.0.1:{place.https} ssl"),
        ("/etc/ssl/push.example.pem", place.certificate),
        ("/etc/ssl/push.example.key", folder / "key.pem"),
        ("    location / {", f"{block('nginx', 2, place)}\n    location / {{"),
    )
    folders = "\n".join(
        f"{name}_temp_path {folder}/{name};" for name in ("proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(f"""
        daemon off;
        pid {folder}/pid;
        {"user www-data;" if os.geteuid() == 0 else ""}
        events {{}}
        http {{
            access_log off;
            client_body_temp_path {folder}/body;
            {folders}
            {site}
            server {{
                listen 127.0.0.1:{place.bare};
                location / {{ proxy_pass http://127.0.0.1:{place.keyless}; }}
            }}
        }}
    """)
    return [_program("nginx"), "-p", str(folder), "-c", "nginx.conf", "-e", "stderr"]


def _caddy(place: Place) -> list[str]:
    root, below = block("Caddy", 0, place), block("Caddy", 1, place)
    certified = f"tls {place.certificate} {place.folder}/key.pem"
    secure = put(root, (f"{NAME} {{", f"https://localhost:{place.https} {{\n{certified}\n{below}"))
    plain = put(root, (f"{NAME} {{", f"http://localhost:{place.http} {{\n{below}"))
    (place.folder / "Caddyfile").write_text(f"""
        {{
            admin off
            auto_https disable_redirects
            skip_install_trust
            default_bind 127.0.0.1
            servers {{
                protocols h1 h2
            }}
        }}
        http://:{place.bare} {{
            reverse_proxy 127.0.0.1:{place.keyless}
        }}
        {secure}
        {plain}
    """)
    return ["caddy", "run", "--config", str(place.folder / "Caddyfile"), "--adapter", "caddyfile"]


def _haproxy(place: Place) -> list[str]:
    front, _, back = block("HAProxy", 0, place).partition("    default_backend")
    site = put(
        f"{front}{block('HAProxy', 1, place)}    default_backend{back}",
        ("bind :80\n", f"bind 127.0.0.1:{place.http}\n"),
        ("bind :443 ssl", f"bind 127.0.0.1:{place.https} ssl"),
        ("/etc/ssl/push.example.pem", place.folder / "both.pem"),
    )
    return haproxy(
        place,
        f"""
frontend bare
    mode http
    timeout client 60s
    bind 127.0.0.1:{place.bare}
    default_backend bare
backend bare
    mode http
    timeout connect 5s
    timeout server 60s
    server pushserver 127.0.0.1:{place.keyless}
{site}
""",
    )


def haproxy(place: Place, blocks: str) -> list[str]:
    """Write a configuration with these blocks, and return the command."""
    as_user = "user haproxy\n    group haproxy" if os.geteuid() == 0 else ""
    file = place.folder / "haproxy.cfg"
    file.write_text(f"global\n    {as_user}\n{blocks}")
    return [_program("haproxy"), "-db", "-f", str(file)]


_APACHE_MODULES = """
    mpm_event authz_core mime filter deflate headers proxy proxy_http http2 ssl socache_shmcb
    reqtimeout setenvif alias
"""


def _apache(place: Place) -> list[str]:
    folder = place.folder
    proxied = block("Apache", 0, place)
    # The other directive of the document has / as well, and would take precedence.
    below = 'ProxyPassMatch "^/push$" !\n' + block("Apache", 1, place)
    modules = "\n".join(
        f"LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so"
        for name in _APACHE_MODULES.split()
    )
    as_user = "User www-data\nGroup www-data" if os.geteuid() == 0 else ""
    (folder / "apache.conf").write_text(f"""
ServerRoot {folder}
ServerName localhost
PidFile {folder}/pid
DefaultRuntimeDir {folder}
ErrorLog /dev/stderr
{modules}
TypesConfig /dev/null
{as_user}
AddOutputFilterByType DEFLATE text/html text/plain text/css text/javascript application/javascript
RequestReadTimeout header=20-40,minrate=500 body=20,minrate=500
MaxRequestWorkers 150
Protocols h2 http/1.1
Listen 127.0.0.1:{place.http}
Listen 127.0.0.1:{place.https}
Listen 127.0.0.1:{place.bare}
<VirtualHost *:{place.http}>
{below}{proxied}
</VirtualHost>
<VirtualHost *:{place.https}>
SSLEngine on
SSLCertificateFile {place.certificate}
SSLCertificateKeyFile {folder}/key.pem
{below}{proxied}
</VirtualHost>
<VirtualHost *:{place.bare}>
ProxyPass / http://127.0.0.1:{place.keyless}/
</VirtualHost>
""")
    return [_program("apache2"), "-DFOREGROUND", "-f", str(folder / "apache.conf")]


PROXIES = [
    Proxy("nginx", "www-data", True, False, _nginx),
    Proxy("Caddy", "caddy", False, True, _caddy),
    Proxy("HAProxy", "haproxy", True, True, _haproxy),
    Proxy("Apache", "www-data", True, False, _apache),
]

"""Lays the pages of a site out in a browser without a window, returns what doesn't fit; page_widths.js measures."""

import json
import shutil
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Empty, Queue
from tempfile import TemporaryDirectory
from typing import Any

SCRIPT = Path(__file__).with_suffix(".js")
BROWSERS = ("google-chrome", "chromium", "chromium-browser", "chrome", "microsoft-edge")
# Nothing outside this machine is asked for, as a reader without a network would find it.
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-extensions"),
    *("--no-first-run", "--hide-scrollbars", "--window-size=1600,1200"),
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)


def find_browser() -> str | None:
    """Path of a browser that runs here."""
    for name in BROWSERS:
        path = shutil.which(name)
        if path and subprocess.run([path, "--version"], capture_output=True).returncode == 0:
            return path
    return None


def problems_of_pages(browser: str, site: Path, widths: Sequence[int], timeout_s: float = 120) -> dict[str, list[str]]:
    """Page → what pokes out at these widths, and what it fetches from elsewhere or lacks."""
    pages = sorted(f"/{page.relative_to(site).as_posix()}" for page in site.rglob("index.html"))
    with (
        TemporaryDirectory(ignore_cleanup_errors=True) as profile,
        answers_of(site, {"pages": pages, "widths": list(widths)}) as (address, answers),
    ):
        command = [browser, *FLAGS, f"--user-data-dir={profile}", f"{address}/measure"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            try:
                return answers.get(timeout=timeout_s)
            except Empty:
                raise TimeoutError(f"{browser} has measured nothing in {timeout_s} s") from None
            finally:
                process.kill()


@contextmanager
def answers_of(site: Path, asked: dict[str, Any]) -> Iterator[tuple[str, Queue[dict[str, list[str]]]]]:
    """Serve the site and the script; the address, and a queue of what the script posts."""
    answers: Queue[dict[str, list[str]]] = Queue()
    handler = partial(_Handler, asked, answers, directory=str(site))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", answers
        finally:
            server.shutdown()


class _Handler(SimpleHTTPRequestHandler):
    """Files of the site, the script, its order and its answer."""

    def __init__(self, asked: dict[str, Any], answers: Queue[dict[str, list[str]]], *args: Any, **kwargs: Any):
        self.answers = answers
        self.own = {
            "/measure": ("text/html", f"<body><script>{SCRIPT.read_text(encoding='utf-8')}</script>"),
            "/asked": ("application/json", json.dumps(asked)),
        }
        super().__init__(*args, **kwargs)

    def do_GET(self) -> None:
        if self.path in self.own:
            self.reply(*self.own[self.path])
        else:
            super().do_GET()

    def do_POST(self) -> None:
        self.answers.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.reply("text/plain", "")

    def reply(self, kind: str, text: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *args: Any) -> None:
        """Nothing."""

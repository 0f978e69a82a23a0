"""A headless Chromium, driven over its DevTools protocol; and `python -m tests.browser`, which takes pictures.

    python -m tests.browser REPORT.html FOLDER              # the page's top, on a desktop and a phone
    python -m tests.browser REPORT.html FOLDER FIGURE …     # figures by their id, without "figure-"
    python -m tests.browser DRAWING.svg FOLDER

Needs a Chromium on PATH, or its file named by ALIGN_CHROMIUM.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import aiohttp

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
OPTIONS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-extensions", "--disable-sync",
    "--remote-debugging-port=0",
)  # fmt: skip
PHONE, DESKTOP = (390, 844), (1366, 900)
TIMEOUT = 60.0
PLACE = """(() => {
  const figure = document.getElementById("figure-%s");
  for (let part = figure; part; part = part.parentElement) if (part.tagName === "DETAILS") part.open = true;
  const box = figure.getBoundingClientRect();
  return {left: box.left + scrollX, top: box.top + scrollY, width: box.width, height: box.height};
})()"""  # where a figure stands on its page


def chromium() -> str | None:
    """The browser's file, or None where there is none."""
    return os.environ.get("ALIGN_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


@dataclass
class Page:
    """A page that was opened, and what happened while it was."""

    browser: Browser
    session: str
    requests: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    loaded: bool = False

    def call(self, method: str, **params: Any) -> Any:
        return self.browser.call(method, self.session, **params)

    def evaluate(self, script: str) -> Any:
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def screenshot(self, width: float, height: float, top: float = 0, left: float = 0) -> bytes:
        """A PNG of so many pixels from ``top`` and ``left`` on."""
        clip = {"x": left, "y": top, "width": width, "height": height, "scale": 1}
        return base64.b64decode(self.call("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)["data"])


class Browser:
    """Open for as long as the block lasts."""

    def __init__(self, binary: str) -> None:
        self._binary = binary
        self._loop = asyncio.new_event_loop()
        self._number = 0
        self._pages: dict[str, Page] = {}

    def __enter__(self) -> Browser:
        self._folder = tempfile.mkdtemp(prefix="align-browser-")
        command = [self._binary, *OPTIONS, f"--user-data-dir={self._folder}", "about:blank"]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            self._loop.run_until_complete(self._connect())
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(AttributeError):
            self._loop.run_until_complete(self._socket.close())
            self._loop.run_until_complete(self._client.close())
        self._process.kill()
        self._process.wait()
        self._loop.run_until_complete(asyncio.sleep(0.05))
        self._loop.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    async def _connect(self) -> None:
        told, end = Path(self._folder) / "DevToolsActivePort", time.monotonic() + TIMEOUT
        while not told.is_file() or "\n" not in told.read_text():
            assert self._process.poll() is None, f"{self._binary} ended with {self._process.returncode}"
            assert time.monotonic() < end, f"{self._binary} did not start"
            await asyncio.sleep(0.05)
        port, way = told.read_text().split("\n")[:2]
        self._client = aiohttp.ClientSession()
        self._socket = await self._client.ws_connect(f"ws://127.0.0.1:{port}{way}", max_msg_size=0)

    def call(self, method: str, session: str | None = None, **params: Any) -> Any:
        return self._loop.run_until_complete(self._call(method, session, params))

    async def _call(self, method: str, session: str | None, params: dict[str, Any]) -> Any:
        self._number += 1
        number = self._number
        message = {"id": number, "method": method, "params": params}
        await self._socket.send_json(message | ({"sessionId": session} if session else {}))
        while True:
            answer = await self._socket.receive_json(timeout=TIMEOUT)
            if answer.get("id") == number:
                assert "error" not in answer, (method, answer)
                return answer["result"]
            self._event(answer)

    def _event(self, event: dict[str, Any]) -> None:
        page = self._pages.get(event.get("sessionId", ""))
        if page is None:
            return
        told = event["params"]
        if event["method"] == "Network.requestWillBeSent":
            page.requests.append(told["request"]["url"])
        elif event["method"] == "Runtime.exceptionThrown":
            page.errors.append(str(told["exceptionDetails"]))
        elif event["method"] == "Runtime.consoleAPICalled" and told["type"] in ("error", "warning", "assert"):
            page.errors.append(str(told["args"]))
        elif event["method"] == "Log.entryAdded" and told["entry"]["level"] in ("error", "warning"):
            page.errors.append(str(told["entry"]))
        elif event["method"] == "Page.loadEventFired":
            page.loaded = True

    def open(self, file: Path, size: tuple[int, int], dark: bool = False, sharp: float = 1.0) -> Page:
        """A file from the disk, loaded, in a window of that size."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = self._pages[session] = Page(self, session)
        for domain in ("Page", "Runtime", "Network", "Log"):
            page.call(f"{domain}.enable")
        page.call(
            "Emulation.setDeviceMetricsOverride", width=size[0], height=size[1], deviceScaleFactor=sharp,
            mobile=size[0] < 600,
        )  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        page.call("Emulation.setEmulatedMedia", features=[scheme])
        page.call("Page.navigate", url=file.resolve().as_uri())
        end = time.monotonic() + TIMEOUT
        while not page.loaded:
            assert time.monotonic() < end, f"{file} did not load"
            page.evaluate("0")
        return page


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """A browser, of which there is one."""
    binary = chromium()
    assert binary is not None, "no Chromium: put one on PATH or name it by ALIGN_CHROMIUM"
    with Browser(binary) as opened:
        yield opened


def main(report: Path, folder: Path, figures: Sequence[str] = ()) -> None:
    """Write PNGs into a folder: ``report-desktop`` and ``report-phone`` of a page, or its figures, or a drawing."""
    folder.mkdir(parents=True, exist_ok=True)
    with browser() as opened:
        if report.suffix == ".svg":
            width, height = map(int, re.findall(r' (?:width|height)="(\d+)', report.read_text().split(">", 1)[0]))
            _write(
                folder / f"{report.stem}.png", opened.open(report, (width, height), sharp=2.0).screenshot(width, height)
            )
        elif figures:
            page = opened.open(report, DESKTOP, sharp=2.0)
            for key in figures:
                _write(folder / f"{key}.png", page.screenshot(**page.evaluate(PLACE % key)))
        else:
            for name, size, height in (("desktop", DESKTOP, 1500), ("phone", PHONE, 1500)):
                _write(folder / f"report-{name}.png", opened.open(report, size).screenshot(size[0], height))


def _write(path: Path, picture: bytes) -> None:
    path.write_bytes(picture)
    print(f"{path}: {len(picture) // 1024} kB")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])

"""Headless Chromium through chromedriver's HTTP interface, with nothing but the standard library."""

import base64
import json
import re
import shutil
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
CHROMEDRIVER = shutil.which("chromedriver")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--hide-scrollbars",
)  # fmt: skip
LOCAL = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""A proxy has no part in talking to a driver on this machine."""
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
"""The key of an element's id (W3C WebDriver)."""


@dataclass(frozen=True)
class Browser:
    """One page of one session."""

    session: str

    def open(self, path: Path) -> None:
        self._post("url", url=path.resolve().as_uri())

    def run(self, script: str) -> Any:
        """Return what a script returns."""
        return self._post("execute/sync", script=script, args=[])

    def click(self, selector: str) -> None:
        """Click as a person does, who scrolls it into the middle: what is hidden or covered cannot be."""
        found = self._post("element", using="css selector", value=selector)[ELEMENT]
        self.run(f"document.querySelector({json.dumps(selector)}).scrollIntoView({{block: 'center'}})")
        self._post(f"element/{found}/click")

    def press(self, key: str, code: int) -> None:
        """Press and release a key of the keyboard, by its name and its code."""
        for kind in ("keyDown", "keyUp"):
            self.devtools("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def log(self) -> list[dict[str, Any]]:
        """Return what was logged since the last call: errors, warnings, refused requests."""
        return list(self._post("se/log", type="browser"))

    def devtools(self, command: str, **parameters: Any) -> Any:
        return self._post("goog/cdp/execute", cmd=command, params=parameters)

    def resize(self, width: int, height: int = 900) -> None:
        self.devtools(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )

    def too_wide(self) -> int:
        """Return by how many pixels the page is wider than the window; a telephone's innerWidth grows with the page."""
        root = "document.documentElement"
        return int(self.run(f"return {root}.scrollWidth - {root}.clientWidth"))

    def prefer(self, scheme: str) -> None:
        """Prefer colours, and (so that a click finds its place) no slow scrolling."""
        preferred = {"prefers-color-scheme": scheme, "prefers-reduced-motion": "reduce"}
        features = [{"name": name, "value": value} for name, value in preferred.items()]
        self.devtools("Emulation.setEmulatedMedia", features=features)

    def screenshot(self, path: Path) -> None:
        """Write the whole page as PNG."""
        size = self.devtools("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        shot = self.devtools("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(shot["data"]))

    def print(self, path: Path) -> None:
        """Write the page as PDF."""
        shot = self.devtools("Page.printToPDF", printBackground=True, preferCSSPageSize=False)
        path.write_bytes(base64.b64decode(shot["data"]))

    def _post(self, command: str, **body: Any) -> Any:
        return _request("POST", f"{self.session}/{command}", body)


@contextmanager
def browser() -> Iterator[Browser]:
    """Yield a fresh browser; it ends with the block."""
    assert CHROMIUM is not None
    assert CHROMEDRIVER is not None
    with tempfile.TemporaryDirectory() as profile:
        driver = subprocess.Popen([CHROMEDRIVER, "--port=0"], stdout=subprocess.PIPE, text=True)
        assert driver.stdout is not None
        try:
            port = next(found[1] for line in driver.stdout if (found := re.search(r"successfully on port (\d+)", line)))
            root = f"http://127.0.0.1:{port}"
            options = {"binary": CHROMIUM, "args": [*FLAGS, f"--user-data-dir={profile}"]}
            wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
            made = _request("POST", f"{root}/session", {"capabilities": {"alwaysMatch": wanted}})
            session = f"{root}/session/{made['sessionId']}"
            try:
                yield Browser(session)
            finally:
                _request("DELETE", session)
        finally:
            driver.terminate()
            driver.wait()
            driver.stdout.close()


def _request(method: str, address: str, body: dict[str, Any] | None = None) -> Any:
    content = None if body is None else json.dumps(body).encode()
    asked = urllib.request.Request(address, data=content, method=method, headers={"Content-Type": "application/json"})
    try:
        with LOCAL.open(asked, timeout=120) as answer:
            return json.load(answer)["value"]
    except HTTPError as error:
        raise AssertionError(json.load(error)["value"]["message"]) from None

"""The chat page: its policy, what it may load, and a browser that uses it (slow; skips itself where there is no Chromium)."""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from framework.server.page import page, page_headers


def test_the_policy_allows_its_own_script_and_style_alone(client: httpx.Client) -> None:
    response = client.get("/")
    assert response.status_code == 200 and response.text == page()
    policy = dict(part.split(" ", 1) for part in response.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'" and policy["connect-src"] == "'self'"
    for tag in ("script", "style"):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", response.text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert policy[f"{tag}-src"] == f"'sha256-{digest}'"
    assert page_headers()["x-content-type-options"] == "nosniff"


def test_it_asks_nobody_else_and_needs_no_inline_attributes() -> None:
    addresses = set(re.findall(r"https?://[^\s'\"]+", page()))
    assert addresses <= {"http://www.w3.org/2000/svg"}, "a namespace's name, which is never fetched"
    assert not re.search(r"<[^>]+\s(style|on\w+)=", page().split("<script>")[0])
    assert "import(" not in page() and "eval(" not in page() and "@import" not in page()


class Browser:
    """Chromium by WebDriver's plain HTTP."""

    def __init__(self, driver: httpx.Client, arguments: list[str]) -> None:
        options = {"args": arguments, "binary": shutil.which("chromium")}
        asked = {"capabilities": {"alwaysMatch": {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}}}
        self._driver = driver
        self._path = f"/session/{driver.post('/session', json=asked).json()['value']['sessionId']}"

    def command(self, path: str, body: dict[str, Any] | None = None) -> Any:
        response = self._driver.post(self._path + path, json=body or {}) if body is not None else self._driver.get(self._path + path)
        assert response.status_code == 200, response.text
        return response.json()["value"]

    def run(self, script: str) -> Any:
        return self.command("/execute/sync", {"script": script, "args": []})

    def find(self, selector: str) -> str:
        return next(iter(self.command("/element", {"using": "css selector", "value": selector}).values()))

    def type(self, selector: str, text: str) -> None:
        self.command(f"/element/{self.find(selector)}/value", {"text": text})

    def click(self, selector: str) -> None:
        self.command(f"/element/{self.find(selector)}/click", {})

    def until(self, condition: str, seconds: float = 20.0) -> None:
        end = time.monotonic() + seconds
        while not self.run(f"return {condition}"):
            assert time.monotonic() < end, (condition, self.command("/se/log", {"type": "browser"}))
            time.sleep(0.02)

    def picture(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.command("/screenshot")))

    def errors(self) -> list[str]:
        return [entry["message"] for entry in self.command("/se/log", {"type": "browser"}) if entry["level"] == "SEVERE"]


@pytest.fixture
def browse(tmp_path: Path) -> Iterator[Callable[..., Browser]]:
    """Starts browsers: `browse(width, height, dark=True)`."""
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        pytest.skip("needs chromium and chromedriver")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    driver = subprocess.Popen(["chromedriver", f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60)
    browsers: list[Browser] = []

    def start(width: int = 1200, height: int = 800, dark: bool = False) -> Browser:
        flags = (
            "headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking disable-component-update disable-sync"
        )
        arguments = [f"--{flag}" for flag in flags.split()]
        arguments += [f"--window-size={width},{height}", f"--user-data-dir={tmp_path / str(len(browsers))}"]
        browsers.append(Browser(client, arguments))
        media = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        _devtools(browsers[-1], "Emulation.setEmulatedMedia", {"features": media})
        size = {"width": width, "height": height, "deviceScaleFactor": 2 if width < 600 else 1, "mobile": width < 600}
        _devtools(browsers[-1], "Emulation.setDeviceMetricsOverride", size)
        return browsers[-1]

    try:
        for _ in range(200):
            try:
                client.get("/status")
                break
            except httpx.TransportError:
                time.sleep(0.05)
        yield start
    finally:
        for browser in browsers:
            client.delete(browser._path)
        driver.terminate()
        driver.wait()


def _devtools(browser: Browser, method: str, parameters: dict[str, Any]) -> None:
    browser.command("/goog/cdp/execute", {"cmd": method, "params": parameters})


@pytest.mark.slow
def test_a_browser_types_streams_and_stops(server: Any, slow: Any, browse: Callable[..., Browser]) -> None:
    slow(0.03)
    browser = browse()
    browser.command("/url", {"url": server.url})
    browser.until("document.querySelector('#model').value === 'tiny'")
    browser.type("#prompt", "Hello there")
    browser.type("#prompt", "\n")
    browser.until("document.querySelector('.turn.running .text')?.textContent.length > 3")
    assert browser.run("return document.querySelector('.turn.user').textContent") == "Hello there"
    assert browser.run("return document.querySelector('#send').getAttribute('aria-label')") == "Stop"
    browser.until("/tokens\\/s/.test(document.querySelector('.figures').textContent)")
    browser.type("body", "\ue00c")  # Escape
    browser.until("!document.querySelector('.running')")
    assert "stopped" in browser.run("return document.querySelector('.figures').textContent")
    server.wait_until_idle(1.0)

    # a whole reply, with its tokens' alternatives
    browser.click("#tune")
    browser.type("#max_tokens", "12")
    browser.type("#temperature", "0")
    browser.type("#prompt", "And now?\n")
    browser.until("document.querySelectorAll('.turn:not(.user)').length === 2 && !document.querySelector('.running')")
    assert "12 tokens" in browser.run("return [...document.querySelectorAll('.figures')].at(-1).textContent")
    browser.run("[...document.querySelectorAll('.note button')].findLast((button) => button.textContent === 'Tokens').click()")
    browser.run("document.querySelectorAll('.tokens span')[3].click()")
    rows = browser.run("return [...document.querySelectorAll('#card div')].map((row) => row.textContent)")
    assert len(rows) in (5, 6) and all(row.endswith("%") for row in rows)
    assert browser.run("return document.querySelectorAll('.tokens span').length") == 12
    browser.type("body", "\ue00c")
    assert browser.run("return document.querySelector('#card').hidden")

    # the other mode, and a new conversation
    browser.run("document.querySelector('#mode').value = 'complete'; document.querySelector('#mode').onchange()")
    browser.click("#fresh")
    assert browser.run("return document.querySelectorAll('.turn').length") == 0
    browser.type("#prompt", "Once upon")
    browser.click("#send")
    browser.until("document.querySelector('.note button') && !document.querySelector('.running')")
    assert browser.run("return document.querySelector('.text').textContent").startswith("Once upon")
    assert len(browser.run("return document.querySelector('.text').textContent")) == 9 + 12
    assert browser.errors() == [], "nothing broke the policy"


@pytest.mark.slow
def test_a_phone_and_a_key(serving: Callable[..., Any], browse: Callable[..., Browser]) -> None:
    with serving(api_key="key") as running:
        browser = browse(390, 844, dark=True)
        browser.command("/url", {"url": running.url})
        browser.until("document.querySelector('#lock').open")
        browser.type("#key", "key\n")
        browser.until("document.querySelector('#model').value === 'tiny'")
        browser.type("#prompt", "x" * 200 + "\n")
        browser.until("document.querySelector('.note button') && !document.querySelector('.running')")
        assert browser.run("return document.documentElement.scrollWidth <= innerWidth && innerWidth === 390")
        browser.click("#tune")
        assert browser.run("return document.querySelector('#settings').getBoundingClientRect().width <= 390")
        assert browser.run("return getComputedStyle(document.body).backgroundColor") == "rgb(25, 26, 27)"
        assert browser.run("return sessionStorage.getItem('key') === 'key' && localStorage.length === 0")

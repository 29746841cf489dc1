"""A headless Chromium for tests, over its DevTools protocol: open a file, evaluate JavaScript, press keys, listen.

python tests/browser.py PAGE.html FILE.pdf [PAGE.html?query FILE.pdf …]

prints pages, formulas set and figures in the colours of paper.
"""

import base64
import contextlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
PROGRAM = next(filter(None, map(shutil.which, NAMES)), None)
AXE = pathlib.Path(__file__).resolve().parents[1] / ".venv" / "axe" / "axe_playwright_python" / "axe.min.js"
KEYS = {"Tab": (9, ""), "Enter": (13, "\r"), " ": (32, " ")}  # as KeyboardEvent.key names them
KEYS |= {name: (code, "") for code, name in enumerate(("End", "Home", "ArrowLeft", "ArrowUp", "ArrowRight"), start=35)}
FORMULAS_SET = "Promise.resolve(window.MathJax?.startup?.promise).then(() => true)"
HERE = ("file:", "data:", "blob:", "about:", "chrome:", "devtools:")


class Browser:
    """`events` holds what Chromium has reported since the last `open`, once `listen` was called."""

    def __init__(self, socket):
        self.socket, self.count, self.events = socket, 0, []

    def send(self, method, **parameters):
        self.count += 1
        self.socket.send(json.dumps({"id": self.count, "method": method, "params": parameters}))
        while (answer := json.loads(self.socket.recv())).get("id") != self.count:
            self.events.append(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def run(self, script):
        """The value of a JavaScript expression; AssertionError with the text of what it throws."""
        answer = self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]["exception"].get("description", answer)
        return answer["result"].get("value")

    def open(self, path, scripts=True):
        """Load a file (or an address) and wait until it has loaded everything."""
        address = path if isinstance(path, str) else path.as_uri()
        self.events.clear()
        self.send("Emulation.setScriptExecutionDisabled", value=not scripts)
        self.send("Page.navigate", url=address)
        there = f"location.href === {json.dumps(address)} && document.readyState === 'complete'"
        self.wait(there, f"Chromium did not load {path} in 20 seconds")

    def wait(self, condition, message, seconds=20):
        """Until the JavaScript condition holds; AssertionError with the message after `seconds`."""
        deadline = time.monotonic() + seconds
        while not self.run(f"!!({condition})"):
            assert time.monotonic() < deadline, message
            time.sleep(0.01)

    def press(self, key):
        code, text = KEYS[key]
        event = {"key": key, "code": "Space" if key == " " else key, "windowsVirtualKeyCode": code}
        self.send("Input.dispatchKeyEvent", type="keyDown", text=text, **event)
        self.send("Input.dispatchKeyEvent", type="keyUp", **event)

    def listen(self):
        for domain in ("Runtime", "Log", "Network", "Page"):
            self.send(f"{domain}.enable")

    def screen(self, width, height=900, dark=False):
        """The size of the window, and what the reader's system prefers."""
        phone = width < 600
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])

    def complaints(self):
        """Errors of scripts, of the console and of loading since the last `open`, and requests to outside."""
        found = []
        for event in self.events:
            about = event.get("params", {})
            match event.get("method"):
                case "Runtime.exceptionThrown":
                    thrown = about["exceptionDetails"]
                    found.append("script: " + thrown.get("exception", {}).get("description", thrown["text"]))
                case "Runtime.consoleAPICalled" if about["type"] in ("error", "assert"):
                    words = (str(word.get("value", word.get("description"))) for word in about["args"])
                    found.append("console: " + " ".join(words))
                case "Log.entryAdded" if about["entry"]["level"] == "error":
                    found.append(f"console: {about['entry']['text']} {about['entry'].get('url', '')}".strip())
                case "Network.requestWillBeSent" if not about["request"]["url"].startswith(HERE):
                    found.append(f"outside request: {about['request']['url']}")
        return found

    def picture(self, path, whole=True):
        shot = self.send("Page.captureScreenshot", captureBeyondViewport=whole)
        pathlib.Path(path).write_bytes(base64.b64decode(shot["data"]))

    def pdf(self, path, **options):
        done = self.send("Page.printToPDF", transferMode="ReturnAsStream", **options)
        with open(path, "wb") as file:
            while not (part := self.send("IO.read", handle=done["stream"], size=1 << 20))["eof"] or part["data"]:
                file.write(base64.b64decode(part["data"]) if part["base64Encoded"] else part["data"].encode())


def needed():
    """Skip the test where Chromium, axe or the package that speaks with them is missing; in CI, fail."""
    import importlib.util

    import pytest

    there = {"Chromium": PROGRAM, "axe-core": AXE.exists(), "websocket-client": importlib.util.find_spec("websocket")}
    if absent := [name for name, found in there.items() if not found]:
        end = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        end(f"not on this machine: {', '.join(absent)}; make test tries to install them (.ci/browser.py)")


@contextlib.contextmanager
def browser():
    """A page of a fresh Chromium, which sees no network."""
    import websocket

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        flags = ["--headless", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
        flags += [
            "--disable-component-update",
            "--disable-sync",
            "--disable-dev-shm-usage",
            "--remote-debugging-port=0",
        ]
        flags += ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", f"--user-data-dir={profile}"]
        if hasattr(os, "geteuid") and os.geteuid() == 0:  # Chromium refuses its sandbox to root
            flags.append("--no-sandbox")
        command = [PROGRAM, *flags, "about:blank"]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        try:
            lines = iter(process.stderr.readline, "")
            found = next(filter(None, (re.search(r"ws://127\.0\.0\.1:(\d+)/", line) for line in lines)), None)
            assert found, f"{PROGRAM} ended before it opened a port for tests"
            yield Browser(_page(websocket, found.group(1)))
        finally:
            process.terminate()
            process.wait(timeout=10)
            process.stderr.close()


def _page(websocket, port):
    import urllib.request

    with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=20) as answer:
        targets = json.load(answer)
    address = next(target["webSocketDebuggerUrl"] for target in targets if target["type"] == "page")
    return websocket.create_connection(address, timeout=60, suppress_origin=True)


def main(*names):
    with browser() as found:
        for page, file in zip(names[::2], names[1::2], strict=True):
            pathlib.Path(file).parent.mkdir(parents=True, exist_ok=True)
            printed(found, page, file)
            print(f"Printed: {pathlib.Path(file).resolve().as_uri()}")


def printed(found, page, file):
    path, _, query = page.partition("?")
    found.open(pathlib.Path(path).resolve().as_uri() + f"?{query}" * bool(query))
    found.run(FORMULAS_SET)
    found.run("document.querySelectorAll('details:not(.hide)').forEach((box) => box.open = true)")
    where = '<p style="font-size: 7pt; width: 100%; text-align: center"><span class="pageNumber"></span></p>'
    paper = {"paperWidth": 8.27, "paperHeight": 11.69, "displayHeaderFooter": True, "headerTemplate": "<p></p>"}
    found.pdf(file, **paper, footerTemplate=where, generateTaggedPDF=True, generateDocumentOutline=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

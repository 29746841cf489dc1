"""A headless Chromium for tests, over its DevTools protocol: open a file, evaluate JavaScript, press keys."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import tempfile
import time

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
KEYS = {"Tab": (9, ""), "Enter": (13, "\r"), " ": (32, " ")}  # as KeyboardEvent.key names them


class Browser:
    def __init__(self, socket):
        self.socket, self.count = socket, 0

    def send(self, method, **parameters):
        self.count += 1
        self.socket.send(json.dumps({"id": self.count, "method": method, "params": parameters}))
        while (answer := json.loads(self.socket.recv())).get("id") != self.count:
            pass  # events
        assert "error" not in answer, answer
        return answer["result"]

    def run(self, script):
        """The value of a JavaScript expression; AssertionError with the text of what it throws."""
        answer = self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]["exception"].get("description", answer)
        return answer["result"].get("value")

    def open(self, path, scripts=True):
        self.send("Emulation.setScriptExecutionDisabled", value=not scripts)
        self.send("Page.navigate", url=path.as_uri())
        there = f"location.href === {json.dumps(path.as_uri())} && document.readyState === 'complete'"
        deadline = time.monotonic() + 20
        while not self.run(there):
            assert time.monotonic() < deadline, f"Chromium did not load {path} in 20 seconds"
            time.sleep(0.01)

    def press(self, key):
        code, text = KEYS[key]
        event = {"key": key, "code": "Space" if key == " " else key, "windowsVirtualKeyCode": code}
        self.send("Input.dispatchKeyEvent", type="keyDown", text=text, **event)
        self.send("Input.dispatchKeyEvent", type="keyUp", **event)


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
    return websocket.create_connection(address, timeout=20, suppress_origin=True)

"""Headless Chromium, driven over its DevTools protocol."""

import base64
import contextlib
import json
import shutil
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
    "--use-fake-device-for-media-stream",
]
PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Chromium:
    """A browser with one page.

    Attributes:
        errors: What scripts of the page threw and did not catch.
        answers: What is answered in the place of the network to requests of some addresses, once `intercept` was
            called: type and content.
    """

    def __init__(self, seconds=60):
        import websocket

        self.folder = tempfile.mkdtemp(prefix="chromium")
        self.process = subprocess.Popen(
            [PROGRAM, *FLAGS, f"--user-data-dir={self.folder}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.errors, self.answers, self.number, self.seconds = [], {}, 0, seconds
        try:
            port = self._wait(lambda: (Path(self.folder) / "DevToolsActivePort").read_text().split()[0])
            direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            pages = self._wait(lambda: json.load(direct.open(f"http://127.0.0.1:{port}/json/list", timeout=seconds)))
            address = next(page["webSocketDebuggerUrl"] for page in pages if page["type"] == "page")
            self.socket = websocket.create_connection(
                address, timeout=seconds, suppress_origin=True, http_no_proxy=["127.0.0.1"]
            )
            for domain in ("Page", "Runtime", "DOM"):
                self.send(f"{domain}.enable")
        except BaseException:
            self.close()
            raise

    def close(self):
        with contextlib.suppress(Exception):
            self.socket.close()
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def send(self, method, **parameters):
        """Calls a method of the protocol and returns its result."""
        number = self._call(method, parameters)
        while True:
            message = json.loads(self.socket.recv())
            if message.get("method") == "Runtime.exceptionThrown":
                details = message["params"]["exceptionDetails"]
                self.errors.append(details.get("exception", details).get("description", details["text"]))
            if message.get("method") == "Fetch.requestPaused":
                self._answer(message["params"])
            if message.get("id") == number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']}")
                return message["result"]

    def _call(self, method, parameters):
        self.number += 1
        self.socket.send(json.dumps({"id": self.number, "method": method, "params": parameters}))
        return self.number

    def intercept(self, pattern):
        """Answers requests of addresses that match from `answers`; those that are not there fail."""
        self.send("Fetch.enable", patterns=[{"urlPattern": pattern}])

    def _answer(self, request):
        found = self.answers.get(request["request"]["url"])
        if found is None:
            self._call("Fetch.failRequest", {"requestId": request["requestId"], "errorReason": "NameNotResolved"})
            return
        headers = {"Content-Type": found[0], "Access-Control-Allow-Origin": "*"}
        answer = {
            "requestId": request["requestId"],
            "responseCode": 200,
            "responseHeaders": [{"name": name, "value": value} for name, value in headers.items()],
            "body": base64.b64encode(found[1]).decode(),
        }
        self._call("Fetch.fulfillRequest", answer)

    def run(self, script):
        """The value of a script in the page; a promise's, once it is there."""
        answer = self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"]["exception"].get("description"))
        return answer["result"].get("value")

    def wait(self, condition):
        """Waits until a script in the page gives true."""
        return self._wait(lambda: self.run(condition) or None)

    def open(self, address):
        """Opens a page and waits until its own scripts have begun."""
        self.send("Page.navigate", url=address)
        self.wait(f"document.readyState === 'complete' && location.href.startsWith({json.dumps(address)})")

    def choose(self, selector, path):
        """Chooses a file as a person would in the dialogue."""
        root = self.send("DOM.getDocument")["root"]["nodeId"]
        node = self.send("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.send("DOM.setFileInputFiles", nodeId=node, files=[str(path)])

    def drag(self, *points):
        """Moves the pressed mouse from point to point."""
        (x, y), *rest = points
        for kind, at in (("mousePressed", (x, y)), *(("mouseMoved", to) for to in rest), ("mouseReleased", points[-1])):
            self.send("Input.dispatchMouseEvent", type=kind, x=at[0], y=at[1], button="left", buttons=1, clickCount=1)

    def key(self, name, shift=False):
        """Presses a key."""
        for kind in ("keyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=name, code=name, modifiers=8 if shift else 0)

    def screenshot(self, path, width=1280, height=800, dark=False, full=False):
        """Writes what a screen of some size shows, as PNG."""
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.send("Emulation.setEmulatedMedia", features=scheme)
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )
        shot = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=full)
        Path(path).write_bytes(base64.b64decode(shot["data"]))

    def _wait(self, attempt):
        end = time.monotonic() + self.seconds
        while True:
            try:
                found = attempt()
                if found is not None:
                    return found
                error = None
            except (OSError, RuntimeError) as failure:  # there is no page yet, or it is about to go
                error = failure
            if time.monotonic() > end:
                raise TimeoutError(f"{self.seconds} s; errors of the page: {self.errors}") from error
            time.sleep(0.05)

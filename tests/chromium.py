"""A headless Chromium that tests drive over a pipe, by its DevTools protocol: no port is opened and no driver is needed."""

import base64
import json
import os
import shutil
import subprocess

PATH = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
# The browser asks nobody but the page's own server: whatever else it would look up on its own leads nowhere.
FLAGS = "--headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run --disable-background-networking --disable-sync "
FLAGS += "--disable-component-update --hide-scrollbars --force-color-profile=srgb --remote-debugging-pipe"
ALONE = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"


class Chromium:
    """One browser with one page. `asked` lists every address that the page asked for, `console` what it complained about."""

    def __init__(self, folder):
        to_read, write = os.pipe()
        read, to_write = os.pipe()
        # DevTools reads from descriptor 3 and writes to 4.
        command = f'exec "$@" 3<&{to_read} 4>&{to_write}'
        arguments = ["bash", "-c", command, "bash", PATH, *FLAGS.split(), ALONE, f"--user-data-dir={folder}"]
        self._process = subprocess.Popen(arguments, pass_fds=(to_read, to_write), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(to_read)
        os.close(to_write)
        self._write, self._read = os.fdopen(write, "wb", buffering=0), os.fdopen(read, "rb")
        self._number, self._session, self._unread, self.asked, self.console = 0, None, b"", [], []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")

    def send(self, method, **parameters):
        """Sends one command and returns its result; events that come before it are noted."""
        self._number += 1
        session = {"sessionId": self._session} if self._session else {}
        self._write.write(json.dumps({"id": self._number, "method": method, "params": parameters, **session}).encode() + b"\0")
        while True:
            message = self._next()
            if message.get("id") == self._number:
                assert "error" not in message, message
                return message["result"]

    def _next(self):
        """Reads one message; Chromium ends each with a zero byte."""
        while b"\0" not in self._unread:
            came = self._read.read1(1 << 16)
            assert came, "Chromium has ended"
            self._unread += came
        first, _, self._unread = self._unread.partition(b"\0")
        message = json.loads(first)
        self._note(message.get("method"), message.get("params"))
        return message

    def _note(self, method, said):
        if method == "Network.requestWillBeSent":
            self.asked.append(said["request"]["url"])
        if method == "Log.entryAdded" and said["entry"]["level"] in ("error", "warning"):
            self.console.append(said["entry"]["text"])
        if method == "Runtime.exceptionThrown":
            self.console.append(said["exceptionDetails"]["text"])

    def open(self, url):
        """Opens a page and waits until it is there."""
        self.send("Page.navigate", url=url)
        while self._next().get("method") != "Page.loadEventFired":
            pass

    def run(self, script):
        """Evaluates JavaScript in the page, waits for its promise, and returns its value."""
        done = self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True, userGesture=True)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def resize(self, width, height, scale=1):
        """Makes the window so many CSS pixels large."""
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=width < 600)

    def screenshot(self, path):
        """Writes what is seen as PNG."""
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"]))

    def close(self):
        """Ends the browser."""
        self._session = None
        self._number += 1
        self._write.write(json.dumps({"id": self._number, "method": "Browser.close"}).encode() + b"\0")
        self._process.wait(timeout=20)
        self._write.close()
        self._read.close()

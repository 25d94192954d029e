"""A headless Chromium for tests of pages, with the standard library alone."""

import json
import os
import select
import shutil
import subprocess
import sys
import time


class Browser:
    """Headless Chromium, spoken to in its own protocol over two pipes."""

    def __init__(self, binary, profile):
        to_it, mine = os.pipe()
        self.read_end, from_it = os.pipe()
        # It reads from descriptor 3 and writes to 4. A Python between moves them
        # there: a preexec_fn would fork this process, of which jax warns.
        move = (
            "import fcntl, os, sys\n"
            "r, w = (fcntl.fcntl(int(a), fcntl.F_DUPFD, 10) for a in sys.argv[1:3])\n"
            "os.dup2(r, 3), os.dup2(w, 4)\n"
            "os.execv(sys.argv[3], sys.argv[3:])\n"
        )
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run"]
        flags += ["--disable-background-networking", f"--user-data-dir={profile}"]
        self.process = subprocess.Popen(
            [sys.executable, "-c", move, str(to_it), str(from_it), binary, *flags]
            + ["--remote-debugging-pipe", "about:blank"],
            pass_fds=(to_it, from_it),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_it), os.close(from_it)
        self.write_end, self.buffer, self.last = mine, b"", 0
        self.events: list[dict] = []
        targets = self.send("Target.getTargets", to_page=False)["targetInfos"]
        target = next(t["targetId"] for t in targets if t["type"] == "page")
        self.session = self.send(
            "Target.attachToTarget", to_page=False, targetId=target, flatten=True
        )["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def close(self):
        self.process.kill()
        self.process.wait()
        os.close(self.write_end), os.close(self.read_end)

    def receive(self, seconds):
        deadline = time.monotonic() + seconds
        while b"\0" not in self.buffer:
            left = max(0, deadline - time.monotonic())
            assert select.select([self.read_end], [], [], left)[0], (
                "no word from Chromium"
            )
            chunk = os.read(self.read_end, 1 << 20)
            assert chunk, "Chromium ended"
            self.buffer += chunk
        message, self.buffer = self.buffer.split(b"\0", 1)
        return json.loads(message)

    def send(self, method, to_page=True, seconds=60, **params):
        self.last += 1
        message = {"id": self.last, "method": method, "params": params}
        if to_page:
            message["sessionId"] = self.session
        os.write(self.write_end, json.dumps(message).encode() + b"\0")
        while (answer := self.receive(seconds)).get("id") != self.last:
            self.events.append(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def open(self, path):
        """Opens the file; returns the seconds until its first frame was drawn."""
        self.events.clear()
        start = time.monotonic()
        self.send("Page.navigate", url=path.as_uri())
        self.ask(
            "new Promise(r => document.readyState === 'complete' ? r() : onload = r)"
        )
        self.ask("new Promise(r => requestAnimationFrame(() => setTimeout(r)))")
        return time.monotonic() - start

    def ask(self, expression):
        """The value of an expression in the page, awaited where it is a promise."""
        answer = self.send(
            "Runtime.evaluate",
            expression=expression,
            awaitPromise=True,
            returnByValue=True,
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait_for(self, expression):
        for _ in range(200):
            if self.ask(f"Boolean({expression})"):
                return
            time.sleep(0.05)
        raise AssertionError(f"never came true: {expression}")

    def complaints(self):
        """Console messages, uncaught errors, and requests other than for the file."""
        kinds = {
            "Runtime.consoleAPICalled",
            "Runtime.exceptionThrown",
            "Log.entryAdded",
        }
        return [e for e in self.events if e["method"] in kinds] + [
            e["params"]["request"]["url"]
            for e in self.events
            if e["method"] == "Network.requestWillBeSent"
            and not e["params"]["request"]["url"].startswith(("file:", "data:"))
        ]


def find_chromium():
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next(filter(None, map(shutil.which, names)), None)

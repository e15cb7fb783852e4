"""The report in a real browser: filters clicked, nothing on the console, nothing over the network.

Needs chromedriver and Chromium. RFT_REPORT names a report to open instead of a made-up one; RFT_SCREENSHOTS a folder for
pictures.
"""

import base64
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from rft.evaluate.report import write_evaluation_report
from rft.evaluate.statistics import summarise

pytestmark = [pytest.mark.slow, pytest.mark.skipif(shutil.which("chromedriver") is None, reason="chromedriver is not installed")]

EVIL = "</script><script>document.title = 'stolen'</script><img src=x onerror=\"document.title='stolen'\">"


class Browser:
    """A headless Chromium through the WebDriver protocol."""

    def __init__(self, port):
        self.base = f"http://127.0.0.1:{port}"
        options = {
            "args": ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1200,1400"]
        }
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"}}
        answer = self.call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self.base += f"/session/{answer['sessionId']}"

    def call(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.base + path, data, {"Content-Type": "application/json"}, method=method)
        return json.load(urllib.request.urlopen(request, timeout=300))["value"]

    def run(self, script):
        return self.call("POST", "/execute/sync", {"script": script, "args": []})

    def picture(self, path):
        Path(path).write_bytes(base64.b64decode(self.call("GET", "/screenshot")))


@pytest.fixture
def browser():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    driver = subprocess.Popen(["chromedriver", f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/status", timeout=5)
                break
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)
        opened = Browser(port)
        yield opened
        opened.call("DELETE", "")
    finally:
        driver.terminate()
        driver.wait(20)


@pytest.fixture
def report(tmp_path):
    if "RFT_REPORT" in os.environ:
        return Path(os.environ["RFT_REPORT"]).resolve()
    rows = []
    for i in range(60):
        labels = {
            "pref_type": ["ask_to_forget", "neutral_preferences"][i % 2], "who": "self", "updated": False, "scenario": "chat",
            "distance": 100 * i, "preference": EVIL, "prev_pref": "",
        }  # fmt: skip
        said = [f"<think>{EVIL}</think>\\boxed{{a}}", "<think>x</think>\\boxed{b}", "no idea"][i % 3]
        rows.append({
            "id": f"benchmark-{i}", "question": f"benchmark-{i}", "order": 0, "sample": 0, "open_ended": False,
            "persona_id": str(i % 7), "labels": labels, "query": f"{EVIL} question {i}?", "gold": "a",
            "options": ["tea", "milk", EVIL, "cocoa"], "answered": ["a", "b", None][i % 3], "score": float(i % 3 == 0),
            "completion": said, "finished": True, "input_tokens": 9, "output_tokens": 3, "seconds": 0.1,
            "history_characters": 9000 * i,
        })  # fmt: skip
    about = {
        "model": EVIL,
        "context": "history",
        "split": "benchmark",
        "window": "32k",
        "data_sha256": "abc",
        "settings": {"x": EVIL},
    }
    summary = about | summarise(rows) | {"questions_in_split": 60, "unanswered": 0}
    write_evaluation_report(summary, rows, tmp_path / "report.html")
    return tmp_path / "report.html"


def test_the_question_browser_works_and_loads_nothing(browser, report, tmp_path):
    pictures = Path(os.environ.get("RFT_SCREENSHOTS", tmp_path))
    browser.call("POST", "/url", {"url": report.as_uri()})
    count = "return document.querySelector('#browser .count').textContent"
    total = int(browser.run(count).split(" of ")[1].split()[0])
    browser.picture(pictures / "report.png")
    buttons = browser.run("return [...document.querySelectorAll('#browser button[data-status]')].filter(b => !b.hidden)"
                          ".map(b => [b.dataset.status, b.textContent])")  # fmt: skip
    shown = 0
    for status, label in buttons:
        browser.run(f"document.querySelector('#browser button[data-status={status}]').click()")
        found = int(browser.run(count).split()[0])
        assert found == (total if status == "all" else int(label.split()[-1]))
        shown += found if status != "all" else 0
    assert shown == total
    browser.run("document.querySelector('#browser button[data-status=all]').click()")
    browser.run(
        "const s = document.querySelector('#browser input'); s.value = 'zzz nobody said'; s.dispatchEvent(new Event('input'))"
    )
    assert browser.run(count).startswith("0 of")
    browser.run("const s = document.querySelector('#browser input'); s.value = ''; s.dispatchEvent(new Event('input'))")
    browser.run("document.querySelector('#browser details summary').click()")
    time.sleep(0.3)
    assert browser.run("return document.querySelector('#browser details[open] .completion').textContent.length") > 0
    browser.run("document.querySelector('#browser').scrollIntoView()")
    browser.picture(pictures / "browser.png")
    browser.call("POST", "/window/rect", {"width": 400, "height": 900})
    assert browser.run("return document.documentElement.scrollWidth <= window.innerWidth + 1")  # a phone scrolls one way
    browser.run("window.scrollTo(0, 0)")
    browser.picture(pictures / "phone.png")
    assert browser.run("return document.title") != "stolen"
    assert browser.call("POST", "/se/log", {"type": "browser"}) == []
    events = [json.loads(entry["message"])["message"] for entry in browser.call("POST", "/se/log", {"type": "performance"})]
    asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert [url for url in asked if not url.startswith(("data:", "file:"))] == [] and len(
        [u for u in asked if u.startswith("file:")]
    ) == 1

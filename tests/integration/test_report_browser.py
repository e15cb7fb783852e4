"""The pages in a real browser: filters clicked, nothing on the console, nothing over the network, no labels
over one another, no holes between figures, nothing cut off on a phone.

Needs chromedriver and Chromium. RFT_REPORT names a report to open instead of a made-up one; RFT_SCREENSHOTS a
folder for pictures.
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
from result_rows import result_row, summary_of

from rft.records.training import METRICS
from rft.report.evaluation import RUNS, write_evaluation_report, write_quickstart_report
from rft.report.training import write_report

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("chromedriver") is None, reason="chromedriver is not installed"),
]

EVIL = "</script><script>document.title = 'stolen'</script><img src=x onerror=\"document.title='stolen'\">"


class Browser:
    """A headless Chromium through the WebDriver protocol."""

    def __init__(self, port):
        self.base = f"http://127.0.0.1:{port}"
        options = {
            "args": [
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--window-size=1200,1400",
            ]
        }
        wanted = {
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }
        answer = self.call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self.base += f"/session/{answer['sessionId']}"

    def call(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self.base + path, data, {"Content-Type": "application/json"}, method=method
        )
        return json.load(urllib.request.urlopen(request, timeout=300))["value"]

    def run(self, script):
        return self.call("POST", "/execute/sync", {"script": script, "args": []})

    def phone(self):
        """A screen of 375 pixels from here on."""
        size = {"width": 375, "height": 800, "deviceScaleFactor": 1, "mobile": True}
        self.call("POST", "/goog/cdp/execute", {"cmd": "Emulation.setDeviceMetricsOverride", "params": size})

    def picture(self, path):
        Path(path).write_bytes(base64.b64decode(self.call("GET", "/screenshot")))


@pytest.fixture
def browser():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    driver = subprocess.Popen(
        ["chromedriver", f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
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
        said = [f"<think>{EVIL}</think>\\boxed{{a}}", "<think>x</think>\\boxed{b}", "no idea"][i % 3]
        rows.append(
            result_row(
                i,
                i % 3 == 0,
                str(i % 7),
                labels={
                    "pref_type": ["ask_to_forget", "neutral_preferences"][i % 2],
                    "distance": 100 * i,
                    "preference": EVIL,
                },
                query=f"{EVIL} question {i}?",
                options=["tea", "milk", EVIL, "cocoa"],
                answered=["a", "b", None][i % 3],
                completion=said,
                history_characters=9000 * i,
            )
        )
    summary = summary_of(rows, model=EVIL, settings={"x": EVIL}, questions_in_split=60)
    write_evaluation_report(summary, rows, tmp_path / "report.html")
    return tmp_path / "report.html"


def test_the_question_browser_works_and_loads_nothing(browser, report, tmp_path):
    pictures = Path(os.environ.get("RFT_SCREENSHOTS", tmp_path))
    browser.call("POST", "/url", {"url": report.as_uri()})
    count = "return document.querySelector('#browser .count').textContent"
    total = int(browser.run(count).split(" of ")[1].split()[0])
    browser.picture(pictures / "report.png")
    buttons = browser.run(
        "return [...document.querySelectorAll('#browser button[data-status]')].filter(b => !b.hidden)"
        ".map(b => [b.dataset.status, b.textContent])"
    )
    shown = 0
    for status, label in buttons:
        browser.run(f"document.querySelector('#browser button[data-status={status}]').click()")
        found = int(browser.run(count).split()[0])
        assert found == (total if status == "all" else int(label.split()[-1]))
        shown += found if status != "all" else 0
    assert shown == total
    browser.run("document.querySelector('#browser button[data-status=all]').click()")
    browser.run(
        "const s = document.querySelector('#browser input'); s.value = 'zzz nobody said'; s.dispatchEvent(new"
        " Event('input'))"
    )
    assert browser.run(count).startswith("0 of")
    browser.run(
        "const s = document.querySelector('#browser input'); s.value = ''; s.dispatchEvent(new"
        " Event('input'))"
    )
    browser.run("document.querySelector('#browser details summary').click()")
    time.sleep(0.3)
    assert (
        browser.run("return document.querySelector('#browser details[open] .completion').textContent.length")
        > 0
    )
    browser.run("document.querySelector('#browser').scrollIntoView()")
    browser.picture(pictures / "browser.png")
    browser.call("POST", "/window/rect", {"width": 400, "height": 900})
    # a phone scrolls one way
    assert browser.run("return document.documentElement.scrollWidth <= window.innerWidth + 1")
    browser.run("window.scrollTo(0, 0)")
    browser.picture(pictures / "phone.png")
    assert browser.run("return document.title") != "stolen"
    assert browser.call("POST", "/se/log", {"type": "browser"}) == []
    events = [
        json.loads(entry["message"])["message"]
        for entry in browser.call("POST", "/se/log", {"type": "performance"})
    ]
    asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert [url for url in asked if not url.startswith(("data:", "file:"))] == [] and len(
        [u for u in asked if u.startswith("file:")]
    ) == 1


COLLISIONS = """
return [...document.querySelectorAll("svg[role=img]")].flatMap(svg => {
  const outer = svg.getBoundingClientRect(), texts = [...svg.querySelectorAll("text")];
  const boxes = texts.map(t => [t.textContent, t.getBoundingClientRect()]);
  const outside = b => b.left < outer.left - 1 || b.right > outer.right + 1;
  const cut = boxes.filter(([, b]) => outside(b)).map(([name]) => "cut: " + name);
  const over = boxes.flatMap(([name, a], i) => boxes.slice(i + 1).filter(([, b]) =>
    Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1
    && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 4
  ).map(([other]) => name + " over " + other));
  return [...cut, ...over];
})"""
HOLES = """
return [...document.querySelectorAll(".charts")].flatMap(charts => {
  const box = e => e.getBoundingClientRect(), all = box(charts);
  const cards = [...charts.querySelectorAll(".card")].map(box);
  const columns = [...charts.querySelectorAll(".column")].map(c => box(c.lastElementChild).bottom);
  const right = Math.max(...cards.filter(c => all.bottom - c.bottom < 1).map(c => c.right));
  return [...columns, ...(columns.length ? [] : [cards.at(-1).bottom])]
    .filter(bottom => all.bottom - bottom > 1)
    .concat(all.right - right > 1 ? ["right"] : []);
})"""
CUT = """
const texts = ".about td, .about th, .tiles div, h1, .lead, .facts, .query, .key li, figcaption, footer";
return [...document.querySelectorAll(texts)]
  .filter(e => e.getBoundingClientRect().right > window.innerWidth || e.scrollWidth > e.clientWidth + 1)
  .map(e => e.textContent)"""


@pytest.fixture
def training(tmp_path):
    """The page of a training with many kinds of question and long hashes."""
    kinds = (
        "neutral_preferences",
        "health_and_medical_conditions",
        "anti_stereotypical_pref",
        "ask_to_forget",
        "therapy",
    )
    rows = [
        {
            "step": i,
            "reward": i / 60,
            "reward_std": 0.2,
            "loss": 0.0,
            "entropy": 1.0 / i,
            "step_time": 2.0,
            "learning_rate": 1e-6 * i,
            "grad_norm": 12345.0 / i,
            "held_out/accuracy": i / 60,
            "unparsed_rate": 0.1,
            **{f"accuracy/{kind}": i / 60 for kind in kinds},
        }
        for i in range(1, 61)
    ]
    (tmp_path / METRICS).write_text("".join(json.dumps(row) + "\n" for row in rows))
    facts = {"git_commit": "a" * 40 + "+", "data_sha256": "0" * 64, "versions": {"torch": "2.13.0+cpu"}}
    (tmp_path / "provenance.json").write_text(json.dumps(facts))
    write_report(tmp_path, tmp_path / "training.html")
    return tmp_path / "training.html"


@pytest.fixture
def quickstart(tmp_path):
    """The page of a quickstart with its memory arm: seven runs in every chart, and more figures than fit
    evenly."""
    rows = []
    for i in range(120):
        labels = {
            "pref_type": ("neutral_preferences", "health_and_medical_conditions", "ask_to_forget")[i % 3],
            "updated": i % 2 == 0,
            "who": ("self", "others")[i % 2],
            "scenario": ("chat_message", "professional_writing", "translation")[i // 3 % 3],
            "distance": 10 ** (i % 5),
            "preference": "Enjoys tea",
        }
        rows.append(
            result_row(
                i,
                i % 4 == 0,
                str(i // 8),
                labels=labels,
                query=f"Question {i}?",
                answered="abcd"[i % 4],
                completion=f"<think>Tea.</think>\\boxed{{{'abcd'[i % 4]}}}",
            )
        )
    summary = summary_of(rows, data_sha256="0" * 64)
    curve = [(i, i / 100) for i in range(100)]
    write_quickstart_report(
        tmp_path / "quickstart.html",
        summaries={name: summary for name in RUNS},
        curves={"GRPO: reward": curve, "cold start: loss": curve, "memory GRPO: reward": curve},
        transcripts=[(row, row) for row in rows[:3]],
        seconds={"sft": 60.0},
    )
    return tmp_path / "quickstart.html"


@pytest.mark.parametrize("name", ["report", "training", "quickstart"])
def test_a_page_has_no_colliding_labels_no_holes_and_fits_a_phone(browser, name, request, tmp_path):
    page = request.getfixturevalue(name)
    pictures = Path(os.environ.get("RFT_SCREENSHOTS", tmp_path))
    browser.call("POST", "/url", {"url": page.as_uri()})
    browser.picture(pictures / f"{name}-desk.png")
    assert browser.run("return document.querySelectorAll('svg[role=img]').length") >= 7
    assert browser.run(COLLISIONS) == [] and browser.run(HOLES) == [] and browser.run(CUT) == []
    browser.phone()
    browser.picture(pictures / f"{name}-phone.png")
    assert browser.run("return window.innerWidth") == 375
    assert browser.run("return document.documentElement.scrollWidth") <= 375
    assert browser.run(COLLISIONS) == [] and browser.run(CUT) == []
    assert browser.call("POST", "/se/log", {"type": "browser"}) == []

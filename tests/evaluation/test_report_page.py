"""The report opens in a browser: fast, complete, silent, and inert."""

import contextlib
import json
import re
import time

import pytest

from tests.evaluation.chromium import Browser, find_chromium
from tests.evaluation.test_report import (
    HOSTILE,
    blocks_of,
    data_of,
    hostile_run,
    make_run,
    write,
)

SEGMENTS = "document.querySelectorAll('.segment').length"
SHOW_TRACES = "document.getElementById('traces').scrollIntoView()"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    binary = find_chromium()
    if binary is None:
        pytest.skip("no Chromium on the PATH to open the page with")
    with contextlib.closing(Browser(binary, tmp_path_factory.mktemp("profile"))) as b:
        yield b


@pytest.fixture(scope="module")
def full_report(tmp_path_factory):
    """The largest run that the page is made for: 18 tasks, 8 systems, 1,000 records."""
    return write(tmp_path_factory.mktemp("full"), make_run(18, 8, 1000))


def test_full_size_stays_below_20_mb(full_report):
    """And says what it left out: the counts of all answers and of those kept."""
    assert 10e6 < full_report.stat().st_size < 20e6
    kept = sum(count["all"][1] for count in data_of(full_report)["counts"])
    total = sum(count["all"][0] for count in data_of(full_report)["counts"])
    assert total == 18 * 8 * 1000
    assert kept == sum(len(rows) for _, rows in blocks_of(full_report)) < total


def test_full_size_opens_and_unpacks_answers_later(browser, full_report):
    browser.open(full_report)
    assert browser.ask(SEGMENTS) == 0, "answers are unpacked later"
    browser.ask(SHOW_TRACES)
    browser.wait_for(SEGMENTS)
    note = browser.ask("document.getElementById('traces-note').textContent")
    assert "of 144,000 answers are in this page" in note
    assert browser.complaints() == []


@pytest.mark.parametrize("width", [800, 1200])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_draws_everything(browser, tmp_path, width, scheme):
    """Every part is there, nothing is wider than the page, the console is silent."""
    browser.send(
        "Emulation.setDeviceMetricsOverride",
        **{"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False},
    )
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.send("Emulation.setEmulatedMedia", features=features)
    browser.open(write(tmp_path, make_run(3, 4, 20)))
    browser.ask(SHOW_TRACES)
    browser.wait_for(SEGMENTS)
    expected = {
        "#overview-table tbody tr": 4,
        "#heat-map tbody td button": 3 * 4,
        "#cost-plot circle": 3,
        "#cost-plot rect.reference": 1,
        "#calibration-plots svg": 4,
        "#speakers-plots svg": 2,
        "#results-table tbody tr": 3 * 4,
        "#traces-record article": 2,
    }
    for selector, count in expected.items():
        found = browser.ask(f"document.querySelectorAll('{selector}').length")
        assert (selector, found) == (selector, count)
    assert browser.ask("document.documentElement.scrollWidth") <= width
    ground = browser.ask("getComputedStyle(document.documentElement).backgroundColor")
    assert (ground == "rgb(255, 255, 255)") == (scheme == "light")
    assert browser.complaints() == []


def test_bars_against_cost_stay_within_the_scores(browser, tmp_path):
    """A score of 5 % with an interval of 0 to 60 % has a long and a short side."""
    run = make_run(3, 4, 4)
    for row in run[0]:
        row.update(score=0.05, low=0.0, high=0.6)
    browser.open(write(tmp_path, run))
    labels = browser.ask(
        "[...document.querySelectorAll('#cost-plot g')].map(g => g.ariaLabel)"
    )
    found = [re.findall(r"-?[0-9.]+", label.split("score")[1])[:3] for label in labels]
    # Three tasks, as independent: each side is that of one over the root of 3.
    assert found == [["5.0", "2.1", "36.8"]] * 4, labels
    assert browser.complaints() == []


def test_page_answers_to_mouse_and_keys(browser, tmp_path):
    """Sort, filter, tooltips, and the way from a cell to its answers."""
    browser.send("Emulation.setFocusEmulationEnabled", enabled=True)
    browser.open(write(tmp_path, make_run(3, 4, 20)))

    def press(key):
        for kind in ("keyDown", "keyUp"):
            browser.send("Input.dispatchKeyEvent", type=kind, key=key)

    def texts(selector):
        return browser.ask(
            f"[...document.querySelectorAll('{selector}')].map(e => e.textContent)"
        )

    browser.ask("document.querySelectorAll('#results-table thead button')[4].click()")
    scores = [float(x) for x in texts("#results-table tbody td:nth-child(5)")]
    assert scores == sorted(scores, reverse=True)
    browser.ask("document.querySelector('#heat-map td button').focus()")
    press("ArrowRight")
    press("ArrowDown")
    browser.wait_for("!document.getElementById('tip').hidden")
    assert "pretrained · task_01" in texts("#tip")[0]
    press("Escape")
    assert browser.ask("document.getElementById('tip').hidden")
    browser.ask("document.activeElement.click()")
    browser.wait_for("document.querySelector('article[data-system=pretrained]')")
    browser.ask(
        "const s = document.getElementById('traces-system'); "
        "s.value = 'switch 2'; s.onchange()"
    )
    browser.wait_for("document.querySelector('article[data-system=\"switch 2\"]')")
    browser.ask("document.querySelector('#traces-filter input[value=lost]').click()")
    browser.wait_for(
        "document.querySelector('.facts .bad + .bad, .facts .good + .bad')"
    )
    kept = next(x for x in texts("#traces-filter label") if x.startswith("lost"))
    assert texts("#traces-place") == [f"1 of {re.findall('[0-9]+', kept)[0]}"]
    browser.ask("document.getElementById('traces-on').focus()")
    press("ArrowRight")
    browser.wait_for("document.getElementById('traces-place').textContent[0] === '2'")
    browser.ask("document.querySelector('.segment').focus()")
    browser.wait_for("!document.getElementById('tip').hidden")
    assert "33.3 %" in texts("#tip")[0]
    assert browser.complaints() == []


def test_hostile_text_is_inert_in_the_browser(browser, tmp_path):
    """Shown letter by letter; no script of the model's runs, no image is asked for."""
    browser.open(write(tmp_path, hostile_run()))
    browser.ask(SHOW_TRACES)
    seen = set()
    for _ in HOSTILE:
        browser.wait_for(SEGMENTS)
        seen.add(
            json.loads(
                browser.ask(
                    "JSON.stringify(document.querySelector('.segment').textContent)"
                )
            )
        )
        browser.ask("document.getElementById('traces-on').click()")
        time.sleep(0.05)
    assert seen == set(HOSTILE)
    assert browser.ask("document.title") == "A report"
    assert browser.ask("document.querySelectorAll('img, b i, main script').length") == 0
    assert browser.complaints() == []

"""Further measures in the report: escaped, accessible, drawn, and absent if none."""

import contextlib

import pytest

from jax_switchgen.evaluation.report import write_report
from tests.evaluation.chromium import Browser, find_chromium
from tests.evaluation.test_report import HOSTILE, Elements, data_of, make_run

SYSTEMS = ("aligned", "pretrained", "switch 2")


def make_table(text=None, plot=True):
    """Three systems, a column of text, one of strings and one of numbers."""
    names = [text or system for system in SYSTEMS]
    dots = [
        {"system": name, "x": 1.0 + i, "left": 0.8 + i, "right": 1.3 + i}
        | {"y": -1.0 + i / 2, "low": -1.2 + i / 2, "high": -0.9 + i / 2}
        for i, name in enumerate(names)
    ]
    table = {
        "title": text or "A measure",
        "note": text or "What it means.",
        "columns": [text or "System", text or "Rate", "Gate", "Count"],
        "rows": [
            [name, "−3.1 (−4.0 to 2.0)", text or "passed", 1234.0] for name in names
        ],
    }
    table["rows"][0][1:] = [None, text or "–", None]
    return table | (
        {"plot": {"x": "Vendi", "y": "quality", "dots": dots}} if plot else {}
    )


def write(folder, tables, run=None):
    path = folder / "report.html"
    write_report(path, "A report", *(run or make_run(2, 3, 4)), tables)
    return path


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    binary = find_chromium()
    if binary is None:
        pytest.skip("no Chromium on the PATH to open the page with")
    with contextlib.closing(Browser(binary, tmp_path_factory.mktemp("profile"))) as b:
        yield b


def test_no_tables_no_section(tmp_path):
    page = write(tmp_path, ()).read_text()
    assert "More measures" not in page and 'href="#more"' not in page
    page = write(tmp_path, [make_table()]).read_text()
    assert "More measures" in page and 'href="#more"' in page


def test_tables_have_headings_for_columns_and_rows(tmp_path):
    """And columns of numbers are marked as such, by what their cells are."""
    tags = Elements(write(tmp_path, [make_table(), make_table(plot=False)])).tags
    ids = {attrs["id"] for _, attrs in tags if "id" in attrs}
    regions = [a for t, a in tags if t == "div" and "more-table" in a.get("class", "")]
    assert len(regions) == 2
    assert all(a["role"] == "region" and a["aria-labelledby"] in ids for a in regions)
    cells = [(t, a) for t, a in tags if t in ("th", "td")]
    assert sum(a.get("scope") == "col" for _, a in cells) == 8
    assert sum(a.get("scope") == "row" for _, a in cells) == 6
    styles = [a["class"] for _, a in cells if a.get("scope") == "col"]
    assert styles == ["", "number", "", "number"] * 2


def test_cells_are_written_once(tmp_path):
    page = write(tmp_path, [make_table()]).read_text()
    table = page[page.index('class="scroll more-table"') :]
    table = table[: table.index("</table>")]
    assert table.count('<td class="number">1,234</td>') == 2
    assert table.count('<td class="number">–</td>') == 2
    assert table.count('<td class="">–</td>') == 1


@pytest.mark.parametrize("text", HOSTILE)
def test_names_in_tables_are_text(tmp_path, text):
    harmless = Elements(write(tmp_path, [make_table()])).tags
    path = write(tmp_path, [make_table(text)])
    assert [t for t, _ in Elements(path).tags] == [t for t, _ in harmless]
    assert data_of(path)["plots"][0]["dots"][0]["system"] == text


def test_the_plot_is_drawn_and_the_page_is_silent(browser, tmp_path):
    tables = [make_table(), make_table(plot=False), make_table(HOSTILE[1])]
    browser.send("Emulation.setFocusEmulationEnabled", enabled=True)
    browser.open(write(tmp_path, tables))

    def count(selector):
        return browser.ask(f"document.querySelectorAll({selector!r}).length")

    assert count("#more table") == 3 and count("#more img") == 0
    assert count("#more-plot-0 circle") == 2
    assert count("#more-plot-0 rect.reference") == 1
    assert count("#more-plot-1 svg") == 0 and count("#more-plot-2 svg") == 1
    # Nothing beats the last system, which is alone on the front.
    assert count("#more-plot-0 path.even") == 0
    browser.ask("document.querySelector('#more-plot-0 g').focus()")
    browser.wait_for("!document.getElementById('tip').hidden")
    assert "Vendi1 (0.8 to 1.3)" in browser.ask(
        "document.getElementById('tip').textContent"
    )
    assert browser.ask("document.title") == "A report"
    assert browser.complaints() == []


def test_of_two_measures_the_front_is_where_both_are_high(browser, tmp_path):
    table = make_table()
    for dot, y in zip(table["plot"]["dots"], (3.0, 1.0, 2.0), strict=True):
        dot |= {"y": y, "low": y - 0.1, "high": y + 0.1}
    browser.open(write(tmp_path, [table]))
    path = browser.ask(
        "document.querySelector('#more-plot-0 path.even').getAttribute('d')"
    )
    assert path.count("L") == 1, "the first and the last system, not the second"


def test_answers_without_a_score_are_shown_without_one(browser, tmp_path):
    """Also where no task of the run has a score."""
    _, traces, _ = make_run(1, 2, 3)
    traces = [trace | {"value": None, "versus": None} for trace in traces]
    browser.open(write(tmp_path, [make_table()], ([], traces, [])))
    browser.ask("document.getElementById('traces').scrollIntoView()")
    browser.wait_for("document.querySelectorAll('.segment').length")
    shown = browser.ask("document.querySelector('.record .facts').textContent")
    assert "score" not in shown and "ended by stop" in shown
    note = browser.ask("document.getElementById('heat-note').textContent")
    assert "No task" in note
    assert (
        browser.ask(
            "getComputedStyle(document.getElementById('heat-mode').parentElement).display"
        )
        == "none"
    )
    assert browser.complaints() == []


def test_scores_of_classes_are_in_the_table_of_all_results(browser, tmp_path):
    summary, traces, curves = make_run(1, 2, 3)
    summary[0] |= {"balanced_accuracy": 0.4321, "macro_f1": 0.1234}
    browser.open(write(tmp_path, (), (summary, traces, curves)))
    rows = browser.ask(
        "[...document.querySelectorAll('#results-table tbody tr')].map(r => "
        "[...r.cells].map(c => c.textContent))"
    )
    heads = browser.ask(
        "[...document.querySelectorAll('#results-table thead th')]"
        ".map(h => h.textContent)"
    )
    balanced, f1 = heads.index("Balanced"), heads.index("Macro F1")
    assert [(row[balanced], row[f1]) for row in rows] == [("43.2", "12.3"), ("–", "–")]

"""The dashboard in JupyterLab in Chromium: painted at once over 100,000 spans, driven by hand, alive, and kept when the kernel is gone."""

import json
import os
import time
from pathlib import Path

import pytest
from lab import NEEDS_BROWSER, browser_page, lab, run_all, screenshot
from traffic_for_tests import WORDS, fill

import llmops_nb as ops

pytestmark = NEEDS_BROWSER
LOOKED_AT = [(theme, width) for theme in ("JupyterLab Light", "JupyterLab Dark") for width in (700, 1400)]
VIEWS = LOOKED_AT if os.environ.get("LLMOPS_SCREENSHOTS") else [("JupyterLab Light", 1000)]
CELLS = ["""import llmops_nb as ops
ws = ops.Workspace("helpdesk")
board = ops.monitor.dashboard(ws, "24h", every=1)
board""", "kernel = 'free'"]
RUN_AND_TIME = """() => new Promise(done => {
  document.querySelectorAll('.ops-live').forEach(old => { old.dataset.old = true; });
  const begin = performance.now();
  const painted = () => document.querySelector('.ops-live:not([data-old]) [data-part=figures]');
  const look = () => painted() ? done(performance.now() - begin) : requestAnimationFrame(look);
  window.jupyterapp.commands.execute('notebook:run-all-cells');
  look(); })"""
SAVE = """async () => { await window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart();
  await window.jupyterapp.commands.execute('docmanager:save'); }"""


@pytest.mark.parametrize(("theme", "width"), VIEWS)
def test_traffic_is_watched_opened_flagged_and_kept(tmp_path: Path, theme: str, width: int) -> None:
    traces = 25_000
    with lab(tmp_path, CELLS, theme) as url:
        with ops.Workspace(tmp_path / "work" / "helpdesk") as ws:
            fill(ws, traces // 2, 80_000, failing=0.01, words=WORDS[:6])
            fill(ws, traces // 2, 40_000, failing=0.06, slower=1.4, seed=1)
            ops.monitor.check(["groundedness"], sample=0.05, alerts=[ops.monitor.Alert("error_rate", above=0.02, window="24h")])
        with browser_page(url, width=width, height=1500) as page:
            assert run_all(page) == []
            board = page.locator(".ops-live .ops-monitor")
            board.get_by_text("25,000").first.wait_for(timeout=60_000)
            print(f"\nfigures and charts painted {page.evaluate(RUN_AND_TIME):.0f} ms after the cell was run, over {traces * 4:,} spans")
            board.get_by_text("25,000").first.wait_for(timeout=60_000)
            assert board.count() == 1 and not page.locator(".ops-kept").is_visible(), "a cell run twice leaves one view"
            board.get_by_text("▲ drift").first.wait_for(timeout=60_000)
            assert board.locator("polyline").count() >= 3
            screenshot(page, f"monitor-{theme.split()[-1].lower()}-{width}")

            row = board.locator(".ops-notable").first
            row.locator("summary").first.focus()
            page.keyboard.press("Enter")
            row.locator(".ops-traces .ops-span").first.wait_for(timeout=20_000)  # the steps of the trace
            assert row.locator("dd b", has_text="down").count() == 0, "what a model says is text"
            screenshot(page, f"monitor-open-{theme.split()[-1].lower()}-{width}")
            trace_id = row.get_attribute("data-trace")
            row.locator("input").fill("a made-up answer")
            row.locator("input").press("Enter")
            board.get_by_text("flagged").first.wait_for()
            page.wait_for_function("() => document.querySelector('.ops-live .ops-notable .ops-reasons').innerText.startsWith('flagged')")
            opened = board.locator(f'[data-trace="{trace_id}"]')
            assert opened.get_attribute("open") is not None, "what was open stays open"
            opened.locator("input").press("Escape")
            assert opened.get_attribute("open") is None

            board.get_by_role("radio", name="24h").focus()
            page.keyboard.press("ArrowLeft")  # the last hour
            page.wait_for_function("() => document.querySelector('.ops-live [aria-checked=true]').innerText === '1h'")
            page.wait_for_function("() => !document.querySelector('.ops-live [data-part=head]').innerText.includes('25,000')")
            with ops.Workspace(tmp_path / "work" / "helpdesk") as ws:  # another process answers people meanwhile
                assert ws.records.rows("SELECT explanation FROM scores WHERE scorer = 'flag'") == [{"explanation": "a made-up answer"}]
                fill(ws, 5, 10, seed=7, app="brand-new-app")
            board.get_by_text("brand-new-app").first.wait_for(timeout=20_000)
            page.evaluate(SAVE)
        saved = json.loads((tmp_path / "work" / "desk.ipynb").read_text(encoding="utf-8"))
        kept = [output for output in saved["cells"][0]["outputs"] if "ops-kept" in "".join(output.get("data", {}).get("text/html", ""))]
        assert kept and "<script" not in json.dumps(kept)
        with browser_page(url, width=width, height=1200) as page:
            page.locator(".ops-kept .ops-monitor").get_by_text("error rate").first.wait_for()
            assert page.get_by_text("Error displaying widget").filter(visible=True).count() == 0


def test_the_report_is_one_file_that_fetches_nothing(tmp_path: Path, ws: ops.Workspace) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    from lab import CHROMIUM, FLAGS

    fill(ws, 3000, failing=0.1)
    ops.monitor.flag(ops.traces.recent(1).trace_id[0], "<img src=x onerror=alert(1)>")
    began = time.perf_counter()
    path = ops.monitor.report(ws).save(tmp_path / "report.html")
    print(f"\nreport over 12,000 spans: {time.perf_counter() - began:.2f} s, {path.stat().st_size / 1000:.0f} kB")
    assert path.stat().st_size < 1_000_000
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 700, "height": 1000}, java_script_enabled=False)
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(path.as_uri())
        page.locator(".ops-notable summary").first.click()
        assert page.get_by_text("<img src=x onerror=alert(1)>").first.is_visible() and page.locator("img").count() == 0
        screenshot(page, "monitor-report")
        browser.close()
    assert asked == [path.as_uri()]

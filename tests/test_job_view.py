"""A job's live panel in JupyterLab: it moves, its buttons work, its picture stays in the saved notebook and after a restart."""

import json
import os
from pathlib import Path

import pytest
from lab import NEEDS_BROWSER, browser_page, lab, run_all, screenshot

pytestmark = NEEDS_BROWSER
THEMES = ["JupyterLab Light", *(["JupyterLab Dark"] if os.environ.get("LLMOPS_SCREENSHOTS") else [])]  # the second to be looked at
CELLS = [
    f"""import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import jobs_for_tests as functions, llmops_nb as ops
ws = ops.Workspace("helpdesk")
job = ops.jobs.start(functions.count, {{"to": 400, "pause": 0.05}}, name="counting")""",
    "job.show();",
]
RESTART = """async () => {
  const panel = window.jupyterapp.shell.currentWidget;
  await panel.sessionContext.session.kernel.restart();
  await window.jupyterapp.commands.execute('docmanager:save');
}"""


@pytest.mark.parametrize("theme", THEMES)
def test_a_job_is_watched_stopped_resumed_and_kept(tmp_path: Path, theme: str) -> None:
    with lab(tmp_path, CELLS, theme) as url, browser_page(url, width=900, height=900) as page:
        assert run_all(page) == []
        panel, button = page.locator(".ops-live .ops-job"), page.locator(".ops-action")
        panel.get_by_text("running").wait_for()
        page.wait_for_function("document.querySelectorAll('.ops-live .ops-job polyline').length >= 1")
        step = panel.locator(".ops-head").inner_text()
        page.wait_for_function("before => document.querySelector('.ops-live .ops-job .ops-head').innerText !== before", arg=step)
        screenshot(page, f"job-{theme.split()[-1].lower()}")
        assert button.inner_text() == "stop" and not page.locator(".ops-kept").is_visible()
        button.focus()
        page.keyboard.press("Enter")
        panel.get_by_text("■ stopped").wait_for()
        page.locator(".ops-action", has_text="resume").click()
        panel.get_by_text("running").wait_for()
        page.evaluate(RESTART)
        saved = json.loads((tmp_path / "work" / "desk.ipynb").read_text())
        shown = "".join(saved["cells"][1]["outputs"][0]["data"]["text/html"])
        assert "counting" in shown and "<polyline" in shown and "<script" not in shown
        page.reload()
        page.locator(".ops-kept .ops-job").get_by_text("counting").wait_for()  # no kernel knows the view any more
        assert page.get_by_text("Error displaying widget").filter(visible=True).count() == 0
        assert run_all(page) == []  # the new kernel finds the same job, still counting or done
        page.locator(".ops-live .ops-job").get_by_text("resumed 1").wait_for()
        page.locator(".ops-live .ops-job").get_by_text("✓ succeeded").wait_for(timeout=60_000)
        screenshot(page, f"job-done-{theme.split()[-1].lower()}")

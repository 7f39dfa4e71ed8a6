"""The fine-tuning form in a real JupyterLab: changed by keyboard, started, watched, and kept as a picture."""

import json
import os
from pathlib import Path

import pytest
from lab import NEEDS_BROWSER, browser_page, lab, run_all, screenshot

pytestmark = NEEDS_BROWSER
THEMES = ["JupyterLab Light", *(["JupyterLab Dark"] if os.environ.get("LLMOPS_SCREENSHOTS") else [])]  # the second to be looked at
CELLS = [
    f"""import os, sys
from pathlib import Path
os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, {str(Path(__file__).parent)!r})
import llmops_nb as ops
from test_finetune import ROWS, write_base
ws = ops.Workspace("helpdesk")
if ops.registry.models().empty:
    write_base(Path("base"))
    ops.registry.save("base", "base")
ops.evals.save_dataset("orders", ROWS);""",
    'form = ops.finetune.cell("registry:base@1", "orders", name="orders", epochs=1, max_tokens=64)\nform.show()',
]
SAVE_AND_FORGET = """async () => {
  const panel = window.jupyterapp.shell.currentWidget;
  await panel.sessionContext.session.kernel.restart();
  await window.jupyterapp.commands.execute('docmanager:save');
}"""


@pytest.mark.parametrize("theme", THEMES)
def test_settings_are_typed_seen_as_code_started_and_kept(tmp_path: Path, theme: str) -> None:
    with lab(tmp_path, CELLS, theme) as url, browser_page(url, width=1000, height=1200) as page:
        assert run_all(page) == []
        form = page.locator(".ops-live.ops-finetune")
        form.get_by_text("ops.finetune.train(").wait_for()
        assert form.get_by_text("trained on").count() >= 1 and not page.locator(".ops-kept").is_visible()
        form.get_by_label("Rank of the adapter").focus()
        page.keyboard.press("Control+a")
        page.keyboard.type("many")
        form.get_by_text("✕ a whole number from 1").wait_for()
        assert form.get_by_role("button", name="Start").is_disabled()
        page.keyboard.press("Control+a")
        page.keyboard.type("4")
        form.get_by_text("rank=4").wait_for()
        screenshot(page, f"finetune-{theme.split()[-1].lower()}")
        form.get_by_role("button", name="Start", disabled=False).press("Enter")
        form.get_by_text("✓ succeeded").wait_for(timeout=90_000)
        page.wait_for_timeout(800)
        page.evaluate(SAVE_AND_FORGET)
        saved = json.loads((tmp_path / "work" / "desk.ipynb").read_text())
        shown = "".join("".join(output["data"].get("text/html", "")) for output in saved["cells"][1]["outputs"])
        assert "rank=4" in shown and "registry:orders@1" in shown and "<script" not in shown
        page.reload()
        page.locator(".ops-kept").get_by_text("rank=4").wait_for()
        assert page.get_by_text("Error displaying widget").filter(visible=True).count() == 0
        screenshot(page, f"finetune-kept-{theme.split()[-1].lower()}")

"""The chunk inspector in a real JupyterLab: sliders by keyboard and mouse, a long document, the picture that is kept."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from lab import NEEDS_BROWSER, browser_page, lab, run_all, screenshot

pytestmark = NEEDS_BROWSER
LOOKED_AT = bool(os.environ.get("LLMOPS_SCREENSHOTS"))
VIEWS = [("Light", 1400), *([("Dark", 1400), ("Light", 700), ("Dark", 700)] if LOOKED_AT else [])]
CELLS = [
    """from pydoc_data.topics import topics
from llmops_nb.chunking import split
from llmops_nb.structure import headings, structure_of
from llmops_nb.widgets.chunks import Inspector
guide = "# Guide\\n\\nRead this first. <script>document.title = 'gone'</script>\\n\\n" + "".join(
    f"## Step {n}\\n\\nDo the step. Then look at what came of it, and write down what was odd.\\n\\n```python\\nplan.step({n})\\n```\\n\\n"
    f"| input | output |\\n|---|---|\\n| {n} | {n * n} |\\n\\n" for n in range(30))
manual = "\\n\\n".join(topics.values())
documents = [("guide.md", guide), ("manual, 100 KB", manual[:100_000]), ("manual, 400 KB", manual[:400_000])]
def cut(number, size, overlap):
    name, text = documents[number]
    spans, form = list(split(text, size, overlap)), structure_of(name)
    return [(*span, path) for span, path in zip(spans, headings(text, [start for start, _, _ in spans], form))]
inspector = Inspector(documents, cut, lambda size, overlap: f"ops.data.chunk(docs, max_tokens={size}, overlap={overlap})", 96, 16)""",
    "inspector.show()",
]
KERNEL_SAYS = """async (code) => {
  const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel;
  const future = kernel.requestExecute({ code: 'pass', user_expressions: { x: code } });
  return (await future.done).content.user_expressions.x.data['text/plain'];
}"""
SAVE_AND_FORGET = """async () => {
  const panel = window.jupyterapp.shell.currentWidget;
  await panel.sessionContext.session.kernel.restart();
  await window.jupyterapp.commands.execute('docmanager:save');
}"""
REDRAW = """([size, rounds]) => new Promise((done) => {
  const view = document.querySelector('.ops-live.ops-chunks');
  const rows = view.querySelector('.ops-rows'), slider = view.querySelector('[id$=max_tokens]');
  const times = [];
  const move = (value) => {
    const began = performance.now();
    const seen = new MutationObserver(() => { seen.disconnect(); requestAnimationFrame(() => setTimeout(() => {
      times.push(performance.now() - began);
      times.length < rounds ? setTimeout(() => move(value + 8), 50) : done(times); })); });
    seen.observe(rows, { childList: true });
    slider.value = value; slider.dispatchEvent(new Event('input'));
  };
  move(size);
})"""


def kernel_says(page: Any, code: str, value: str) -> None:
    "Ask until the kernel has heard what was clicked."
    for _ in range(100):
        if (said := page.evaluate(KERNEL_SAYS, code)) == value:
            return
        page.wait_for_timeout(50)
    assert said == value


@pytest.mark.parametrize(("theme", "width"), VIEWS)
def test_sizes_are_changed_seen_and_kept(tmp_path: Path, theme: str, width: int) -> None:
    with lab(tmp_path, CELLS, f"JupyterLab {theme}") as url, browser_page(url, width=width, height=1100) as page:
        if width < 1000:
            page.evaluate("() => window.jupyterapp.restored.then(() => window.jupyterapp.shell.collapseLeft())")
        assert run_all(page) == []
        view = page.locator(".ops-live.ops-chunks")
        view.get_by_text("max_tokens=96, overlap=16").wait_for()
        assert page.title() != "gone" and not page.locator(".ops-kept").is_visible()
        view.get_by_text("Guide > Step 3", exact=True).first.wait_for()
        assert view.get_by_text("also in #1", exact=True).count() == 1
        screenshot(page, f"chunks-{theme.lower()}-{width}")

        slider = view.get_by_label("Tokens in a chunk, at most")
        slider.focus()
        for _ in range(8):
            page.keyboard.press("ArrowRight")
        view.get_by_text("max_tokens=160, overlap=16").wait_for()
        kernel_says(page, "(inspector.max_tokens, int(inspector.df.tokens.max()) <= 160)", "(160, True)")
        repeated = view.get_by_label("Tokens repeated, at most")
        repeated.focus()
        page.keyboard.press("Home")
        view.get_by_text("max_tokens=160, overlap=0").wait_for()
        assert view.locator(".ops-shared").count() == 0

        view.locator(".ops-rows").focus()
        for _ in range(3):
            page.keyboard.press("ArrowDown")
        view.locator(".ops-chosen[data-chunk='3']").wait_for()
        page.keyboard.press("?")
        view.get_by_text("next chunk").wait_for()
        kernel_says(page, "inspector.selection", "3")
        assert page.evaluate("() => document.querySelectorAll('.jp-Notebook .jp-CodeCell').length") == len(CELLS)  # no key reached Lab

        page.wait_for_timeout(1200)
        page.evaluate(SAVE_AND_FORGET)
        saved = json.loads((tmp_path / "work" / "desk.ipynb").read_text())
        shown = "".join("".join(output["data"].get("text/html", "")) for output in saved["cells"][1]["outputs"])
        assert "max_tokens=160, overlap=0" in shown and "Guide &gt; Step" in shown and "<script" not in shown
        page.reload()
        page.locator(".ops-kept").get_by_text("max_tokens=160, overlap=0").wait_for()
        assert page.get_by_text("Error displaying widget").filter(visible=True).count() == 0
        screenshot(page, f"chunks-kept-{theme.lower()}-{width}")
        page.wait_for_timeout(1500)
        page.goto("about:blank")  # a server that is told to end while a page connects may wait in vain
        page.wait_for_timeout(1000)


def test_100_kilobytes_are_cut_again_while_the_slider_moves(tmp_path: Path) -> None:
    with lab(tmp_path, CELLS) as url, browser_page(url, width=1400, height=1100) as page:
        assert run_all(page) == []
        view = page.locator(".ops-live.ops-chunks")
        view.get_by_label("Document", exact=True).select_option("manual, 100 KB")
        view.get_by_text("100,000 characters").wait_for()
        times = sorted(page.evaluate(REDRAW, [200, 9]))
        print("redrawn in ms:", [round(time) for time in times])
        assert times[len(times) // 2] < 250  # 100 on a quiet machine
        screenshot(page, "chunks-manual")

        rows = view.locator(".ops-rows")
        rows.evaluate("(node) => { node.scrollTop = node.scrollHeight / 2; }")
        page.wait_for_timeout(200)
        at = "(node) => Number([...node.children].find((row) => row.offsetTop + row.offsetHeight > node.scrollTop + 1).dataset.start)"
        before = rows.evaluate(at)
        view.get_by_label("Tokens in a chunk, at most").focus()
        page.keyboard.press("ArrowRight")
        page.wait_for_timeout(500)
        assert abs(rows.evaluate(at) - before) < 3000, "the reader's place in the text is kept"

        view.get_by_label("Document", exact=True).select_option("manual, 400 KB")
        view.get_by_role("button", name="later part").click()
        view.get_by_role("button", name="later part").click()
        kernel_says(page, "inspector.page", "2")
        kernel_says(page, "int(inspector.df.text.str.len().sum()) >= 390_000", "True")
        page.evaluate(KERNEL_SAYS, "inspector.set(document=0, max_tokens=64, overlap=8)")  # code moves the view
        view.get_by_text("max_tokens=64, overlap=8").wait_for()
        assert view.get_by_label("Tokens in a chunk, at most").input_value() == "64"

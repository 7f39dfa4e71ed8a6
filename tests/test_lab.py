"""The notebooks in a real JupyterLab in a real Chromium: run as a person would, twice, with nothing fetched from anywhere."""

from pathlib import Path

from lab import NEEDS_BROWSER, browser_page, lab, run_all, screenshot

pytestmark = NEEDS_BROWSER
CELLS = [
    """import llmops_nb as ops
ws = ops.Workspace("helpdesk")
chunks = ops.data.chunk(ops.data.load("pydoc:topics"))
kb = ops.index.build(chunks, name="reference", embedder="lexical", store="local")
kb""",
    """answer = ops.apps.RAG(kb)("What does <b>yield</b> do?")
answer""",
    "ops.traces.get(answer.trace_id)",
    """rows = [{"id": word, "input": f"What does {word} do?", "gold": [f"topics/{word}"]} for word in ("yield", "assert")]
ops.evals.evaluate(ops.apps.RAG(kb), rows, ["retrieval_hit"])""",
    "print('spans', len(ops.traces.recent(100)))",
]


def test_the_loop_runs_twice_in_jupyterlab_and_fetches_nothing(tmp_path: Path) -> None:
    with lab(tmp_path, CELLS) as url, browser_page(url) as page:
        assert run_all(page) == []
        assert run_all(page) == []  # a cell run twice is harmless
        page.get_by_text("spans").last.wait_for()
        assert page.locator(".jp-OutputArea-output .ops-answer").count() == 1
        assert page.locator(".jp-OutputArea-output .ops-answer b", has_text="yield").count() == 0  # the question's markup is text
        step = page.locator(".ops-traces .ops-span summary").first
        step.scroll_into_view_if_needed()
        step.focus()
        page.keyboard.press("Enter")
        page.locator(".ops-traces .ops-span[open] dd").first.wait_for()
        screenshot(page, "lab")

"""Runs nbs/tour.ipynb from a fresh kernel, says which section it is in, and writes one self-contained page: _tour/tour.html."""

import html
import os
import re
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbconvert import HTMLExporter
from pygments.formatters import HtmlFormatter

ROOT = Path(__file__).parent.parent
NOTEBOOK, PAGE = ROOT / "nbs" / "tour.ipynb", ROOT / "_tour" / "tour.html"


def sections(notebook: nbformat.NotebookNode) -> dict[int, str]:
    """The second-level heading each code cell stands under, where it is the first one there."""
    titles, heading = {}, None
    for position, cell in enumerate(notebook.cells):
        if cell.cell_type == "markdown" and (found := re.search(r"^## (.+)$", cell.source, flags=re.M)):
            heading = found[1]
        elif cell.cell_type == "code" and heading:
            titles[position], heading = heading, None
    return titles


def execute(notebook: nbformat.NotebookNode) -> None:
    """Run every cell; one line for each section as it begins."""
    titles, started = sections(notebook), time.perf_counter()
    count = iter(range(1, len(titles) + 1))

    def announce(cell: nbformat.NotebookNode, cell_index: int) -> None:
        if title := titles.get(cell_index):
            print(f"{time.perf_counter() - started:5.0f} s  {next(count):2}/{len(titles)}  {title}", flush=True)

    os.environ["TQDM_DISABLE"] = "1"  # a page cannot redraw a bar
    where = {"metadata": {"path": str(ROOT / "nbs")}}
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources=where, on_cell_execute=announce,
                   extra_arguments=["--IPKernelApp.log_level=ERROR"]).execute()
    print(f"{time.perf_counter() - started:5.0f} s  done", flush=True)


STYLE = """
:root {
  color-scheme: light dark; --page: light-dark(#fff, #16181b); --ink: light-dark(#1f2328, #e6e6e6); --soft: light-dark(#59606a, #a3a9b1);
  --line: light-dark(#d9dce0, #3a3f45); --code: light-dark(#f6f7f8, #1e2125);
}
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.6 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 2rem 1.25rem 6rem; }
main > * > p, main > * > ul, main > * > blockquote { max-width: 44rem; }
h1 { font-size: 2rem; line-height: 1.2; margin: 0 0 .25rem; }
h2 { margin: 3rem 0 .5rem; padding-top: 1rem; border-top: 1px solid var(--line); }
blockquote { margin: 0 0 1.5rem; color: var(--soft); font-size: 1.1rem; } blockquote p { margin: 0; }
a { color: light-dark(#0b5cad, #7ab8f5); } .anchor-link, .prompt { display: none; }
pre { background: var(--code); padding: .7rem .9rem; overflow-x: auto; margin: .6rem 0; }
pre { font: 13px/1.5 ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
.output pre { background: none; padding: 0 0 0 .9rem; border-left: 2px solid var(--line); white-space: pre-wrap; }
.output { margin: .6rem 0 1.4rem; overflow-x: auto; }
table.dataframe { border-collapse: collapse; border: 0; font-size: 13.5px; font-variant-numeric: tabular-nums; }
table.dataframe :is(th, td) { border: 0; border-bottom: 1px solid var(--line); padding: .3rem 1.1rem .3rem 0; max-width: 36rem; }
table.dataframe :is(th, td) { text-align: left !important; vertical-align: top; }
table.dataframe thead th { color: var(--soft); font-weight: 500; }
table.dataframe tbody th { color: var(--soft); font-weight: 400; }
table.dataframe .number { text-align: right !important; }
svg { max-width: 100%; height: auto; }
@media (prefers-color-scheme: dark) { .output_svg :is(svg, img) { filter: invert(.89) hue-rotate(180deg); } }
"""


def page(notebook: nbformat.NotebookNode) -> str:
    """The executed notebook as HTML that loads nothing from anywhere."""
    shown = nbformat.from_dict(notebook)
    shown.cells = [cell for cell in shown.cells if not cell.source.lstrip().startswith("#| hide")]
    body, _ = HTMLExporter(template_name="basic", embed_images=True).from_notebook_node(shown)
    body = re.sub(r"<script.*?</script>", "", body, flags=re.S)  # the exporter's own; nothing here needs a script
    body = re.sub(r"<td>(?=[-\d.,]+(?:e-?\d+)?</td>|NaN</td>|None</td>)", '<td class="number">', body)
    colours = HtmlFormatter(style="default").get_style_defs(".highlight")
    dark = HtmlFormatter(style="monokai").get_style_defs(".highlight")
    style = f"{STYLE}\n{colours}\n@media (prefers-color-scheme: dark) {{ {dark} }}\n.highlight {{ background: none !important; }}"
    title = html.escape(re.sub(r"^# ", "", notebook.cells[0].source.splitlines()[0]))
    meta = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    return (f'<!DOCTYPE html>\n<html lang="en"><head>{meta}'
            f"<title>{title}</title><style>{style}</style></head><body><main>{body}</main></body></html>\n")


if __name__ == "__main__":
    tour = nbformat.read(NOTEBOOK, as_version=4)
    failure = None
    try:
        execute(tour)
    except CellExecutionError as error:
        failure = error
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(tour), encoding="utf-8")
    if "--save" in sys.argv and not failure:
        nbformat.write(tour, NOTEBOOK)
    if failure:
        sys.exit(f"{failure}\nThe tour stopped here; what ran before is in {PAGE.relative_to(ROOT)}.")
    print(f"\n{PAGE.relative_to(ROOT)} is one page, {PAGE.stat().st_size / 1e6:.1f} MB: open it in a browser.")

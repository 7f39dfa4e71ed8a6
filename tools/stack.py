"""Draws the stack from one list: three layers, ten stages on one thread, each stage a link to its notebook.

nbs/stack.svg stands alone: the README shows it, and opened by itself its links work. nbs/stack.html is for a notebook's output: the same
picture under links of HTML, because JupyterLab resolves those and stumbles over a link inside an SVG.
"""

import re
from dataclasses import dataclass
from html import escape
from pathlib import Path

ROOT = Path(__file__).parent.parent
PICTURE, FRAGMENT = ROOT / "nbs" / "stack.svg", ROOT / "nbs" / "stack.html"


@dataclass(frozen=True)
class Stage:
    """One stage and the layer that most of its work is in."""

    number: int
    name: str
    layer: str
    page: str  # its notebook, from nbs/
    what: str  # read out, and shown on hover


STAGES = [
    Stage(1, "Pretrain", "Compute", "01_pretrain.ipynb", "a tokenizer and a small language model from raw text"),
    Stage(2, "Data", "Storage", "02_data.ipynb", "documents loaded, cleaned, deduplicated, chunked"),
    Stage(3, "Index", "Storage", "03_index.ipynb", "chunks that can be searched"),
    Stage(4, "Fine-tune", "Compute", "04_finetune.ipynb", "a model adapted to examples"),
    Stage(5, "Apps", "Compute", "05_apps.ipynb", "retrieval-augmented generation and agents"),
    Stage(6, "Prompts", "Compute", "06_prompts.ipynb", "versions as files, compared side by side"),
    Stage(7, "Evals", "Observability", "07_evals.ipynb", "scores with intervals, paired comparisons"),
    Stage(8, "Deploy", "Compute", "08_deploy.ipynb", "a model or application behind an address"),
    Stage(9, "Host", "Compute", "09_host.ipynb", "a page and an API for people"),
    Stage(10, "Monitor", "Observability", "10_monitor.ipynb", "live traffic watched: quality, cost, latency, drift"),
]
LAYERS = {  # name: height, its notebook, what it is for in two lines
    "Observability": (84, "observability/tracing.ipynb", ("test, debug,", "monitor")),
    "Compute": (186, "compute/models.ipynb", ("train, serve, prompt,", "call models")),
    "Storage": (288, "storage/workspace.ipynb", ("lake, vectors,", "models, records")),
}
WIDTH, HEIGHT, LEFT, APART = 720, 334, 156, 59.5
STYLE = """
.stack {
  color-scheme: light dark; font-family: var(--ops-sans, system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif);
  --ink: var(--ops-fg, light-dark(#1f2328, #e6e6e6)); --soft: var(--ops-muted, light-dark(#59606a, #a3a9b1));
  --line: var(--ops-line, light-dark(#d9dce0, #3a3f45)); --accent: var(--ops-accent, light-dark(#0b5cad, #7ab8f5));
  --page: var(--ops-bg, light-dark(#ffffff, #0d1117));
}
.ops-view .stack { color-scheme: inherit; }
.stack text { fill: var(--ink); font-size: 13px; }
.stack .soft { fill: var(--soft); font-size: 11.5px; }
.stack .layer { font-size: 14.5px; font-weight: 600; }
.stack .rule { stroke: var(--line); }
.stack .thread { fill: none; stroke: var(--accent); stroke-width: 2.5; }
.stack :is(.back, .tip) { fill: none; stroke: var(--soft); stroke-width: 1.3; }
.stack .back { stroke-dasharray: 4 4; }
.stack circle { fill: var(--page); stroke: var(--accent); stroke-width: 2; }
.stack .number { font-size: 12px; font-weight: 600; }
.stack .name { stroke: var(--page); stroke-width: 5px; paint-order: stroke; stroke-linejoin: round; }
.stack a { cursor: pointer; text-decoration: none; }
.stack a:is(:hover, :focus-visible) circle { fill: var(--accent); }
.stack a:is(:hover, :focus-visible) .number { fill: var(--page); }
.stack a:is(:hover, :focus-visible) .name { fill: var(--accent); }
.stack a:focus-visible { outline: 2px solid var(--accent); outline-offset: 1px; }
"""


def place(stage: Stage) -> tuple[float, float]:
    """Where its circle is."""
    return LEFT + APART * (stage.number - 1), LAYERS[stage.layer][0]


def thread() -> str:
    """The line through all stages, level where it passes one."""
    points, pull = [place(stage) for stage in STAGES], 0.7 * APART  # the bends are steep, to keep clear of the names
    pairs = zip(points, points[1:], strict=False)
    bends = [f"C{x + pull:g} {y:g} {u - pull:g} {v:g} {u:g} {v:g}" for (x, y), (u, v) in pairs]
    return f'<path class="thread" d="M{points[0][0]:g} {points[0][1]:g}{"".join(bends)}"/>'


def back(start: Stage, end: Stage, height: float, said: str) -> str:
    """What returns from one stage to an earlier one: a dashed line over the others, its arrow, and a few words."""
    (x, y), (u, v) = place(start), place(end)
    line = f"M{x - 5:g} {y - 15:g}C{x - 8:g} {height:g} {x - 14:g} {height:g} {x - 30:g} {height:g}L{u + 34:g} {height:g}"
    line += f"C{u + 8:g} {height:g} {u + 4:g} {height + 8:g} {u + 4:g} {v - 18:g}"
    words = f'<text class="soft" x="{(x + u) / 2:g}" y="{height - 8:g}" text-anchor="middle">{escape(said)}</text>'
    return f'<path class="back" d="{line}"/><path class="tip" d="M{u:g} {v - 24:g}L{u + 4:g} {v - 17:g}L{u + 9:g} {v - 24:g}"/>{words}'


def station(stage: Stage) -> str:
    """A stage: a link with its number and name."""
    x, y = place(stage)
    label = f"{stage.number} {stage.name}: {stage.what}"
    return (
        f'<a href="{stage.page}" aria-label="{escape(label)}"><title>{escape(label)}</title><circle cx="{x:g}" cy="{y:g}" r="13"/>'
        f'<text class="number" x="{x:g}" y="{y + 4.3:g}" text-anchor="middle">{stage.number}</text>'
        f'<text class="name" x="{x:g}" y="{y + 31:g}" text-anchor="middle">{escape(stage.name)}</text></a>'
    )


def layer(name: str) -> str:
    """A layer: its name, a link, and what it is for."""
    height, page, (first, second) = LAYERS[name]
    return (
        f'<a href="{page}" aria-label="Layer: {name}"><text class="layer name" x="2" y="{height - 4}">{name}</text></a>'
        f'<text class="soft" x="2" y="{height + 14}">{first}</text><text class="soft" x="2" y="{height + 29}">{second}</text>'
    )


def svg() -> str:
    """The picture."""
    seven, four, ten = STAGES[6], STAGES[3], STAGES[9]
    desc = f"Three layers: {', '.join(LAYERS)}. One thread runs through ten stages: {', '.join(f'{s.number} {s.name}' for s in STAGES)}."
    rules = "".join(f'<line class="rule" x1="0" x2="{WIDTH}" y1="{y}" y2="{y}"/>' for y in (136, 238))
    parts = [
        rules,
        *map(layer, LAYERS),
        back(ten, seven, 30, "a bad answer becomes a test case"),
        back(seven, four, 30, "and a training row"),
        thread(),
        *map(station, STAGES),
    ]
    size = f'viewBox="0 0 {WIDTH} {HEIGHT}" style="width:100%;max-width:{WIDTH}px;height:auto"'
    head = f'<svg class="stack" xmlns="http://www.w3.org/2000/svg" {size} role="group" aria-labelledby="stack-title stack-desc">'
    about = f'<title id="stack-title">The stack of llmops_nb</title><desc id="stack-desc">{escape(desc)}</desc>'
    return "\n".join([head, about, f"<style>{STYLE}</style>", *parts, "</svg>\n"])


LINKS = """
.stack-links { position: relative; max-width: %dpx; }
.stack-links .stack { display: block; }
.stack-links a { position: absolute; border-radius: 8px; }
.stack-links a:is(:hover, :focus-visible) { outline: 2px solid var(--ops-accent, light-dark(#0b5cad, #7ab8f5)); }
"""


def over(page: str, label: str, left: float, top: float, width: float, height: float) -> str:
    """A link over a part of the picture."""
    spot = ";".join(f"{side}:{100 * value:.2f}%" for side, value in (("left", left), ("top", top), ("width", width), ("height", height)))
    return f'<a href="{page}" aria-label="{escape(label)}" title="{escape(label)}" style="{spot}"></a>'


def fragment() -> str:
    """The picture for a notebook's output."""
    links = [over(page, f"Layer: {name}", 0, (y - 20) / HEIGHT, 0.16, 54 / HEIGHT) for name, (y, page, _) in LAYERS.items()]
    for stage in STAGES:
        x, y = place(stage)
        label = f"{stage.number} {stage.name}: {stage.what}"
        links.append(over(stage.page, label, (x - APART / 2) / WIDTH, (y - 17) / HEIGHT, APART / WIDTH, 54 / HEIGHT))
    plain = re.sub(r"</?a\b[^>]*>", "", svg()).replace('role="group"', 'role="img"')
    return f"<style>{LINKS % WIDTH}</style>\n<div class=\"stack-links\">\n{plain}{chr(10).join(links)}\n</div>\n"


if __name__ == "__main__":
    for path, drawn in ((PICTURE, svg()), (FRAGMENT, fragment())):
        if not path.exists() or path.read_text(encoding="utf-8") != drawn:
            path.write_text(drawn, encoding="utf-8")

"""Writes README.md from nbs/index.ipynb: the home page and the README are one text."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
NOTICE = "<!-- Written from nbs/index.ipynb by tools/readme.py; edit the notebook. -->\n"


def outputs(cell: dict) -> Iterator[str]:
    """What a cell printed or showed, as text."""
    for output in cell["outputs"]:
        text = output.get("text") or output.get("data", {}).get("text/plain") or []
        yield "".join(text).rstrip()


def blocks(notebook: dict) -> Iterator[str]:
    """Markdown as it is, code without nbdev's directives, outputs as text; hidden cells left out."""
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            yield re.sub(r"\]\((?!https?:|#|\w+\.md|nbs/)([\w/]+\.ipynb)", r"](nbs/\1", source)
        elif "stack.html" in source:
            yield "![The stack: three layers, ten stages](nbs/stack.svg)"  # links inside an image are dead; the table below has them
        elif "#| hide" not in source:
            shown = "\n\n".join(filter(None, outputs(cell)))
            yield f"```python\n{source}\n```" + (f"\n\n```text\n{shown}\n```" if shown else "")


def readme() -> str:
    """The README's text."""
    notebook = json.loads((ROOT / "nbs" / "index.ipynb").read_text(encoding="utf-8"))
    return "\n\n".join([NOTICE.strip(), *blocks(notebook)]) + "\n"


if __name__ == "__main__":
    path, text = ROOT / "README.md", readme()
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")

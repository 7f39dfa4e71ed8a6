"""The stack's picture says what its generator says, leads to the notebooks, and holds nothing but a picture."""

import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def picture() -> str:
    return (ROOT / "nbs" / "stack.svg").read_text(encoding="utf-8")


def test_the_picture_is_what_its_generator_draws(picture: str) -> None:
    code = "import sys; sys.path.insert(0, 'tools'); import stack; sys.stdout.write(stack.svg() + stack.fragment())"
    drawn = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert drawn == picture + (ROOT / "nbs" / "stack.html").read_text(encoding="utf-8"), "run python tools/stack.py"


def test_ten_stages_and_three_layers_link_to_their_notebooks(picture: str) -> None:
    links = [link.get("href") for link in ElementTree.fromstring(picture).iter(f"{SVG}a")]
    stages = [link for link in links if "/" not in link]
    assert [int(link[:2]) for link in stages] == list(range(1, 11)) and len(links) == 13
    outside = re.findall(r'<a href="([^"]+)" aria-label="[^"]+"', (ROOT / "nbs" / "stack.html").read_text(encoding="utf-8"))
    assert sorted(outside) == sorted(links)
    for link in links:
        assert f"- {link}" in (ROOT / "_quarto.yml").read_text(encoding="utf-8"), f"{link} is not a page"


def test_it_can_be_read_aloud_and_asks_for_nothing(picture: str) -> None:
    root = ElementTree.fromstring(picture)
    assert root.get("aria-labelledby") == "stack-title stack-desc" and root.find(f"{SVG}desc").text.startswith("Three layers")
    assert all(link.get("aria-label") for link in root.iter(f"{SVG}a"))
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|<script|url\(|@import", picture)

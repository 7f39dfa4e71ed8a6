"""The package as people get it: identity in one place, a cheap import, every file in the wheel, pages that link somewhere."""

import ast
import configparser
import json
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import llmops_nb

ROOT = Path(__file__).parent.parent
HEAVY = ["torch", "transformers", "chromadb", "altair", "pandas", "ipywidgets", "openai", "numpy", "sqlalchemy", "aiohttp"]
NOTEBOOKS = sorted(path for path in (ROOT / "nbs").rglob("*.ipynb") if not re.search(r"/[._]", str(path.relative_to(ROOT))))


def settings() -> configparser.ConfigParser:
    config = configparser.ConfigParser(delimiters=["="])
    config.read(ROOT / "settings.ini", encoding="utf-8")
    return config


def test_importing_loads_nothing_heavy() -> None:
    code = f"import sys, llmops_nb as ops; dir(ops); print([name for name in {HEAVY!r} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_every_front_door_name_opens() -> None:
    for name in llmops_nb._HOMES:
        assert getattr(llmops_nb, name) is not None
    with pytest.raises(AttributeError, match="it has: Model, Workspace"):
        llmops_nb.nothing  # noqa: B018


def test_modules_import_heavy_packages_where_they_use_them() -> None:
    for module in (ROOT / "llmops_nb").rglob("*.py"):
        body = ast.parse(module.read_text(encoding="utf-8")).body
        names = [alias.name for node in body if isinstance(node, ast.Import) for alias in node.names]
        names += [node.module or "" for node in body if isinstance(node, ast.ImportFrom) and not node.level]
        assert not [name for name in names if name.split(".")[0] in HEAVY], f"{module} imports {names} at its top"


def test_identity_is_said_once() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(project["dynamic"]) == {"version", "description", "dependencies", "optional-dependencies"}
    assert settings()["DEFAULT"]["version"] == llmops_nb.__version__


def test_the_wheel_holds_every_module_and_static_file(tmp_path: Path) -> None:
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(tmp_path)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(ROOT)], check=True, capture_output=True)
    wheel = zipfile.ZipFile(next(tmp_path.glob("*.whl")))
    here = {str(f.relative_to(ROOT)) for f in (ROOT / "llmops_nb").rglob("*") if f.suffix in (".py", ".css", ".js", ".typed")}
    assert here <= set(wheel.namelist())
    metadata = wheel.read(next(n for n in wheel.namelist() if n.endswith("METADATA"))).decode()
    assert "Provides-Extra: chroma" in metadata and "Provides-Extra: all" in metadata and "Requires-Dist: pandas" in metadata
    base = [line for line in metadata.splitlines() if line.startswith("Requires-Dist") and "extra ==" not in line]
    assert not [line for line in base if re.search("torch|transformers|chromadb", line)]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_titled_and_their_links_lead_somewhere(path: Path) -> None:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    first = "".join(cells[0]["source"])
    assert first.startswith("# ") and "\n> " in first, "a notebook starts with a title and a one-line subtitle"
    for cell in cells:
        text = "".join(cell["source"])
        assert "/work/" not in text and "/tmp/tmp" not in json.dumps(cell.get("outputs", [])), "a path of one machine"
        if cell["cell_type"] == "markdown":
            for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", text):
                assert (path.parent / target).exists() or (ROOT / target).exists(), f"{target} is not there"


def test_the_website_has_a_place_for_every_notebook() -> None:
    site = (ROOT / "_quarto.yml").read_text(encoding="utf-8")
    missing = [str(path.relative_to(ROOT / "nbs")) for path in NOTEBOOKS if str(path.relative_to(ROOT / "nbs")) not in site]
    assert not missing and (ROOT / "nbs" / "_quarto.yml").resolve() == ROOT / "_quarto.yml"


def test_the_site_is_processed_without_quarto(tmp_path: Path) -> None:
    code = "from nbdev.quarto import proc_nbs; print(proc_nbs())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    processed = {str(f.relative_to(ROOT / "_proc")) for f in (ROOT / "_proc").rglob("*.ipynb")}
    assert {str(path.relative_to(ROOT / "nbs")) for path in NOTEBOOKS} <= processed

"""A real JupyterLab in a real Chromium, for the tests that need one."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
NEEDS_BROWSER = [pytest.mark.slow, pytest.mark.browser, pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this machine")]
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]
RUN_ALL = """async () => {
  const app = window.jupyterapp; await app.restored;
  const panel = app.shell.currentWidget; await panel.context.ready; await panel.revealed;
  const session = panel.sessionContext; await session.ready;
  const until = async test => { for (let i = 0; i < 1200 && !test(); i++) await new Promise(done => setTimeout(done, 50)); };
  await until(() => session.session?.kernel?.connectionStatus === 'connected'); await session.session.kernel.info;
  await app.commands.execute('notebook:run-all-cells');
  await until(() => session.session.kernel.status === 'idle');
  const outputs = panel.content.widgets.filter(c => c.model.type === 'code').flatMap(c => c.model.outputs.toJSON());
  return outputs.filter(o => o.output_type === 'error').map(o => o.evalue);
}"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def lab(tmp_path: Path, cells: list[str], theme: str = "JupyterLab Light") -> Iterator[str]:
    """A JupyterLab with settings of its own, in a folder with one notebook of these cells; its URL."""
    work, port = tmp_path / "work", free_port()
    work.mkdir()
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])
    notebook.metadata.kernelspec = {"display_name": "python3", "language": "python", "name": "python3"}
    nbformat.write(notebook, work / "desk.ipynb")
    quiet = tmp_path / "settings" / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    quiet.parent.mkdir(parents=True)
    quiet.write_text('{"fetchNews": "false", "checkForUpdates": false}')
    colours = tmp_path / "settings" / "@jupyterlab" / "apputils-extension" / "themes.jupyterlab-settings"
    colours.write_text(json.dumps({"theme": theme}))
    flags = [f"--ServerApp.root_dir={work}", f"--ServerApp.port={port}", "--ServerApp.ip=127.0.0.1", "--IdentityProvider.token=t",
             "--no-browser", "--allow-root", "--LabApp.expose_app_in_browser=True"]
    homes = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTERLAB_WORKSPACES_DIR")
    own = {name: str(tmp_path / name.lower()) for name in homes}
    environment = {**os.environ, **own, "JUPYTERLAB_SETTINGS_DIR": str(tmp_path / "settings")}
    with open(tmp_path / "lab.log", "wb") as log:
        server = subprocess.Popen([sys.executable, "-m", "jupyter", "lab", *flags], env=environment, stdout=log, stderr=log)
    try:
        wait_for(f"http://127.0.0.1:{port}/api/status?token=t", server)
        yield f"http://127.0.0.1:{port}/lab/tree/desk.ipynb?token=t&reset"
    finally:
        server.terminate()
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:  # it can hang when it is stopped while a kernel restarts; kernels see that it is gone
            server.kill()
            server.wait()


def wait_for(url: str, server: subprocess.Popen) -> None:
    for _ in range(600):
        assert server.poll() is None, "JupyterLab did not start"
        try:
            urllib.request.urlopen(url, timeout=1)
            return
        except OSError:
            time.sleep(0.1)
    raise TimeoutError(url)


@contextmanager
def browser_page(url: str, width: int = 1200, height: int = 1400) -> Iterator[Any]:
    """The notebook open in Chromium; afterwards no request may have left this machine."""
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": width, "height": height})
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(url)
        page.wait_for_selector(".jp-NotebookPanel .jp-Cell", timeout=90_000)
        yield page
        browser.close()
    assert [url for url in asked if not url.startswith(("http://127.0.0.1", "data:", "blob:"))] == []


def run_all(page: Any) -> list[str]:
    """Run every cell; the errors."""
    return page.evaluate(RUN_ALL)


def screenshot(page: Any, name: str) -> None:
    """Keep a picture where LLMOPS_SCREENSHOTS names a folder."""
    if folder := os.environ.get("LLMOPS_SCREENSHOTS"):
        page.screenshot(path=f"{folder}/{name}.png")

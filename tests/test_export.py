"""Exports as strangers get them: in an environment of their own, on a disk that cannot be written, built by Vercel's own builder."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import llmops_nb as ops
from llmops_nb import host, host_export
from llmops_nb.errors import InputError, StorageError

QUESTION = "When are assert statements not executed?"
SECRET = "sk-never-to-be-written-0123456789"  # noqa: S105


@pytest.fixture
def desk(ws):
    topics = ops.data.load("pydoc:topics")
    chunks = ops.data.chunk(topics[topics.id.isin(["topics/assert", "topics/yield"])])
    kb = ops.index.build(chunks, name="reference", embedder="lexical", store="local")
    ops.prompts.save("short", "{{ context }}\n\nQuestion: {{ question }}")
    return ops.apps.RAG(kb, prompt="short", k=2)


def outside() -> dict[str, str]:
    """The environment of a person who has only the export."""
    kept = ("PATH", "HOME", "LANG", "SSL_CERT_FILE", "PIP_INDEX_URL")
    return {name: os.environ[name] for name in kept if name in os.environ} | {"TQDM_DISABLE": "1"}


def smoke(folder: Path, python: str | Path = sys.executable, **environment: str) -> dict:
    done = subprocess.run([str(python), "smoke_test.py", QUESTION], cwd=folder, env=outside() | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


# what is written, and what never is


def test_an_export_answers_without_the_workspace_and_keeps_its_records_beside_it(desk, ws, tmp_path) -> None:
    out = host.export(desk, tmp_path / "out")
    ws.close()
    shutil.rmtree(ws.path)
    said = smoke(out)
    assert said["ready"] and "assert" in said["text"].lower() and len(said["sources"]) == 2
    with ops.Workspace(tmp_path / "out-data"):
        assert ops.traces.recent(5).trace_id.tolist() == [said["trace_id"]]
    assert not (out / "workspace" / "records.db").exists()


def test_an_earlier_export_is_replaced_whole_and_its_records_stay(desk, tmp_path) -> None:
    out = host.export(desk, tmp_path / "out", title="First")
    first = smoke(out)["trace_id"]
    (out / "left over.txt").write_text("from an older version")
    host.export(desk, out, title="Second")
    assert not (out / "left over.txt").exists() and json.loads((out / "app.json").read_text())["page"]["title"] == "Second"
    second = smoke(out)["trace_id"]
    with ops.Workspace(tmp_path / "out-data"):
        assert set(ops.traces.recent(5).trace_id) == {first, second}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out-data", "workspace"]  # no drafts are left


def test_a_folder_of_somebody_else_is_not_touched(desk, tmp_path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "draft.txt").write_text("years of work")
    (tmp_path / "file").write_text("a file")
    with pytest.raises(InputError, match="no export"):
        host.export(desk, tmp_path / "thesis")
    with pytest.raises(StorageError):
        host.export(desk, tmp_path / "file")
    assert (tmp_path / "thesis" / "draft.txt").read_text() == "years of work" and (tmp_path / "file").read_text() == "a file"


def test_a_full_disk_leaves_the_earlier_export_as_it_was(desk, small_disk) -> None:
    disk = small_disk("8m")
    out = host.export(desk, disk / "out", title="First")
    (disk / "filler").write_bytes(b"x" * (shutil.disk_usage(disk).free - 300_000))
    with pytest.raises(StorageError, match="No space left"):
        host.export(desk, out, title="Second")
    assert json.loads((out / "app.json").read_text())["page"]["title"] == "First"
    assert {path.name for path in disk.iterdir()} == {"out", "filler"}


@pytest.mark.parametrize("target", ["folder", "docker", "vercel"])
def test_no_key_is_anywhere_in_an_export(desk, tmp_path, monkeypatch, target) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    model = ops.Model("openai:gpt-5-mini", api_key="sk-another-one-given-by-hand-012345", temperature=0.2)
    out = host.export(ops.apps.RAG(desk.index, model=model), tmp_path / "out", target=target)
    for file in (file for file in out.rglob("*") if file.is_file()):
        content = file.read_bytes()
        assert SECRET.encode() not in content and b"given-by-hand" not in content, file
    assert (out / ".env.example").read_text().splitlines() == ["OPENAI_API_KEY=", "LLMOPS_ACCESS_KEY="]
    assert "`OPENAI_API_KEY`" in (out / "README.md").read_text()


def test_a_key_inside_a_document_stops_the_export(desk, tmp_path, monkeypatch) -> None:
    import pandas as pd

    monkeypatch.setenv("BILLING_TOKEN", SECRET)
    notes = pd.DataFrame({"id": ["note"], "text": [f"The billing system's key is {SECRET}, keep it safe."]})
    kb = ops.index.build(notes, name="notes", embedder="lexical", store="local")
    with pytest.raises(InputError, match="would have been exported") as refused:
        host.export(ops.apps.RAG(kb), tmp_path / "out")
    assert SECRET not in str(refused.value) and not (tmp_path / "out").exists()


def test_a_key_set_a_moment_ago_stops_the_export(desk, tmp_path, monkeypatch) -> None:
    from llmops_nb.observability.payloads import redact

    (tmp_path / "notes.txt").write_text(f"The key is {SECRET}.")
    monkeypatch.setenv("OTHER_TOKEN", "long-enough-to-count")
    redact("reads the environment")
    monkeypatch.delenv("OTHER_TOKEN")
    monkeypatch.setenv("BILLING_TOKEN", SECRET)  # as many variables as before
    with pytest.raises(InputError, match="would have been exported"):
        host_export.refuse_secrets(tmp_path)


@pytest.mark.parametrize("moment", ["between the renames", "before them"])
def test_an_export_that_was_killed_leaves_the_earlier_one(desk, tmp_path, monkeypatch, moment) -> None:
    first = host.export(desk, tmp_path / "out", title="First")
    child = os.fork()
    if not child:  # dies in the middle, with nothing tidied up
        rename = Path.rename

        def dying(path: Path, target: Path) -> Path:
            if moment == "before them" or path.name == ".out.new":
                os._exit(9)
            return rename(path, target)

        Path.rename = dying  # type: ignore[method-assign]
        host.export(desk, tmp_path / "out", title="Second")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert first.exists() == (moment == "before them") and (tmp_path / ".out.new").exists()
    monkeypatch.setattr(host_export, "LIMIT", 1)
    with pytest.raises(InputError, match="too large"):  # the next one goes wrong as well
        host.export(desk, tmp_path / "out", target="vercel", title="Third")
    assert "First" in (first / "app.json").read_text()
    assert not list(tmp_path.glob(".out.*"))


def test_only_what_is_needed_is_required(desk, ws, tmp_path) -> None:
    out = host.export(desk, tmp_path / "out", target="vercel")
    lines = (out / "requirements.txt").read_text().splitlines()
    assert all("==" in line and "+" not in line for line in lines) and len(lines) == len(set(lines))
    names = {line.partition("==")[0] for line in lines}
    assert {"fastapi", "uvicorn", "pandas", "prometheus-client"} <= names
    assert not names & {"torch", "transformers", "chromadb", "llmops-nb", "pytest", "jupyterlab", "altair"}
    size = json.loads((out / "llmops_export.json").read_text())["installed_bytes"]
    assert 50_000_000 < size < host_export.LIMIT


def test_what_does_not_fit_into_a_function_is_refused(desk, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(host_export, "LIMIT", 10_000_000)
    with pytest.raises(InputError, match="too large for a Vercel function"):
        host.export(desk, tmp_path / "out", target="vercel")
    assert not (tmp_path / "out").exists()
    host.export(desk, tmp_path / "out", target="docker")  # a container has no such limit


def test_only_applications_that_can_be_written_down_are_exported(desk, tmp_path) -> None:
    for wrong in (len, lambda question: "x", "app"):
        with pytest.raises(InputError, match="written down"):
            host.export(wrong, tmp_path / "out")
    with pytest.raises(InputError, match="no such target"):
        host.export(desk, tmp_path / "out", target="moon")


# where it runs


def test_it_runs_on_a_disk_that_cannot_be_written(desk, small_disk, tmp_path) -> None:
    disk, scratch = small_disk("8m"), tmp_path / "scratch"
    scratch.mkdir()
    out = host.export(desk, disk / "out", target="vercel")
    if subprocess.run(["mount", "-o", "remount,ro", str(disk)], capture_output=True).returncode:
        pytest.skip("remounting is not allowed here")
    said = smoke(out, TMPDIR=str(scratch))
    assert said["ready"] and said["text"] and list(scratch.glob("llmops-*/records.db"))


def test_a_container_runs_as_an_ordinary_user_and_says_how_it_is(desk, tmp_path) -> None:
    text = (host.export(desk, tmp_path / "out", target="docker") / "Dockerfile").read_text()
    user, command = text.index("\nUSER app"), text.index("\nCMD")
    assert user < command and "HEALTHCHECK" in text and "VOLUME /data" in text
    assert ".env" in (tmp_path / "out" / ".dockerignore").read_text()


@pytest.mark.slow
def test_the_folder_installs_and_answers_in_an_environment_of_its_own(desk, tmp_path) -> None:
    out, venv = host.export(desk, tmp_path / "out"), tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    install = [str(venv / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check", "-r", "requirements.txt"]
    done = subprocess.run(install, cwd=out, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = smoke(out, venv / "bin" / "python")
    assert said["ready"] and "assert" in said["text"].lower()
    listed = subprocess.run([str(venv / "bin" / "pip"), "list", "--format=freeze"], capture_output=True, text=True, check=True).stdout
    extra = {line.partition("==")[0].lower().replace("_", "-") for line in listed.splitlines()} - {
        line.partition("==")[0] for line in (out / "requirements.txt").read_text().splitlines()}
    assert extra <= {"pip", "setuptools"}, extra  # everything it needs is pinned
    print(f"cold start {said['seconds_to_start']} s")


def python_of(version: str) -> str | None:
    """An interpreter of this version, on the path or among pyenv's, that really starts."""
    installed = sorted((Path.home() / ".pyenv" / "versions").glob(f"{version}*/bin/python{version}"))
    candidates = [shutil.which(f"python{version}"), *map(str, installed)]
    return next((one for one in candidates if one and not subprocess.run([one, "--version"], capture_output=True).returncode), None)


CALL = '''
import base64, json, sys, time
started = time.perf_counter()
import vc__handler__python as handler
loaded = time.perf_counter() - started
def call(method, path, body=None):
    text = json.dumps(body) if body else ""
    event = {"method": method, "path": path, "host": "localhost", "headers": {"host": "localhost", "content-type": "application/json"},
             "encoding": "base64", "body": base64.b64encode(text.encode()).decode()}
    found = handler.vc_handler({"Action": "Invoke", "body": json.dumps(event)}, None)
    said = base64.b64decode(found["body"]).decode() if found.get("encoding") == "base64" else found["body"]
    return [found["statusCode"], said]
import fastapi, llmops_nb
print(json.dumps({"loaded": loaded, "fastapi": fastapi.__file__, "page": call("GET", "/"), "health": call("GET", "/health"),
                  "chat": call("POST", "/api/chat", {"question": sys.argv[1]})}))
'''


@pytest.mark.slow
def test_the_real_vercel_builder_makes_a_function_that_answers(desk, tmp_path) -> None:
    python, npm = python_of("3.12"), shutil.which("npm")
    if not npm or not python:
        pytest.skip("this needs npm and Python 3.12")
    tools = tmp_path / "tools"
    subprocess.run([python, "-m", "venv", str(tools / "venv")], check=True)
    pip = str(tools / "venv" / "bin" / "pip")
    for command in ([pip, "install", "-q", "uv"], [npm, "install", "--prefix", str(tools), "--silent", "vercel@60.1.3"]):
        if (done := subprocess.run(command, capture_output=True, text=True)).returncode:
            pytest.skip(f"uv or vercel cannot be installed here: {done.stderr[-300:]}")
    out = host.export(desk, tmp_path / "out", target="vercel")
    (out / ".vercel").mkdir()
    (out / ".vercel" / "project.json").write_text('{"projectId": "prj_here", "orgId": "team_here", "settings": {"framework": null}}')
    path = os.pathsep.join([str(tools / "venv" / "bin"), os.environ["PATH"]])
    build = subprocess.run([str(tools / "node_modules" / ".bin" / "vercel"), "build", "--yes"], cwd=out, capture_output=True, text=True,
                           env=os.environ | {"PATH": path, "VERCEL_TELEMETRY_DISABLED": "1"})
    assert build.returncode == 0, build.stdout + build.stderr
    built = out / ".vercel" / "output"
    shown = [str(file.relative_to(built / "static")) for file in (built / "static").rglob("*") if file.is_file()]
    assert shown == ["robots.txt"]  # index, prompts and source are for the function alone
    function = built / "functions" / "api" / "index.func"
    settings = json.loads((function / ".vc-config.json").read_text())
    for target, source in settings["filePathMap"].items():  # what Vercel uploads
        (tmp_path / "func" / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(out / source, tmp_path / "func" / target)
    shutil.copytree(function, tmp_path / "func", dirs_exist_ok=True)
    size = sum(file.stat().st_size for file in (tmp_path / "func").rglob("*") if file.is_file())
    assert size < host_export.LIMIT
    environment = {"PATH": path, "VERCEL": "1", "TMPDIR": str(tmp_path), **settings["environment"]}
    command = [str(tools / "venv" / "bin" / "python"), "-S", "-c", CALL, QUESTION]
    called = subprocess.run(command, cwd=tmp_path / "func", capture_output=True, text=True, env=environment)
    assert called.returncode == 0, called.stderr[-3000:]
    said = json.loads(called.stdout.splitlines()[-1])
    assert "_vendor" in said["fastapi"] and said["page"][0] == said["health"][0] == said["chat"][0] == 200
    assert "<h1>Ask</h1>" in said["page"][1] and "assert" in json.loads(said["chat"][1])["text"].lower()
    print(f"function of {size / 1e6:.0f} MB, loaded in {said['loaded']:.1f} s")

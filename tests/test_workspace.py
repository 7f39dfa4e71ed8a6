"""Workspaces and records: many processes, sudden deaths, disks that refuse."""

import multiprocessing
import os
import sqlite3
import time
from pathlib import Path

import pytest
from conftest import finish, kill, start

import llmops_nb as ops
from llmops_nb.errors import InputError, OpsError, StorageError
from llmops_nb.storage import records
from llmops_nb.storage.records import MIGRATIONS, Records

SCORE = dict(scorer="s", value=1.0, state="scored", source="code", created_ns=1)
WRITER = """
    import sys
    import llmops_nb as ops
    path, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    ws = ops.Workspace(path)
    for i in range(count):
        ws.records.write("scores", [dict(id=f"{name}-{i}", scorer=name, value=i, state="scored", source="code", created_ns=i)])
        print(i)
"""


def test_processes_that_open_and_write_at_once_lose_nothing(tmp_path: Path) -> None:
    children = [start(WRITER, tmp_path / "w", name, 100) for name in "abcdef"]  # all six create and migrate the same database
    for child in children:
        finish(child)
    with ops.Workspace(tmp_path / "w") as ws:
        counts = ws.records.rows("SELECT scorer, count(*) AS n FROM scores GROUP BY scorer ORDER BY scorer")
        assert counts == [{"scorer": s, "n": 100} for s in "abcdef"]


def open_together(folder: Path, barrier: object) -> None:
    for number in range(40):
        barrier.wait(60)
        Records(f"sqlite:///{folder / str(number)}.db").close()


def test_processes_that_open_a_new_database_in_the_same_moment_wait_for_each_other(tmp_path: Path) -> None:
    together = multiprocessing.get_context("spawn")
    barrier = together.Barrier(6)
    children = [together.Process(target=open_together, args=(tmp_path, barrier)) for _ in range(6)]
    for child in children:
        child.start()
    for child in children:
        child.join(120)
    assert [child.exitcode for child in children] == [0] * 6


def test_kill_loses_nothing_that_was_reported_saved(tmp_path: Path) -> None:
    child = start(WRITER, tmp_path / "w", "a", 100_000)
    reported = [int(child.stdout.readline()) for _ in range(300)][-1]
    kill(child)
    reported = max([reported, *(int(line) for line in child.stdout.read().split() if line.isdigit())])
    with ops.Workspace(tmp_path / "w") as ws:
        saved = ws.records.rows("SELECT max(value) AS last, count(*) AS n FROM scores")[0]
        assert saved["last"] >= reported and saved["n"] == saved["last"] + 1
        ws.records.write("scores", [dict(id="after", **SCORE)])  # and the database still takes writes


def test_full_disk_is_one_clear_error_and_nothing_saved_is_lost(small_disk) -> None:
    disk = small_disk("3m")
    ws = ops.Workspace(disk / "w")
    written = 0
    with pytest.raises(StorageError, match="(?s)full.*next: Free some space"):
        for written in range(10_000):
            ws.records.write("results", [dict(experiment_id="e", example_id=str(written), output="x" * 10_000)])
    ballast = sorted((disk / "w").glob("records.db*"))
    assert ballast and ws.records.rows("SELECT count(*) AS n FROM results")[0]["n"] == written
    os.system(f"mount -o remount,size=20m {disk}")
    ws.records.write("results", [dict(experiment_id="e", example_id="after", output="x" * 10_000)])
    ws.close()


def test_full_disk_on_opening(small_disk) -> None:
    disk = small_disk("64k")
    (disk / "ballast").write_bytes(b"x" * 60_000)
    with pytest.raises(StorageError, match="next: Free some space"):
        ops.Workspace(disk / "w")


def test_read_only_disk_is_one_clear_error(small_disk) -> None:
    with pytest.raises(StorageError, match="(?s)cannot be written.*next: "):
        ops.Workspace(small_disk("1m", "ro") / "w")


def test_workspace_of_a_newer_release_is_left_alone(tmp_path: Path) -> None:
    ops.Workspace(tmp_path).close()
    with sqlite3.connect(tmp_path / "records.db") as db:
        db.execute("UPDATE schema_version SET version = 1000")
    before = (tmp_path / "records.db").read_bytes()
    with pytest.raises(StorageError, match="(?s)newer llmops_nb.*1000.*pip install -U"):
        ops.Workspace(tmp_path)
    assert (tmp_path / "records.db").read_bytes() == before


@pytest.mark.parametrize("version", range(len(MIGRATIONS) + 1))
def test_every_earlier_schema_is_brought_up_to_date(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int) -> None:
    url = f"sqlite:///{tmp_path / 'records.db'}"
    with monkeypatch.context() as patch:
        patch.setattr(records, "MIGRATIONS", MIGRATIONS[:version])
        Records(url).close()
    migrated = Records(url)
    migrated.write("scores", [dict(id="1", **SCORE)])
    assert migrated.version == len(MIGRATIONS) and migrated.rows("SELECT count(*) AS n FROM scores") == [{"n": 1}]
    migrated.close()


def test_a_migration_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"sqlite:///{tmp_path / 'records.db'}"
    Records(url).close()
    monkeypatch.setattr(records, "MIGRATIONS", [*MIGRATIONS, ("ALTER TABLE scores ADD COLUMN extra TEXT", "NONSENSE")])
    with pytest.raises(Exception, match="NONSENSE"):
        Records(url)
    monkeypatch.undo()
    again = Records(url)
    assert "extra" not in again.frame("SELECT * FROM scores").columns
    again.close()


def test_one_handle_a_folder_whatever_it_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ws = ops.Workspace("w")
    assert ops.Workspace("./w") is ws is ops.Workspace(tmp_path / "w") and ops.Workspace("other") is not ws
    assert ops.workspace.current().path.name == "other"
    assert ops.Workspace("w") is ops.workspace.current()  # opened last, so it is the current one
    with pytest.raises(InputError, match="already open with other records"):
        ops.Workspace("w", records="sqlite:///elsewhere.db")


def test_close_lets_go_of_every_file(tmp_path: Path) -> None:
    with ops.Workspace(tmp_path / "w") as ws:
        ws.records.rows("SELECT 1")
        ws.close()
        ws.close()
    held = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")]
    assert not [path for path in held if str(tmp_path) in path]
    with pytest.raises(OpsError, match="No workspace is open"):
        ops.workspace.current()


def test_shared_records_by_url(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'team.db'}"
    with ops.Workspace(tmp_path / "a", records=url) as a, ops.Workspace(tmp_path / "b", records=url) as b:
        a.records.write("scores", [dict(id="1", **SCORE)])
        assert b.records.rows("SELECT count(*) AS n FROM scores") == [{"n": 1}]


def test_a_password_in_the_records_url_is_not_shown() -> None:
    pytest.importorskip("sqlalchemy")
    with pytest.raises(Exception) as caught:
        Records("postgresql+nodriver://me:hunter2@localhost/db")
    assert "hunter2" not in str(caught.value)


def test_a_reader_is_not_held_up_by_a_writer(ws) -> None:
    child = start(WRITER, ws.path, "busy", 3000)
    child.stdout.readline()
    started = time.perf_counter()
    for _ in range(20):
        ws.records.rows("SELECT count(*) AS n FROM scores")
    assert time.perf_counter() - started < 5
    kill(child)

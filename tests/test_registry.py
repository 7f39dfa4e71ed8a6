"""The registry: publishers at once, processes killed, disks that fill, folders that were tampered with, hostile text."""

import hashlib
import json
import os
import pickle
import random
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import finish, kill, start
from safetensors.numpy import save_file

import llmops_nb as ops
from llmops_nb.errors import InputError, NotFound, StorageError
from llmops_nb.storage import registry

PUBLISHER = """
    import sys
    from pathlib import Path
    import numpy as np
    from safetensors.numpy import save_file
    import llmops_nb as ops
    path, count, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    ops.Workspace(path)
    for i in range(count):
        with ops.registry.draft("helpdesk", method="pretrain", metrics={"i": i}, alias="prod") as draft:
            (draft.path / "config.json").write_text("{}")
            save_file({"w": np.full(size, i, dtype="float32")}, draft.path / "model.safetensors")
        print(draft.model.version, flush=True)
"""


def folder_of(path: Path, number: float = 0.0, size: int = 1000) -> Path:
    """A whole model, as far as the registry can tell."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    save_file({"w": np.full(size, number, dtype="float32")}, path / "model.safetensors")
    return path


def adapter_of(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    (path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "org/base"}))
    save_file({"a": np.ones(10, dtype="float32")}, path / "adapter_model.safetensors")
    return path


def everything_is_whole(name: str) -> list[int]:
    """The versions of a model, each checked byte by byte; no draft is left."""
    registry._checked.clear()
    table = registry.models()
    versions = [registry.get(spec).version for spec in table.model if spec.startswith(f"registry:{name}@")]
    assert not table.problem.any()
    return versions


def test_processes_that_publish_at_once_each_get_their_versions(tmp_path):
    children = [start(PUBLISHER, tmp_path / "w", 6, 1000) for _ in range(3)]
    given = [int(number) for child in children for number in finish(child).split()]
    with ops.Workspace(tmp_path / "w"):
        assert sorted(given) == everything_is_whole("helpdesk") == list(range(1, 19))
        assert sorted(registry.get(f"helpdesk@{n}").metrics["i"] for n in given) == sorted([*range(6)] * 3)
        assert registry.aliases("helpdesk")["prod"] in given


def test_threads_that_publish_at_once_each_get_their_version(ws, tmp_path):
    folder = folder_of(tmp_path / "m")
    threads = [threading.Thread(target=registry.save, args=("helpdesk", folder)) for _ in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert everything_is_whole("helpdesk") == list(range(1, 9))


def test_kill_at_any_moment_leaves_the_old_or_the_new(tmp_path):
    moments, told = random.Random(3), 0
    for _ in range(8):
        child = start(PUBLISHER, tmp_path / "w", 100_000, 300_000)
        told = max(told, int(child.stdout.readline()))
        time.sleep(moments.uniform(0, 0.05))  # a publication takes about 15 ms
        kill(child)
        said = [int(line) for line in child.stdout.read().splitlines() if line.strip().isdigit()]
        told = max([told, *said])
        with ops.Workspace(tmp_path / "w") as ws:
            versions = everything_is_whole("helpdesk")
            assert versions == list(range(1, len(versions) + 1)) and told <= len(versions)
            assert registry.aliases("helpdesk")["prod"] in (len(versions), len(versions) - 1)
            model = registry.save("helpdesk", registry.get("helpdesk").path)  # running again works, and sweeps
            assert model.version == len(versions) + 1
            assert not [p.name for p in (ws.path / "models" / "helpdesk").iterdir() if p.name.startswith(".draft")]


def test_a_draft_of_a_living_process_is_left_alone(ws, tmp_path):
    code = """
        import sys, time
        import llmops_nb as ops
        ops.Workspace(sys.argv[1])
        with ops.registry.draft("helpdesk") as draft:
            (draft.path / "config.json").write_text("{}")
            print(draft.path, flush=True)
            time.sleep(60)
    """
    child = start(code, ws.path)
    draft = Path(child.stdout.readline().strip())
    assert registry.save("helpdesk", folder_of(tmp_path / "m")).version == 1 and draft.exists()
    kill(child)
    assert registry.save("helpdesk", tmp_path / "m").version == 2 and not draft.exists()


def test_full_disk_publishes_nothing_and_the_old_version_stays(small_disk, tmp_path):
    disk = small_disk("6m")
    with ops.Workspace(disk / "w") as ws:
        registry.save("helpdesk", folder_of(tmp_path / "small", 1), alias="prod")
        big = folder_of(tmp_path / "big", 2, size=3_000_000)
        with pytest.raises(StorageError, match="[Nn]o space|disk is full"):
            registry.save("helpdesk", big, alias="prod")
        with pytest.raises(StorageError, match="disk is full"), registry.draft("helpdesk", alias="prod") as draft:
            (draft.path / "config.json").write_text("{}")
            save_file({"w": np.ones(3_000_000, dtype="float32")}, draft.path / "model.safetensors")  # safetensors' own error
        left = sorted(path.name for path in (ws.path / "models" / "helpdesk").iterdir())
        assert left == [".lock", "1", "aliases.json"] and everything_is_whole("helpdesk") == [1]
        assert registry.save("helpdesk", tmp_path / "small", alias="prod") == registry.get("helpdesk@prod") == registry.get("helpdesk@2")


@pytest.mark.parametrize("kept", [0, 4096])
def test_full_disk_while_the_card_is_written(small_disk, tmp_path, kept):
    disk = small_disk("1m")
    with ops.Workspace(disk / "w") as ws:
        with pytest.raises(StorageError, match="No space"), registry.draft("helpdesk") as draft:
            folder_of(draft.path)
            with open(disk / "filler", "wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
                while True:
                    file.write(b"0" * 4096)
            os.truncate(disk / "filler", (disk / "filler").stat().st_size - kept)
        assert [path.name for path in (ws.path / "models" / "helpdesk").iterdir()] == [".lock"]
        (disk / "filler").unlink()
        assert registry.save("helpdesk", folder_of(tmp_path / "m")).version == 1


def test_read_only_disk_is_one_clear_error(ws, tmp_path, small_disk):
    registry.save("helpdesk", folder_of(tmp_path / "m"))
    disk = small_disk("2m", "ro")
    (ws.path / "models").rename(tmp_path / "away")
    (ws.path / "models").symlink_to(disk)
    with pytest.raises(StorageError, match="Read-only"):
        registry.save("helpdesk", tmp_path / "m")


def flip(path: Path) -> None:
    content = bytearray((path / "model.safetensors").read_bytes())
    content[-10] ^= 4
    stat = (path / "model.safetensors").stat()
    (path / "model.safetensors").write_bytes(content)
    os.utime(path / "model.safetensors", ns=(stat.st_atime_ns, stat.st_mtime_ns))  # even when it hides


def edit_metric(path: Path) -> None:
    (path / "manifest.json").write_text((path / "manifest.json").read_text().replace('"score": 0.5', '"score": 0.9'))


DAMAGES = {
    "flipped byte": (flip, "model.safetensors has changed"),
    "missing file": (lambda path: (path / "config.json").unlink(), "config.json is missing"),
    "extra file": (lambda path: (path / "extra.json").write_text("{}"), "extra.json was added"),
    "extra file in a folder": (lambda path: folder_of(path / "onnx"), "onnx/config.json was added"),
    "truncated weights": (lambda path: os.truncate(path / "model.safetensors", 100), "model.safetensors has 100 bytes instead of"),
    "truncated manifest": (lambda path: os.truncate(path / "manifest.json", 100), "manifest.json cannot be read"),
    "empty manifest": (lambda path: os.truncate(path / "manifest.json", 0), "manifest.json cannot be read"),
    "manifest of another kind": (lambda path: (path / "manifest.json").write_text("[1]"), "manifest.json cannot be read"),
    "no manifest": (lambda path: (path / "manifest.json").unlink(), "manifest.json is missing"),
    "edited metric": (edit_metric, "manifest.json cannot be read"),
    "a pickle": (lambda path: (path / "pytorch_model.bin").write_bytes(pickle.dumps(1)), "pytorch_model.bin is a pickle"),
    "a link": (lambda path: (path / "more.json").symlink_to("/etc/hostname"), "more.json"),
    "a folder for a file": (lambda path: ((path / "config.json").unlink(), (path / "config.json").mkdir()), "config.json is missing"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_one_clear_error_that_names_the_file(ws, tmp_path, damage):
    registry.save("helpdesk", folder_of(tmp_path / "m"), metrics={"score": 0.5})
    model = registry.save("helpdesk", tmp_path / "m", metrics={"score": 0.5})
    assert registry.get("helpdesk@2") == model
    harm, said = DAMAGES[damage]
    harm(model.path)
    for _ in range(2):
        with pytest.raises(StorageError, match="registry:helpdesk@2 is damaged") as caught:
            registry.get("helpdesk@2")
        assert said in caught.value.what and "Meanwhile: helpdesk@1" in caught.value.next_step
    assert registry.get("helpdesk@1").version == 1
    assert list(registry.models().model) == ["registry:helpdesk@1", "registry:helpdesk@2"]  # one bad folder hides no other
    if "manifest" in said:
        assert "manifest.json" in registry.models().problem[1] and "manifest.json" in registry.lineage("helpdesk@1").to_string() + said


def test_a_checked_version_is_hashed_once(ws, tmp_path, monkeypatch):
    hashed: list[int] = []
    digest = hashlib.file_digest
    monkeypatch.setattr(registry.hashlib, "file_digest", lambda file, kind: (hashed.append(1), digest(file, kind))[1])
    registry.save("helpdesk", folder_of(tmp_path / "m"))
    assert len(hashed) == 3  # config, weights, card: once each, while publishing
    registry.get("helpdesk"), registry.get("helpdesk@1")
    assert len(hashed) == 3
    (ws.path / "models" / "helpdesk" / "1" / "config.json").touch()
    registry.get("helpdesk")
    assert len(hashed) == 6


def test_pickles_are_refused_by_name_and_by_content(ws, tmp_path):
    torch = pytest.importorskip("torch")
    for place, name in enumerate(["pytorch_model.bin", "optimizer.pt", "sub/model.safetensors.pkl", "weights.dat", "sub/config.json"]):
        folder = folder_of(tmp_path / str(place))
        (folder / name).parent.mkdir(exist_ok=True)
        torch.save({"w": torch.ones(2)}, folder / name) if place != 3 else (folder / name).write_bytes(pickle.dumps({"w": 1}))
        with pytest.raises(InputError, match="pickle") as caught:
            registry.save("helpdesk", folder)
        assert name in str(caught.value)
    assert registry.models().empty


def test_a_folder_that_is_no_model_is_refused(ws, tmp_path):
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "nowhere", tmp_path / "file"):
        with pytest.raises(InputError):
            registry.save("helpdesk", folder)
    with pytest.raises(InputError, match="not a model"), registry.draft("helpdesk"):
        pass
    with pytest.raises(InputError, match="not links"), registry.draft("helpdesk") as draft:
        folder_of(draft.path)
        (draft.path / "tokenizer.json").symlink_to("/etc/hostname")
    assert registry.models().empty


def test_links_as_the_hub_cache_has_them_become_files(ws, tmp_path):
    folder_of(tmp_path / "blobs", 7)
    (tmp_path / "snapshot" / ".cache").mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "snapshot" / name).symlink_to(tmp_path / "blobs" / name)
    model = registry.save("helpdesk", tmp_path / "snapshot")
    assert set(model.files) == {"README.md", "config.json", "model.safetensors"} and not (model.path / "config.json").is_symlink()


def test_a_parent_is_settled_before_the_work_and_exactly(ws, tmp_path):
    base = registry.save("base", folder_of(tmp_path / "m"), alias="prod")
    registry.save("base", tmp_path / "m")
    for parent, exact in (
        ("registry:base@prod", "registry:base@1"),
        ("registry:base", "registry:base@2"),
        (base, "registry:base@1"),
        ("hf:org/b", "hf:org/b"),
    ):
        assert registry.save("tuned", adapter_of(tmp_path / "a"), parent=parent).parent == exact
    for parent, error in (
        ("registry:nobody", NotFound),
        ("registry:base@9", NotFound),
        ("base", InputError),
        ("openai:gpt-5-mini", InputError),
    ):
        with pytest.raises(error), registry.draft("tuned", parent):
            pytest.fail("the work had begun")
    with pytest.raises(InputError, match="adapter needs") as caught:
        registry.save("tuned", tmp_path / "a")
    assert 'parent="hf:org/base"' in str(caught.value)


@pytest.mark.parametrize("name", ["../x", "", "a/b", "a b", ".hidden", "x@1", "é", "a" * 81, None, 3])
def test_names_that_could_leave_the_folder_are_refused(ws, tmp_path, name):
    with pytest.raises((InputError, NotFound)):
        registry.save(name, folder_of(tmp_path / "m"))
    with pytest.raises((InputError, NotFound)):
        registry.get(name)
    with pytest.raises(InputError):
        registry.set_alias(registry.save("helpdesk", tmp_path / "m"), name)


def test_aliases(ws, tmp_path):
    first = registry.save("helpdesk", folder_of(tmp_path / "m"), alias="prod")
    second = registry.save("helpdesk", tmp_path / "m")
    assert registry.get("helpdesk@prod") == first and registry.get("registry:helpdesk@latest") == registry.get("helpdesk") == second
    registry.set_alias(second, "prod")
    registry.set_alias("helpdesk@prod", "candidate")
    assert registry.aliases("helpdesk") == {"prod": 2, "candidate": 2} and hash(first) != hash(second)
    with pytest.raises(NotFound) as caught:
        registry.get("helpdesk@staging")
    assert "prod" in str(caught.value)
    for alias in ("2", "latest"):
        with pytest.raises(InputError):
            registry.set_alias(first, alias)
    (ws.path / "models" / "helpdesk" / "aliases.json").write_text('{"prod": [')
    with pytest.raises(StorageError, match="aliases.json"):
        registry.get("helpdesk@prod")
    assert registry.models().problem.tolist() == ["aliases.json cannot be read: Expecting value: line 1 column 11 (char 10)."] * 2
    assert first._repr_html_()


def test_hostile_text_is_harmless_in_the_card_and_in_the_notebook(ws, tmp_path):
    nasty = "<script>alert(1)</script> | x\n---\nlicense: mit\n# [a](javascript:x) `y` \U000e0041"
    model = registry.save(
        "helpdesk",
        folder_of(tmp_path / "m"),
        parent=f"hf:{nasty}",
        method=nasty,
        metrics={nasty: 0.1},
        data={"from": nasty, "set": [nasty]},
    )
    card = (model.path / "README.md").read_text()
    front, body = card.removeprefix("---\n").split("\n---\n", 1)
    assert (
        yaml.safe_load(front)["tags"] == ["llmops_nb", nasty]
        and "license" not in yaml.safe_load(front)
        and "base_model" not in yaml.safe_load(front)
    )
    assert "<script" not in body.replace("\\<script", "") and body.count("\n---") == 0 and len(body.splitlines()) == 11
    assert "<script" not in model._repr_html_() and registry.get("helpdesk").metrics == {nasty: 0.1}


def test_a_card_as_the_hub_reads_it(ws, tmp_path):
    hub = pytest.importorskip("huggingface_hub")
    base = registry.save("base", folder_of(tmp_path / "m"), parent="hf:org/small-1B", method="full")
    (adapter_of(tmp_path / "a") / "README.md").write_text(
        "---\nlicense: apache-2.0\nbase_model: /somewhere/here\ntags: [x]\n---\nMore information needed"
    )
    tuned = registry.save("tuned", tmp_path / "a", parent=base, method="lora", metrics={"exact match": 0.5})
    data = hub.ModelCard.load(tuned.path / "README.md").data
    assert (data.base_model, data.license, data.library_name, data.pipeline_tag) == (
        "org/small-1B",
        "apache-2.0",
        "peft",
        "text-generation",
    )
    assert data.tags == ["llmops_nb", "lora"] and data.metrics == ["exact match"] and data.base_model_relation == "adapter"
    assert list(registry.lineage(tuned).model) == ["registry:tuned@1", "registry:base@1", "hf:org/small-1B"]


def test_values_as_a_notebook_has_them(ws, tmp_path):
    made = {"loss": np.float32(0.25), "nan": float("nan"), "path": tmp_path, "tuple": (1, 2)}
    model = registry.save("helpdesk", folder_of(tmp_path / "m"), metrics=made, data=made)
    assert registry.get("helpdesk").data == model.data == {"loss": 0.25, "nan": None, "path": str(tmp_path), "tuple": [1, 2]}


def test_a_version_taken_away_is_said_where_it_is_missed(ws, tmp_path):
    base = registry.save("base", folder_of(tmp_path / "m"))
    tuned = registry.save("tuned", adapter_of(tmp_path / "a"), parent=base)
    base.path.rename(tmp_path / "gone")
    assert registry.lineage(tuned).problem.tolist() == [None, "No model has this name."]
    pytest.importorskip("peft")
    from llmops_nb.compute.local_models import load_model

    with pytest.raises(NotFound, match="No model has this name"):
        load_model(tuned)

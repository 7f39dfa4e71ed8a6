"""Datasets by name, from a fake of the hub on this machine: parts, what is closed, missing, torn or out of reach, and what is kept."""

import io
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from fake_hub import COMMIT, TOKEN, FakeHub

pytest.importorskip("datasets")

README = b"""---
configs:
- config_name: en
  data_files:
  - split: train
    path: en/train.parquet
  - split: test
    path: en/test.parquet
- config_name: de
  data_files: de/*.parquet
---
# Reviews
"""
READ = """
import json, os, sys, time, traceback
import datasets, huggingface_hub
import llmops_nb as ops
time.sleep = lambda seconds: None  # the clients wait minutes between their tries, and we need not
for source, text, token in json.load(sys.stdin):
    os.environ["HF_TOKEN"], started = token, time.perf_counter()
    try:
        docs = ops.data.load(source, text=text)
        said = docs.to_dict("list") | {"lineage": ops.data.lineage(docs).reason.tolist()}
    except ops.errors.OpsError as error:
        said = {"error": type(error).__name__, "said": str(error), "all": "".join(traceback.format_exception(error)) + repr(vars(error))}
    print(json.dumps(said | {"seconds": time.perf_counter() - started}))
"""
MINE, OTHER, WRONG = TOKEN, f"{TOKEN}-other", f"{TOKEN}-wrong"
ASKED = {  # what is asked for: source, token
    "english": ("hf:shop/reviews?name=en", ""),
    "english test": ("hf:shop/reviews?name=en&split=test", ""),
    "german": ("hf:shop/reviews?name=de", ""),
    "german at a commit": (f"hf:shop/reviews?name=de&revision={COMMIT}", ""),
    "sheet": ("hf:shop/sheet", ""),
    "no config": ("hf:shop/reviews", ""),
    "unknown config": ("hf:shop/reviews?name=fr", ""),
    "unknown split": ("hf:shop/reviews?name=en&split=dev", ""),
    "unknown revision": ("hf:shop/reviews?name=en&revision=v9", ""),
    "unknown name": ("hf:shop/nothing", ""),
    "unknown name, with a token": ("hf:shop/nothing", MINE),
    "a token in the address": (f"hf:shop/reviews?token={TOKEN}", ""),
    "closed": ("hf:shop/closed", ""),
    "closed, mine": ("hf:shop/closed", MINE),
    "closed, another's": ("hf:shop/closed", OTHER),
    "closed, wrong token": ("hf:shop/closed", WRONG),
    "gated": ("hf:shop/known", ""),
    "gated, let in": ("hf:shop/known", MINE),
    "gated, not let in": ("hf:shop/known", OTHER),
    "mine, large": ("hf:shop/mine", MINE),
    "torn twice": ("hf:shop/torn", ""),
    "torn once": ("hf:shop/lines", ""),
    "torn each time": ("hf:shop/broken", ""),
    "torn each time, to keep": ("hf:shop/broken?keep=true", ""),
    "kept": ("hf:shop/reviews?name=en&keep=true", ""),
}
NUMBERS = range(400)


def packed(**columns: list) -> bytes:
    pd.DataFrame(columns).to_parquet(file := io.BytesIO())
    return file.getvalue()


@pytest.fixture(scope="module")
def hub() -> Iterator[FakeHub]:
    reviews = packed(text=[f"Review {n}." for n in NUMBERS], stars=[n % 5 for n in NUMBERS])
    server = FakeHub(
        {
            "shop/reviews": {
                "README.md": README,
                "en/train.parquet": reviews,
                "en/test.parquet": packed(text=["Fine.", ""], stars=[4, 1]),
                "de/rows.parquet": packed(text=["Gut."], stars=[5]),
            },
            "shop/lines": {"lines.jsonl": b"".join(json.dumps({"text": f"Line {n}."}).encode() + b"\n" for n in NUMBERS)},
            "shop/sheet": {"train.csv": b"id,text\na,One.\nb,Two.\n", "test.csv": b"id,text\nc,Three.\n"},
            "shop/closed": {"train.csv": b"text\nSecret.\n"},
            "shop/mine": {"train.parquet": reviews},
            "shop/known": {"README.md": b"# Ask us", "train.csv": b"text\nOnly for friends.\n"},
            "shop/torn": {"twice.parquet": reviews},
            "shop/broken": {"ever.parquet": reviews},
        }
    )
    server.private, server.gated = {"shop/closed", "shop/mine"}, {"shop/known"}
    server.torn = {"twice.parquet": 2, "lines.jsonl": 1, "ever.parquet": 10**6}
    yield server
    server.shutdown()
    server.server_close()


def start(home: Path, url: str, asked: list[tuple[str, str]], **environment: str) -> subprocess.Popen:
    """Another Python that loads them: the client reads its settings when it is imported."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    settings = {"HF_ENDPOINT": url, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_TELEMETRY": "1"}
    pipe = subprocess.PIPE
    child = subprocess.Popen(
        [sys.executable, "-c", READ], env=clean | settings | environment, stdin=pipe, stdout=pipe, stderr=pipe, text=True
    )
    with child.stdin as given:
        json.dump([(source, "text", token) for source, token in asked], given)
    child.stdin = None  # closed: nothing more to be communicated
    return child


def answers(child: subprocess.Popen) -> list[dict]:
    out, err = child.communicate(timeout=100)
    assert child.returncode == 0, err
    assert TOKEN not in out + err
    return [json.loads(line) for line in out.splitlines()]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def out_of_reach(home: Path) -> Iterator[list[subprocess.Popen]]:
    """Two that wait while the others work: one hub refuses, the other takes the question and never answers."""
    with socket.socket() as refuses, socket.create_server(("127.0.0.1", 0)) as silent:
        refuses.bind(("127.0.0.1", 0))
        yield [start(home, f"http://127.0.0.1:{server.getsockname()[1]}", [("hf:shop/reviews", "")]) for server in (refuses, silent)]


@pytest.fixture(scope="module")
def got(hub: FakeHub, home: Path, out_of_reach: list) -> dict[str, dict]:
    """What came of everything asked for."""
    return dict(zip(ASKED, answers(start(home, hub.url, list(ASKED.values()))), strict=True))


def test_configs_splits_and_formats(got: dict) -> None:
    both = got["english"]
    assert both["text"] == [*(f"Review {n}." for n in NUMBERS), "Fine."] and both["lineage"] == ["The document is empty."]
    assert both["id"][0] == "shop/reviews/train:row 0" and both["metadata"][3] == {"title": "shop/reviews/train:row 3", "stars": 3}
    assert set(both["source"]) == {"hf:shop/reviews?name=en"}
    assert got["english test"]["text"] == ["Fine."] and sorted(got["sheet"]["id"]) == ["a", "b", "c"]
    assert got["german"]["text"] == got["german at a commit"]["text"] == ["Gut."]


@pytest.mark.parametrize(
    ("asked", "error", "words"),
    [
        ("no config", "InputError", ["'en', 'de'", "?name=config"]),
        ("unknown config", "InputError", ["'en', 'de'"]),
        ("unknown split", "InputError", ["'train', 'test'"]),
        ("unknown revision", "NotFound", ["no such revision"]),
        ("unknown name", "NotFound", ["no such dataset, or it is private", "hf.co/datasets", "HF_TOKEN"]),
        ("unknown name, with a token", "NotFound", ["no such dataset"]),
        ("a token in the address", "InputError", ["no address of a dataset"]),
        ("closed", "NotFound", ["or it is private", "HF_TOKEN"]),
        ("closed, another's", "NotFound", ["no such dataset"]),
        ("closed, wrong token", "StorageError", ["did not accept the token", "HF_TOKEN"]),
        ("gated", "StorageError", ["gated", "Ask for access", "HF_TOKEN"]),
        ("gated, not let in", "StorageError", ["gated", "Ask for access"]),
        ("torn each time", "StorageError", ["could not be read", "next:"]),
        ("torn each time, to keep", "StorageError", ["could not be read", "next:"]),
    ],
)
def test_a_refusal_says_what_to_do(got: dict, asked: str, error: str, words: list[str]) -> None:
    refused = got[asked]
    assert refused["error"] == error and all(word in refused["said"] for word in words), refused["said"]
    assert TOKEN not in refused["all"] and "QXJZsigned" not in refused["all"]
    assert refused["seconds"] < 3


def test_a_token_opens_and_is_shown_to_the_hub_only(got: dict, hub: FakeHub) -> None:
    assert got["closed, mine"]["text"] == ["Secret."] and got["gated, let in"]["text"] == ["Only for friends."]
    assert len(got["mine, large"]["text"]) == 400
    stored = [with_token for _, path, with_token in hub.asked if path.startswith("/storage/shop/mine")]
    assert stored and not any(stored)


def test_a_download_that_tears_goes_on(got: dict, hub: FakeHub) -> None:
    assert got["torn twice"]["text"] == [f"Review {n}." for n in NUMBERS] and got["torn once"]["text"] == [f"Line {n}." for n in NUMBERS]
    assert hub.torn["twice.parquet"] == hub.torn["lines.jsonl"] == 0


def test_what_is_kept_is_read_without_the_hub(got: dict, hub: FakeHub, home: Path) -> None:
    before = len(hub.asked)
    names = ["hf:shop/reviews?name=en", "hf:shop/reviews?name=en&keep=true", "hf:shop/reviews?name=en&split=test", "hf:shop/sheet"]
    offline, again, part, never = answers(start(home, hub.url, [(name, "") for name in names], HF_HUB_OFFLINE="1"))
    for column in ("text", "id", "metadata", "lineage"):
        assert got["kept"][column] == got["english"][column] == offline[column] == again[column]
    assert part["text"] == ["Fine."] and len(hub.asked) == before
    assert never["error"] == "StorageError" and "keep=true" in never["said"] and never["seconds"] < 3


def test_a_hub_out_of_reach_is_an_error_within_seconds(out_of_reach: list) -> None:
    for child in out_of_reach:
        [lost] = answers(child)
        assert lost["error"] == "StorageError" and "network" in lost["said"] and "HF_HUB_OFFLINE" in lost["said"]
        assert lost["seconds"] < 10

"""Tables and documents in Azure's and Google's buckets: real emulators on this machine, where they are installed."""

import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from urllib.parse import quote

import pandas as pd
import pytest

import llmops_nb as ops
from llmops_nb import data
from llmops_nb.errors import NotFound, StorageError

ACCOUNT = "devstoreaccount1"  # Azurite's own, with a key that everybody knows
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


@pytest.fixture(scope="module")
def serve() -> Iterator[Callable[..., str]]:
    """Starts an emulator; its address once it listens. Skips where it is not installed."""
    started: list[subprocess.Popen] = []

    def start(program: str, *options: str) -> str:
        if not (found := shutil.which(program)):
            pytest.skip(f"{program} is not installed")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [found, *(option.format(port=port) for option in options)]
        started.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        for _ in range(300):
            try:
                socket.create_connection(("127.0.0.1", port), 0.2).close()
                return f"127.0.0.1:{port}"
            except OSError:
                time.sleep(0.1)
        raise AssertionError(f"{program} does not listen")

    yield start
    for server in started:
        server.terminate()
        server.wait(10)


@pytest.fixture(scope="module")
def azure(serve: Callable[..., str]) -> str:
    """Where Azurite listens, with a container named team. Install it with npm install -g azurite."""
    memory = ["--inMemoryPersistence", "--skipApiVersionCheck", "--disableTelemetry", "--silent"]
    place = serve("azurite-blob", "--blobHost", "127.0.0.1", "--blobPort", "{port}", *memory)
    from pyarrow.fs import AzureFileSystem

    there = {"blob_storage_authority": place, "dfs_storage_authority": place, "blob_storage_scheme": "http", "dfs_storage_scheme": "http"}
    system = AzureFileSystem(ACCOUNT, account_key=KEY, **there)
    system.create_dir("team")
    for name, content in {"notes/a.md": b"# A", "notes/b/c.txt": b"C", "notes/photo.png": b"\x89PNG"}.items():
        with system.open_output_stream(f"team/{name}") as file:
            file.write(content)
    return place


@pytest.fixture(scope="module")
def google(serve: Callable[..., str]) -> str:
    """Where fake-gcs-server listens, with a bucket named team."""
    place = serve("fake-gcs-server", "-scheme", "http", "-host", "127.0.0.1", "-port", "{port}", "-backend", "memory")
    from pyarrow.fs import GcsFileSystem

    GcsFileSystem(anonymous=True, endpoint_override=place, scheme="http", project_id="p").create_dir("team")
    return place


@pytest.mark.parametrize("cloud", ["azure", "google"])
def test_a_table_goes_through_its_life(ws, request: pytest.FixtureRequest, cloud: str) -> None:
    place = request.getfixturevalue(cloud)
    form = {
        "azure": f"abfs://{ACCOUNT}:{quote(KEY, '')}@{place}/team/lake/books{{}}?enable_tls=false",
        "google": f"gs://anonymous@team/lake/books{{}}?endpoint_override={place}&scheme=http&retry_limit_seconds=5",
    }[cloud]
    name = form.format("")
    frame = pd.DataFrame({"id": [f"d{n}" for n in range(100)], "text": ["é"] * 100, "metadata": [{"n": n} for n in range(100)]})
    frame.attrs["lineage"] = ({"id": "gone"},)
    with pytest.raises(NotFound):
        ops.lake.read(name)
    one = ops.lake.write(name, frame)
    assert ops.lake.write(name, frame) == one and "Eby8" not in one.name and "team/lake/books" in one.name
    two = ops.lake.write(name, frame[:3])
    old = form.format(f"@{one.version[:6]}")
    pd.testing.assert_frame_equal(ops.lake.read(old), frame)
    assert ops.lake.read(old).attrs == frame.attrs and [len(part) for part in ops.lake.batches(old, rows=60)] == [60, 40]
    assert ops.lake.query("SELECT count(*) AS n FROM there", there=name).n[0] == 3
    assert ops.lake.versions(name).version.tolist() == [one.version, two.version]
    ops.lake.remove(old)
    assert ops.lake.versions(name).version.tolist() == [two.version]
    ops.lake.remove(name)
    with pytest.raises(NotFound):
        ops.lake.read(name)


def test_a_wrong_key_and_a_missing_container(ws, azure: str) -> None:
    for key, container in ((quote(KEY.replace("Eby8", "Fby8"), ""), "team"), (quote(KEY, ""), "nobody")):
        with pytest.raises(StorageError) as caught:
            ops.lake.write(f"abfs://{ACCOUNT}:{key}@{azure}/{container}/books?enable_tls=false", pd.DataFrame({"id": ["a"]}))
        assert "by8vdM" not in str(caught.value) + repr(caught.value)


def test_documents_in_azure(azure: str) -> None:
    pytest.importorskip("adlfs")
    endpoint = f"BlobEndpoint=http://{azure}/{ACCOUNT};"
    options = {"connection_string": f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={KEY};{endpoint}"}
    table = data.load("abfs://team/notes", storage_options=options)
    assert dict(zip(table.id, table.text, strict=True)) == {"a.md": "# A", "b/c.txt": "C"}
    assert table.source.tolist() == ["abfs://team/notes/a.md", "abfs://team/notes/b/c.txt"]
    assert data.lineage(table).id.tolist() == ["photo.png"]
    named = f"abfs://team@{ACCOUNT}.dfs.core.windows.net/notes/a.md"
    assert data.load(named, storage_options=options).text.tolist() == ["# A"]
    with pytest.raises(NotFound):
        data.load("abfs://team/nothing", storage_options=options)
    with pytest.raises(StorageError) as caught:
        data.load("abfs://team/notes", storage_options={"connection_string": options["connection_string"].replace("Eby8", "Fby8")})
    assert "by8vdM" not in str(caught.value) + repr(caught.value)


def test_documents_in_google(google: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # asks by gRPC, which the emulator does not speak
    options = {"endpoint_url": f"http://{google}", "token": "anon", "project": "p"}
    files = pytest.importorskip("gcsfs").GCSFileSystem(**options)
    files.pipe({"team/notes/a.md": b"# A", "team/notes/b/c.txt": b"C", "team/notes/photo.png": b"\x89PNG"})
    table = data.load("gs://team/notes", storage_options=options)
    assert dict(zip(table.id, table.text, strict=True)) == {"a.md": "# A", "b/c.txt": "C"}
    assert table.source.tolist() == ["gs://team/notes/a.md", "gs://team/notes/b/c.txt"]
    assert data.load("gs://team/notes/*.md", storage_options=options).id.tolist() == ["a.md"]
    with pytest.raises(NotFound):
        data.load("gs://team/nothing", storage_options=options)

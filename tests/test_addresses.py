"""What opens an address is shown nowhere: not in errors, notes, sources, reprs, nor in what is stored; and the place stays readable."""

import json
import re
import traceback
from collections.abc import Iterator
from urllib.parse import quote, quote_plus

import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import llmops_nb as ops
from llmops_nb import data, sources
from llmops_nb.errors import InputError, NotFound, OpsError
from llmops_nb.storage import lake_databases, lake_remote
from llmops_nb.storage.addresses import cleaned, hidden

# Words that stand in no error of any library, joined by what may confuse whoever looks for the end of a password.
WORDS = st.text("QXJZ雪Ж√Ω", min_size=5, max_size=9)
PASSWORDS = st.lists(WORDS, min_size=1, max_size=4).flatmap(
    lambda words: st.lists(
        st.sampled_from(["@", "/", ":", "%", "+", " ", "//", "@@", "://", "\\", "'", '"', "[", "é", "=", "&"]),
        min_size=len(words),
        max_size=len(words),
    ).map(lambda marks: "".join(word + mark for word, mark in zip(words, marks, strict=True)))
)
WRITTEN = st.sampled_from([str, lambda text: quote(text, ""), quote, quote_plus])  # as pasted, and as the standard wants it
SIGNED = st.sampled_from(
    [
        "sig",
        "token",
        "password",
        "secret",
        "key",
        "X-Amz-Signature",
        "X-Amz-Security-Token",
        "X-Goog-Signature",
        "access_token",
        "api_key",
        "Authorization",
        "AWSAccessKeyId",
        "sslpassword",
        "PWD",
        "credentials",
        "client%5Fsecret",
    ]
)
SCHEMES = [
    "postgresql",
    "postgresql+psycopg",
    "mysql",
    "snowflake",
    "https",
    "http",
    "s3",
    "gs",
    "sftp",
    "abfs",
    "abfss",
    "delta+s3",
    "simplecache::https",
    "zip://a.txt::https",
]

DOCS = pd.DataFrame({"id": ["a"], "text": ["A"]})


def leaked(password: str, *shown: str) -> list[str]:
    """The words of the password that can be read in what was shown."""
    text = "".join(shown).lower()
    words = re.findall("[QXJZ雪Ж√Ω]{5,}", password)
    assert words
    return [
        word for word in words if any(form.lower() in text for form in (word, quote(word), ascii(word)[1:-1], repr(word.encode())[2:-1]))
    ]


def everything(error: BaseException) -> str:
    """What a notebook, a log or a debugger shows of an error."""
    return "".join(traceback.format_exception(error)) + str(error) + repr(error) + repr(vars(error))


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(SCHEMES), st.sampled_from(["ann", "", "ann@example.org", "container"]), PASSWORDS, WRITTEN)
@example("postgresql", "ann", "QXJZQ?JZQXJ", str)
@example("postgresql", "ann", "QXJZQ#JZQXJ", str)
@example("postgresql", "ann", "QXJZQ?x=JZQXJ", str)
def test_a_password_before_the_place(scheme: str, user: str, password: str, written) -> None:
    who = f"{user}:{written(password)}"
    address = f"{scheme}://{who}@host.example.org:8443/prod/x?mode=ro#books"
    assert not leaked(password, hidden(address))
    assert hidden(address).endswith("host.example.org:8443/prod/x" + ("" if scheme.startswith("http") else "#books")) or "x=" in password
    for said in (
        address,
        who,
        password,
        written(password),
        quote(password, ""),
        repr(password),
        json.dumps(password),
        str(password.encode()),
        f"no host {password.lower()}",
    ):
        assert not leaked(password, cleaned(f"cannot open {said}", address)), said
        assert cleaned(f"cannot open {said}", address).startswith("cannot open ")


@settings(max_examples=400, deadline=None)
@given(
    st.sampled_from(SCHEMES),
    SIGNED,
    PASSWORDS,
    st.sampled_from([lambda text: quote(text, ""), quote_plus, str]),
    st.sampled_from(["", ":5432"]),
)
def test_a_signature_in_the_query(scheme: str, name: str, secret: str, written, port: str) -> None:
    secret = secret.replace("&", "") if written is str else secret  # pasted as it is, & ends it for every reader
    address = f"{scheme}://host.example.org{port}/prod/x?mode=ro&{name}={written(secret)}&last=1#books"
    assert not leaked(secret, hidden(address))
    for said in (address, secret, written(secret), f"{name}={written(secret)}", repr(secret)):
        assert not leaked(secret, cleaned(f"cannot open {said}", address)), said
    assert cleaned("mode ro is not known", address) == "mode ro is not known" or hidden(address).endswith("://…")


@pytest.mark.parametrize(
    "address",
    [
        "s3://bucket/notes/a.md",
        "s3://bucket/2026-05-01T10:00:00/me@example.org.txt",
        "gs://bucket/books",
        "abfs://container@account.dfs.core.windows.net/folder/me@home.txt",
        "abfss://container@account.dfs.core.windows.net/books",
        "delta+abfss://container@account.dfs.core.windows.net/books",
        "delta:///data/12:30/me@home",
        "https://example.org/@me/12:30",
        "http://127.0.0.1:8000/@me/12:30",
        "http://[::1]:8000/@me",
        "postgresql://db.example.org:5432/prod#schema.books",
        "notes/a.md",
    ],
)
def test_a_place_without_a_secret_is_shown_as_it_is(address: str) -> None:
    assert hidden(address) == address
    assert cleaned(f"cannot open {address}: no such file", address) == f"cannot open {address}: no such file"


@settings(max_examples=300, deadline=None)
@given(st.text(), st.text())
def test_any_text_is_taken(text: str, address: str) -> None:
    for one in (address, f"s3://{address}", f"postgresql://{address}", f"https://{address}", f"abfs://{address}"):
        assert isinstance(hidden(one) + cleaned(text, one), str)
        assert hidden(hidden(one)) == hidden(one)


# --- through the front door


@settings(max_examples=40, deadline=None)
@given(PASSWORDS, WRITTEN, st.sampled_from(["http", "https", "sftp", "nonsense", "HTTP", "simplecache::http", "s3"]))
def test_documents_that_cannot_be_reached(password: str, written, scheme: str) -> None:
    address = f"{scheme}://localhost:{written(password)}@127.0.0.1:9/a.md?X-Amz-Signature={quote(password, '')}"
    options = {"client_kwargs": {"aws_secret_access_key": password}} if scheme == "s3" else {}
    with pytest.raises(OpsError) as caught:
        data.load(address, storage_options=options)
    assert not leaked(password, everything(caught.value))


@settings(max_examples=40, deadline=None)
@given(PASSWORDS, WRITTEN)
def test_documents_that_are_read(password: str, written) -> None:
    import fsspec

    memory, folder = fsspec.filesystem("memory"), f"memory://ann:{written(password).replace('[', '')}@team"
    memory.pipe({f"{folder}/a.md": b"# A", f"{folder}/b.pdf": b"broken", f"{folder}/c.jsonl": b'{"text": "C"}\n{broken'})
    table = data.load(folder)
    assert table.source.tolist() == ["memory://team/a.md", "memory://team/c.jsonl"] and table.text.tolist() == ["# A", "C"]
    assert not leaked(password, table.to_json(force_ascii=False), data.lineage(table).to_json(force_ascii=False), repr(table.attrs))
    with pytest.raises(InputError) as caught:
        data.load(f"{folder}/b.pdf")
    files, _ = sources._remote(folder, {})
    reading = sources.Reading(options={"password": password})
    assert not leaked(password, everything(caught.value), *map(repr, files), repr(reading))
    memory.rm("/", recursive=True)


@settings(max_examples=25, deadline=None)
@given(
    PASSWORDS,
    WRITTEN,
    st.sampled_from(
        [
            "postgresql://{}@127.0.0.1:9/db#t",
            "postgresql://{}@[::bad/db#t",
            "postgresql://127.0.0.1:9/db?user=ann&password={}#t",
            "nonsense://{}@host/db#t",
            "s3://{}@/x",
        ]
    ),
)
def test_tables_that_cannot_be_reached(password: str, written, form: str) -> None:
    address = form.format(quote(password, "") if "?" in form else f"ann:{written(password)}")
    for use in (
        ops.lake.read,
        ops.lake.versions,
        lambda name: ops.lake.query("SELECT 1", at=name),
        lambda name: ops.lake.write(name, DOCS),
    ):
        with pytest.raises(OpsError) as caught:
            use(address)
        assert not leaked(password, everything(caught.value)), everything(caught.value)
    assert not leaked(password, lake_databases.Postgres(address).name, repr(lake_databases.Postgres(address)))


def test_an_address_without_its_slashes_is_no_table(ws) -> None:
    password = "QXJZ" * 2  # in two, since a traceback shows this line
    with pytest.raises(InputError, match="://") as caught:
        ops.lake.read(f"postgresql:/ann:{password}@db/prod")
    assert not leaked(password, everything(caught.value))
    with pytest.raises(NotFound) as missing:
        data.load(f"https:/ann:{password}@host/a.md")
    assert not leaked(password, everything(missing.value))


@pytest.fixture
def bucket() -> Iterator[tuple[str, object]]:
    """An address with credentials in it, of a bucket of a real S3 server on this machine; and its client."""
    boto3 = pytest.importorskip("boto3")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    client = boto3.client(
        "s3", endpoint_url=f"http://{host}:{port}", aws_access_key_id="k", aws_secret_access_key="s", region_name="us-east-1"
    )
    client.create_bucket(Bucket="team")
    yield f"s3://AKIAQXJZQ:{quote('JZQXJ/ZZQQX@J', '')}@team/books?endpoint_override={host}:{port}&scheme=http&region=us-east-1", client
    server.stop()


def test_nothing_stored_in_a_bucket_knows_how_it_was_opened(ws, bucket: tuple) -> None:
    address, client = bucket
    table = ops.lake.write(address, DOCS)
    assert len(ops.lake.read(address)) == 1 and table.name == "s3://team/books" == lake_remote.Bucket(address).name
    stored = [client.get_object(Bucket="team", Key=one["Key"])["Body"].read() for one in client.list_objects_v2(Bucket="team")["Contents"]]
    assert len(stored) >= 3 and not any(secret in body for body in stored for secret in (b"AKIAQXJZQ", b"JZQXJ", b"ZZQQX"))
    assert "JZQXJ" not in repr(table) + ops.lake.versions(address).to_json()

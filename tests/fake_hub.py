"""A fake of the Hugging Face hub's HTTP API, on this machine: what huggingface_hub 2.4 asks for when a dataset is read, answered with the
headers it needs. It is no hub: it knows datasets, one commit each, and reading."""

import hashlib
import http.server
import json
import re
import threading
from urllib.parse import unquote, urlsplit

COMMIT = "c0ffee" + "0" * 34
TOKEN = "hf_QXJZQXJZsesame"


class FakeHub(http.server.ThreadingHTTPServer):
    """Datasets by name, each a dict of files; .url is for HF_ENDPOINT.

    Files above `large` bytes come by a redirect to another host, as from the hub's storage."""

    def __init__(self, datasets: dict[str, dict[str, bytes]], large: int = 1000) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.datasets, self.large = datasets, large
        self.private, self.gated = set[str](), set[str]()
        self.torn: dict[str, int] = {}  # path of a file: how many more times it is cut off half-way
        self.asked: list[tuple[str, str, bool]] = []  # method, path, whether a token came with it
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.storage = f"http://localhost:{self.server_port}/storage"
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeHub

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        self.server.asked.append((self.command, path, bool(token)))
        if path.startswith("/storage/"):
            name, _, file = path.removeprefix("/storage/").partition("//")
            return self.content(self.server.datasets[name][file], file)
        found = re.fullmatch(r"/api/datasets/([^/]+/[^/]+?)(?:/(revision|tree|paths-info)/([^/]+)(?:/(.*))?)?", path)
        found = found or re.fullmatch(r"/datasets/([^/]+/[^/]+)/(resolve)/([^/]+)/(.+)", path)
        if found is None:
            return self.refuse(404, "", "Not Found")
        name, what, revision, file = found.groups()
        if refusal := self.closed(name, token, what):
            return self.refuse(*refusal)
        if revision not in (None, "main", COMMIT):
            return self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        files = self.server.datasets[name]
        if what == "resolve":
            return self.refuse(404, "EntryNotFound", "Entry not found") if file not in files else self.resolve(name, file)
        if what == "tree":
            return self.tree(files, f"{file}/" if file else "", "recursive=true" in self.path.lower())
        if what == "paths-info":
            asked = re.findall(r"(?:^|&)paths=([^&]*)", self.rfile.read(int(self.headers["Content-Length"])).decode())
            return self.json([entry for one in asked if (entry := self.entry(files, unquote(one)))])
        siblings = [{"rfilename": one} for one in files]
        gated = "manual" if name in self.server.gated else False
        return self.json(
            {
                "_id": "1",
                "id": name,
                "sha": COMMIT,
                "private": name in self.server.private,
                "gated": gated,
                "disabled": False,
                "tags": [],
                "downloads": 0,
                "likes": 0,
                "siblings": siblings,
            }
        )

    do_HEAD = do_POST = do_GET

    def closed(self, name: str, token: str, what: str | None) -> tuple[int, str, str] | None:
        """Status, code and message of a refusal. Who is nobody is not told whether a dataset is private or missing."""
        if token and token != TOKEN and token != f"{TOKEN}-other":
            return 401, "", "Invalid credentials in Authorization header"
        if name not in self.server.datasets or (name in self.server.private and token != TOKEN):
            return (404, "RepoNotFound", "Repository not found") if token else (401, "", "Invalid username or password.")
        if name in self.server.gated and what == "resolve" and token != TOKEN:
            return 403 if token else 401, "GatedRepo", f"Access to dataset {name} is restricted."
        return None

    def entry(self, files: dict[str, bytes], path: str) -> dict | None:
        if path in files:
            return {"type": "file", "path": path, "size": len(files[path]), "oid": hashlib.sha1(files[path]).hexdigest()}
        inside = any(one.startswith(f"{path}/") for one in files)
        return {"type": "directory", "path": path, "size": 0, "oid": hashlib.sha1(path.encode()).hexdigest()} if inside else None

    def tree(self, files: dict[str, bytes], under: str, recursive: bool) -> None:
        paths = {path: None for path in files if path.startswith(under)}
        folders = {
            under + "/".join(path[len(under) :].split("/")[:n]) for path in paths for n in range(1, path[len(under) :].count("/") + 1)
        }
        if under and not paths:
            return self.refuse(404, "EntryNotFound", "path does not exist")
        return self.json([self.entry(files, path) for path in sorted({*paths, *folders}) if recursive or "/" not in path[len(under) :]])

    def resolve(self, name: str, file: str) -> None:
        content = self.server.datasets[name][file]
        if len(content) <= self.server.large:
            return self.content(content, file, {"X-Repo-Commit": COMMIT})
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        where = f"{self.server.storage}/{name}//{file}?X-Amz-Signature=QXJZsigned"
        return self.answer(
            302, b"", {"X-Repo-Commit": COMMIT, "X-Linked-Etag": etag, "X-Linked-Size": str(len(content)), "Location": where}
        )

    def content(self, content: bytes, file: str, headers: dict[str, str] | None = None) -> None:
        headers = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "Accept-Ranges": "bytes"} | (headers or {})
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked is None:
            return self.answer(200, content, headers, file)
        first, last = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)
        if first >= len(content):
            return self.answer(416, b"", headers | {"Content-Range": f"bytes */{len(content)}"})
        return self.answer(206, content[first : last + 1], headers | {"Content-Range": f"bytes {first}-{last}/{len(content)}"}, file)

    def json(self, value: object) -> None:
        self.answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def refuse(self, status: int, code: str, message: str) -> None:
        headers = (
            {"X-Error-Message": message}
            | ({"X-Error-Code": code} if code else {})
            | ({"X-Repo-Commit": COMMIT} if code == "EntryNotFound" else {})
        )
        self.answer(status, json.dumps({"error": message}).encode(), headers | {"Content-Type": "application/json"})

    def answer(self, status: int, body: bytes, headers: dict[str, str], file: str = "") -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD" and self.server.torn.get(file, 0) > 0:
            self.server.torn[file] -= 1
            self.wfile.write(body[: len(body) // 2])
            self.close_connection = True
        elif self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass

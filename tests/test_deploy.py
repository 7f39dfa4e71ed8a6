"""Served models: what official clients get, what strangers and broken clients get, and what happens when processes die."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import finish, kill, start

import llmops_nb as ops
from llmops_nb.compute.jobs import JobFailed
from llmops_nb.compute.openai_routes import Traffic, openai_api

fastapi, uvicorn, openai, httpx = (pytest.importorskip(name) for name in ("fastapi", "uvicorn", "openai", "httpx"))
CONTRACT = Path(__file__).parents[2] / "shared" / "contracts" / "openai.openapi.yaml"
HELLO = [{"role": "user", "content": "Where is my parcel?"}]


@contextlib.contextmanager
def running(router) -> Iterator[str]:
    """The router behind an address, in a thread."""
    from llmops_nb.deploy import web_app

    server = uvicorn.Server(
        uvicorn.Config(web_app(router, "127.0.0.1"), port=0, log_level="error", lifespan="off", timeout_graceful_shutdown=2)
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/v1"
    finally:
        server.should_exit = True
        thread.join(20)


def echo(question: str) -> str:
    return f"You said: {question}"


def vectors(texts: list[str]) -> list[list[float]]:
    return [[float(len(text)), 1.0, 0.5] for text in texts]


def tiny(folder: Path, context: int = 256) -> Path:
    """A Llama with random weights."""
    torch = pytest.importorskip("torch")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=280, special_tokens=["<s>", "</s>"], show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(["where is my parcel and when does it come"], trainer)
    template = (
        "{% for m in messages %}<s>{{ m.role }}: {{ m.content }}{% endfor %}{% if add_generation_prompt %}<s>assistant: {% endif %}"
    )
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", chat_template=template).save_pretrained(
        folder
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=280,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=context,
        bos_token_id=0,
        eos_token_id=1,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def batched(tmp_path_factory) -> Iterator:
    """A batching engine over a random model, as an `ops.Model`."""
    from llmops_nb.compute.batching import BatchedModel
    from llmops_nb.compute.local_models import load_model

    folder = tiny(tmp_path_factory.mktemp("model"), context=2048)
    model = ops.Model(f"hf:{folder}")
    model.backend = BatchedModel(*load_model(f"hf:{folder}"), "tiny")
    model.backend._ends = frozenset({-1})  # random weights may say the end at any moment: here only max_tokens ends a reply
    yield model
    model.backend.close()


@contextlib.contextmanager
def asking(url: str, body: dict) -> Iterator[None]:
    """A client that has asked and does not read; it vanishes with the block."""
    content = json.dumps(body).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    head += f"Content-Length: {len(content)}\r\n\r\n"
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        client.connect(("127.0.0.1", int(url.split(":")[2].split("/")[0])))
        client.sendall(head.encode() + content)
        yield


def until(condition, seconds: float = 10) -> float:
    """Wait for it; returns how long it took."""
    began = time.perf_counter()
    while not condition():
        assert time.perf_counter() - began < seconds
        time.sleep(0.002)
    return time.perf_counter() - began


# what official clients get


def nullable(schema):
    """OpenAPI's `nullable`, as JSON schema says it."""
    if isinstance(schema, list):
        return [nullable(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: nullable(value) for key, value in schema.items() if key != "nullable"}
    return {"anyOf": [made, {"type": "null"}]} if schema.get("nullable") is True else made


@pytest.fixture(scope="module")
def conforms():
    jsonschema, yaml = pytest.importorskip("jsonschema"), pytest.importorskip("yaml")
    if not CONTRACT.exists():
        pytest.skip("OpenAI's published contract is not beside this checkout")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    components = nullable(yaml.load(CONTRACT.read_text(encoding="utf-8"), loader)["components"])

    def check(name: str, data: dict) -> None:
        jsonschema.Draft202012Validator({"$ref": f"#/components/schemas/{name}", "components": components}).validate(data)

    with pytest.raises(jsonschema.ValidationError):
        check("CreateChatCompletionResponse", {"id": "x"})
    return check


def test_replies_conform_to_the_published_contract(ws, conforms):
    with running(openai_api(echo, embedder=vectors)) as url, httpx.Client(base_url=url) as http:
        chat = {"model": "echo", "messages": HELLO}
        conforms("CreateChatCompletionResponse", http.post("/chat/completions", json=chat).json())
        conforms("CreateCompletionResponse", http.post("/completions", json={"model": "echo", "prompt": ["a", "b"]}).json())
        for form in ("float", "base64"):
            reply = http.post(
                "/embeddings", json={"model": "function:vectors", "input": ["a", "b"], "encoding_format": form}
            ).json()
            if form == "float":
                conforms("CreateEmbeddingResponse", reply)
        conforms("ListModelsResponse", http.get("/models").json())
        conforms("Model", http.get("/models/echo").json())
        conforms("ErrorResponse", http.post("/chat/completions", json={"model": "nobody", "messages": HELLO}).json())
        lines = http.post("/chat/completions", json=chat | {"stream": True, "stream_options": {"include_usage": True}}).text.split(
            "\n\n"
        )
        assert lines[-2:] == ["data: [DONE]", ""]
        for line in lines[:-2]:
            conforms("CreateChatCompletionStreamResponse", json.loads(line.removeprefix("data: ")))


def test_the_official_client_sync_async_whole_and_streamed(batched, ws):
    with running(openai_api(batched, name="tiny", embedder=vectors)) as url:
        client = openai.OpenAI(base_url=url, api_key="none")
        ask = {"model": "tiny", "messages": HELLO, "max_tokens": 20, "seed": 5, "temperature": 0.9, "top_p": 0.8}
        whole = client.chat.completions.create(**ask)
        chunks = list(client.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True}))
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert text == whole.choices[0].message.content and whole.usage == chunks[-1].usage
        assert (
            whole.usage.completion_tokens == 20
            and whole.choices[0].finish_reason == chunks[-2].choices[0].finish_reason == "length"
        )
        assert client.chat.completions.create(**ask | {"seed": 6}).choices[0].message.content != text
        assert client.chat.completions.create(model="tiny", messages=HELLO, max_completion_tokens=7).usage.completion_tokens == 7
        plain = client.completions.create(model="tiny", prompt="where is", max_tokens=5)
        assert plain.usage.prompt_tokens < whole.usage.prompt_tokens and plain.usage.completion_tokens == 5  # no chat template
        assert len(client.completions.create(model="tiny", prompt=["a", "b"]).choices) == 2
        assert client.embeddings.create(model="function:vectors", input="abc").data[0].embedding[0] > 0.9

        async def asynchronously():
            async with openai.AsyncOpenAI(base_url=url, api_key="none") as many:
                replies = await asyncio.gather(*(many.chat.completions.create(**ask) for _ in range(6)))
                pieces = [
                    chunk.choices[0].delta.content or "" async for chunk in await many.chat.completions.create(**ask, stream=True)
                ]
                return {reply.choices[0].message.content for reply in replies} | {"".join(pieces)}

        assert asyncio.run(asynchronously()) == {text}
        ours = ops.Model("vllm:tiny", base_url=url, max_tokens=20, seed=5, temperature=0.9, top_p=0.8)
        assert ours.chat(HELLO).text == "".join(ours.stream(HELLO)) == text


def test_stop_texts_are_not_said_even_across_pieces(batched, ws):
    with running(openai_api(batched, name="tiny")) as url:
        client = openai.OpenAI(base_url=url, api_key="none")
        ask = {"model": "tiny", "messages": HELLO, "max_tokens": 60}
        text = client.chat.completions.create(**ask).choices[0].message.content
        for stop in (text[5:9], text[12:13]):
            cut = text[: text.find(stop)]
            reply = client.chat.completions.create(**ask, stop=[stop, "never said"])
            streamed = "".join(
                c.choices[0].delta.content or "" for c in client.chat.completions.create(**ask, stop=stop, stream=True)
            )
            assert reply.choices[0].message.content == streamed == cut and reply.choices[0].finish_reason == "stop"
        assert until(lambda: batched.backend.active == 0) < 1


def test_batched_answers_are_those_given_alone(batched):
    from llmops_nb.compute.mapping import map_items

    questions = [[{"role": "user", "content": f"where is parcel {n} " * (1 + n)}] for n in range(12)]
    alone = [batched.chat(question, max_tokens=8 + 3 * n).text for n, question in enumerate(questions)]

    async def ask(place: int) -> str:
        await asyncio.sleep(place * 0.004)
        return (await batched.achat(questions[place], max_tokens=8 + 3 * place)).text

    assert [outcome.value for outcome in map_items(ask, range(12), concurrency=12)] == alone


def test_an_application_streams_and_its_failures_keep_their_secrets(ws):
    def broken(question):
        yield "so far "
        raise RuntimeError("password=hunter2")

    with running(openai_api(broken)) as url, httpx.Client(base_url=url) as http:
        streamed = http.post("/chat/completions", json={"model": "broken", "messages": HELLO, "stream": True})
        whole = http.post("/chat/completions", json={"model": "broken", "messages": HELLO})
        assert "so far" in streamed.text and "[DONE]" not in streamed.text and '"error"' in streamed.text
        assert whole.status_code == 500 and "hunter2" not in whole.text + streamed.text
        trace_id = whole.json()["error"]["message"].split()[-1].rstrip(".")
        assert "RuntimeError" in ops.traces.get(trace_id).spans.error[0]


# what strangers and broken clients get


@pytest.mark.parametrize(
    ("path", "content", "kind", "status", "param"),
    [
        ("/chat/completions", b"{not json", "application/json", 400, None),
        (
            "/chat/completions",
            b'{"model": "echo", "messages": [{"role": "user", "content": "\\ud800"}]}',
            "application/json",
            400,
            None,
        ),
        ("/chat/completions", b"[" * 100_000, "application/json", 400, None),
        ("/chat/completions", b'{"model": "echo", "messages": []}', "application/json", 400, "messages"),
        (
            "/chat/completions",
            b'{"model": "echo", "messages": [{"role": "user", "content": "x"}], "temprature": 1}',
            "application/json",
            400,
            "temprature",
        ),
        (
            "/chat/completions",
            b'{"model": "echo", "messages": [{"role": "user", "content": "x"}], "n": 2}',
            "application/json",
            400,
            "n",
        ),
        (
            "/chat/completions",
            b'{"model": "echo", "messages": [{"role": "user", "content": "x"}], "max_tokens": 0}',
            "application/json",
            400,
            "max_tokens",
        ),
        (
            "/chat/completions",
            b'{"model": "echo", "messages": [{"role": "system", "content": "x"}]}',
            "application/json",
            400,
            None,
        ),
        ("/chat/completions", b'{"messages": [{"role": "user", "content": "x"}]}', "application/json", 400, "model"),
        ("/chat/completions", b"{}", "text/plain", 415, None),
        ("/chat/completions", b" " * 9_000_000, "application/json", 413, None),
        ("/completions", b'{"model": "echo", "prompt": [1, 2]}', "application/json", 400, "prompt"),
        ("/embeddings", b'{"model": "echo", "input": "x"}', "application/json", 404, "model"),
        ("/nowhere", b"{}", "application/json", 404, None),
    ],
)
def test_bad_requests_get_one_clear_error(ws, path, content, kind, status, param):
    with running(openai_api(echo)) as url:
        reply = httpx.post(url + path, content=content, headers={"Content-Type": kind}, timeout=30)
        error = reply.json()["error"]
        assert (
            reply.status_code == status
            and error["param"] == param
            and set(error) == {"message", "type", "param", "code"}
            and len(error["message"]) < 1500
        )
        assert httpx.post(f"{url}/chat/completions", json={"model": "echo", "messages": HELLO}).status_code == 200


def test_keys_other_names_and_other_pages(ws):
    with running(openai_api(echo, api_key="correct-horse")) as url:
        chat = {"model": "echo", "messages": HELLO}
        for header in (
            {},
            {"Authorization": "Bearer correct-hors"},
            {"Authorization": "Basic correct-horse"},
            {"Authorization": b"Bearer \xff\xfe"},
        ):
            reply = httpx.post(f"{url}/chat/completions", json=chat, headers=header)
            assert reply.status_code == 401 and reply.json()["error"]["code"] == "invalid_api_key"
        good = httpx.post(
            f"{url}/chat/completions",
            json=chat,
            headers={"Authorization": "Bearer correct-horse", "Origin": "https://evil.example"},
        )
        assert good.status_code == 200 and "access-control-allow-origin" not in good.headers
        rebound = httpx.post(
            f"{url}/chat/completions", json=chat, headers={"Host": "evil.example", "Authorization": "Bearer correct-horse"}
        )
        assert rebound.status_code == 400
    assert len(ops.traces.recent(100)) == 1  # strangers leave no trace


def test_a_prompt_longer_than_the_context(batched, ws):
    with running(openai_api(batched, name="tiny")) as url:
        for stream in (False, True):
            reply = httpx.post(
                f"{url}/chat/completions",
                timeout=30,
                json={"model": "tiny", "stream": stream, "messages": [{"role": "user", "content": "parcel " * 3000}]},
            )
            assert (
                reply.status_code == 400
                and reply.json()["error"]["code"] == "context_length_exceeded"
                and "2,048" in reply.json()["error"]["message"]
            )


def test_a_client_that_vanishes_frees_its_place(batched, ws):
    traffic = Traffic()
    scheduled = batched.backend._engine.batch_processor.scheduler.active_requests
    with running(openai_api(batched, name="tiny", traffic=traffic)) as url:
        for stream in (True, False):
            with asking(url, {"model": "tiny", "messages": HELLO, "max_tokens": 2000, "stream": stream}):
                until(lambda: batched.backend.active == 1)
            assert until(lambda: batched.backend.active == 0 and not scheduled) < 2
        assert until(lambda: traffic.gone == 2 and traffic.active == 0) < 2
    assert set(ops.traces.recent(5).status) == {"error"} and "left" in ops.traces.recent(1).error[0]


def test_a_slow_reader_holds_nobody_up(batched, ws):
    with running(openai_api(batched, name="tiny")) as url:
        with asking(url, {"model": "tiny", "messages": HELLO, "max_tokens": 300, "stream": True}):  # asks, and never reads
            until(lambda: batched.backend.active == 1)
            reply = httpx.post(f"{url}/chat/completions", json={"model": "tiny", "messages": HELLO, "max_tokens": 10}, timeout=30)
            assert reply.status_code == 200
            until(lambda: batched.backend.active == 0, 30)  # its answer is complete and its place is free, read or not


def test_a_full_server_says_so(ws):
    release = threading.Event()

    def waits(question):
        release.wait(10)
        return "done"

    traffic = Traffic()
    with running(openai_api(waits, traffic=traffic, most=2)) as url:
        ask = {"url": f"{url}/chat/completions", "json": {"model": "waits", "messages": HELLO}, "timeout": 30}
        threads = [threading.Thread(target=httpx.post, kwargs=ask) for _ in range(2)]
        for thread in threads:
            thread.start()
        until(lambda: traffic.active == 2)
        full = httpx.post(**ask)
        release.set()
        for thread in threads:
            thread.join()
        assert full.status_code == 429 and full.headers["retry-after"] == "1" and httpx.post(**ask).status_code == 200


# processes


def test_a_served_model_that_is_killed_says_so_and_serves_again(ws):
    deployment = ops.deploy.serve("local:extractive", name="quotes")
    url = deployment.url
    try:
        assert (
            ops.Model("vllm:quotes", base_url=url)
            .chat("Context:\nThe parcel is at the door.\n\nQuestion: Where is the parcel?")
            .text
            == "The parcel is at the door."
        )
    finally:
        os.kill(deployment.job.events("started")[-1]["pid"], signal.SIGKILL)
    until(lambda: deployment.state == "lost")
    with pytest.raises(ops.errors.OpsError, match="Nothing answers"):
        ops.Model("vllm:quotes", base_url=url, max_retries=0).chat("hello")
    with pytest.raises(ops.errors.NotFound, match="it is lost"):
        _ = deployment.url
    assert "Serving it again" in deployment._repr_mimebundle_()["text/html"]
    again = ops.deploy.serve("local:extractive", name="quotes")
    try:
        assert httpx.get(again.url.removesuffix("/v1") + "/health").json() == {"status": "ok"} and list(
            ops.deploy.table().state
        ) == ["running"]
    finally:
        again.close()
    assert ops.deploy.get("quotes").state == "closed"


def test_the_key_is_nowhere_and_the_same_serve_returns_what_runs(ws):
    secret = "correct-horse-battery-staple"
    with ops.deploy.serve(echo_here := "local:extractive", name="locked", api_key=secret) as url:
        assert ops.deploy.serve(echo_here, name="locked", api_key=secret).url == url
        assert openai.OpenAI(base_url=url, api_key=secret).models.list().data[0].id == "locked"
        openai.OpenAI(base_url=url, api_key=secret).chat.completions.create(model="locked", messages=HELLO)
        with pytest.raises(ops.errors.InputError, match="not this one"):
            ops.deploy.serve("local:extractive", name="locked")  # without a key: another deployment
        assert secret not in repr(ops.deploy.get("locked")._repr_mimebundle_())
    ops.tracing.flush()
    found = [path for path in ws.path.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]
    assert not found and len(ops.traces.recent()) == 1
    with pytest.raises(JobFailed, match="needs its API key"):
        ops.jobs.get("serve-locked").resume().wait_for("ready", 60)


def test_a_port_in_use_and_a_broken_folder_are_clear_errors(ws, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(JobFailed, match="Address already in use"):
        ops.deploy.serve("local:extractive", name="late", port=taken.getsockname()[1])
    for name, content in (("empty", None), ("garbage", b"not safetensors")):
        folder = tmp_path / name
        folder.mkdir()
        if content:
            (tiny(folder) / "model.safetensors").write_bytes(content)
        began = time.perf_counter()
        with pytest.raises(JobFailed, match="could not load|Error"):
            ops.deploy.serve(f"hf:{folder}")
        assert time.perf_counter() - began < 60 and ops.deploy.get(name).state == "failed"


def test_leaving_the_block_by_an_error_ends_the_child(ws):
    with pytest.raises(ZeroDivisionError), ops.deploy.serve(echo, name="short") as url:
        assert ops.Model("vllm:short", base_url=url).chat("hi").text == "You said: hi"
        _ = 1 / 0
    assert ops.deploy.get("short").state == "closed"
    with pytest.raises(httpx.ConnectError):
        httpx.get(url)


@pytest.mark.parametrize("room", ["deploy", "host"])
def test_interrupting_while_it_starts_leaves_nothing(ws, room):
    rooms = {
        "deploy": ("serve-slow", lambda: ops.deploy.serve("local:extractive", name="slow")),
        "host": ("host-slow", lambda: ops.host.serve(echo, name="slow")),
    }
    job, serve = rooms[room]

    def interrupt():
        until(lambda: len(ops.jobs.table()) == 1 and ops.jobs.get(job).events("started"))
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background process ignores it
    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            serve()
        thread.join()
        assert ops.jobs.get(job).state in ("stopped", "failed")
    finally:
        signal.signal(signal.SIGINT, before)
        ops.jobs.get(job).stop()


def test_a_killed_kernel_leaves_a_deployment_that_is_found_and_closed(ws):
    child = start(
        """
        import sys, time
        import llmops_nb as ops
        ops.Workspace(sys.argv[1])
        with ops.deploy.serve("local:extractive", name="left") as url:
            print(url, flush=True)
            time.sleep(600)
    """,
        ws.path,
    )
    url = child.stdout.readline().strip()
    kill(child)
    found = ops.deploy.table()
    assert list(found.name) == ["left"] and list(found.state) == ["running"] and list(found.url) == [url]
    assert httpx.get(f"{url}/models").status_code == 200
    ops.deploy.get("left").close()
    assert list(ops.deploy.table().state) == ["closed"]


def test_two_kernels_that_serve_the_same_share_it(ws):
    code = """
        import sys
        import llmops_nb as ops
        ops.Workspace(sys.argv[1])
        print(ops.deploy.serve("local:extractive", name="shared").url)
    """
    children = [start(code, ws.path) for _ in range(2)]
    urls = {finish(child).strip() for child in children}
    try:
        assert len(urls) == 1
    finally:
        ops.deploy.get("shared").close()


def test_the_kernel_stays_small_while_a_model_is_served(ws, tmp_path):
    folder = tiny(tmp_path / "tiny")
    out = finish(
        start(
            """
        import sys, psutil
        import llmops_nb as ops
        ops.Workspace(sys.argv[1])
        import fastapi, pandas, uvicorn
        from openai import OpenAI
        ops.deploy.table(), OpenAI(base_url="http://127.0.0.1:9/v1", api_key="none").chat
        before = psutil.Process().memory_info().rss
        with ops.deploy.serve("hf:" + sys.argv[2]) as url:
            client = OpenAI(base_url=url, api_key="none")
            for _ in range(3):
                client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "hello"}], max_tokens=20)
            held = ops.deploy.get("tiny").job.facts()["memory"][-1][1]
        print(psutil.Process().memory_info().rss - before, held, "torch" in sys.modules)
    """,
            ws.path,
            folder,
        )
    )
    grown, held, torch_here = out.split()
    assert int(grown) < 60e6 < 2 * int(grown) + 100e6 < int(held) and torch_here == "False"


def test_requests_join_the_callers_trace(ws):
    with ops.deploy.serve("local:extractive", name="joined") as url, ops.trace("caller") as span:
        openai.OpenAI(base_url=url, api_key="none").chat.completions.create(
            model="joined", messages=HELLO, stream=False, extra_headers={"traceparent": f"00-{span.trace_id}-{span.span_id}-01"}
        )
        for _ in openai.OpenAI(base_url=url, api_key="none").chat.completions.create(model="joined", messages=HELLO, stream=True):
            pass
    joined = ops.traces.get(span.trace_id).spans
    assert list(joined.name) == ["caller", "serve joined", "chat extractive"] and list(joined.depth) == [0, 1, 2]
    streamed = next(
        json.loads(row) for row in ops.traces.get(ops.traces.recent(1).trace_id[0]).spans.attributes if row and "first_chunk" in row
    )
    assert streamed["gen_ai.response.time_to_first_chunk"] > 0


def test_an_adapter_answers_batched_as_it_does_alone(ws):
    peft = pytest.importorskip("peft")
    from llmops_nb.compute.local_models import load_model
    from llmops_nb.storage import registry

    with registry.draft("base") as draft:
        tiny(draft.path)
    adapted = peft.get_peft_model(
        load_model("registry:base")[0],
        peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], lora_alpha=64, init_lora_weights=False),
    )
    with registry.draft("tuned", parent="registry:base@1") as draft:
        adapted.save_pretrained(draft.path)
    alone = {name: ops.Model(f"registry:{name}").chat(HELLO, max_tokens=20).text for name in ("base", "tuned")}
    with ops.deploy.serve("registry:tuned") as url:
        assert ops.Model("vllm:tuned", base_url=url).chat(HELLO, max_tokens=20).text == alone["tuned"] != alone["base"]
        assert "one request at a time" not in ops.deploy.get("tuned").job.log()


def test_an_architecture_the_engine_cannot_take_still_answers(ws, tmp_path):
    from transformers import MambaConfig, MambaForCausalLM

    (tiny(tmp_path / "mamba") / "model.safetensors").unlink()
    MambaForCausalLM(MambaConfig(vocab_size=280, hidden_size=32, num_hidden_layers=1)).save_pretrained(tmp_path / "mamba")
    with ops.deploy.serve(f"hf:{tmp_path / 'mamba'}") as url:
        client = openai.OpenAI(base_url=url, api_key="none")
        assert client.chat.completions.create(model="mamba", messages=HELLO, max_tokens=8).usage.completion_tokens <= 8
        assert "one request at a time" in ops.deploy.get("mamba").job.log()


def test_an_embedder_alone(ws):
    with ops.deploy.serve(embedder="local:extractive", name="none") as url:  # a model without embeddings says so
        assert httpx.post(f"{url}/embeddings", json={"model": "local:extractive", "input": "x"}).status_code == 400
    with running(openai_api(embedder=vectors)) as url:
        assert (
            openai.OpenAI(base_url=url, api_key="none")
            .embeddings.create(model="function:vectors", input=["a", "b"])
            .usage.total_tokens
            == 0
        )
        chat = httpx.post(f"{url}/chat/completions", json={"model": "function:vectors", "messages": HELLO})
        assert chat.status_code == 404 and "allowed: embeddings" in chat.json()["error"]["message"]

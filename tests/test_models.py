"""Model calls against servers that follow the published APIs, and misbehave on purpose."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from llmops_nb.compute import failures
from llmops_nb.compute.mapping import map_items
from llmops_nb.compute.models import Model, Replay, Usage
from llmops_nb.errors import InputError, NotFound
from tests.loopback import FakeAnthropic, FakeOpenAI, Fault

KEY = "sk-loopback"


@pytest.fixture(autouse=True)
def no_keys(monkeypatch):
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "OPENAI_BASE_URL", "ANTHROPIC_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def openai():
    with FakeOpenAI() as fake:
        yield fake


@pytest.fixture
def anthropic():
    with FakeAnthropic() as fake:
        yield fake


def model_of(fake, **options):
    spec = "openai:gpt-5-mini" if isinstance(fake, FakeOpenAI) else "anthropic:claude-haiku-4-5"
    return Model(spec, **({"base_url": fake.url, "api_key": KEY, "timeout": 5} | options))


BOTH = pytest.mark.parametrize("kind", [FakeOpenAI, FakeAnthropic])
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


def weather(city: str) -> str:
    "The weather in a city, now."
    return f"22 degrees in {city}"


# the fakes have the right shape: the official clients agree


def test_official_openai_client_understands_the_fake(openai):
    client = pytest.importorskip("openai").OpenAI(base_url=openai.url, api_key=KEY, max_retries=0)
    ask = {"model": "gpt-5-mini", "messages": [{"role": "user", "content": "hi"}]}
    reply = client.chat.completions.create(**ask)
    assert reply.choices[0].message.content == "You said: hi" and reply.usage.prompt_tokens_details.cached_tokens == 8
    stream = list(client.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True}))
    assert "".join(c.choices[0].delta.content or "" for c in stream if c.choices) == "You said: hi" and stream[-1].usage.total_tokens == 27
    vectors = client.embeddings.create(model="text-embedding-3-small", input=["a", "bb"], encoding_format="float")
    assert [row.embedding[0] for row in sorted(vectors.data, key=lambda row: row.index)] == [1.0, 2.0]


def test_official_anthropic_client_understands_the_fake(anthropic):
    client = pytest.importorskip("anthropic").Anthropic(base_url=anthropic.url, api_key=KEY, max_retries=0)
    ask = {"model": "claude-haiku-4-5", "max_tokens": 10, "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]}
    assert client.messages.create(**ask).content[0].text == "You said: hi"
    with client.messages.stream(**ask) as stream:
        assert "".join(stream.text_stream) == "You said: hi" and stream.get_final_message().usage.output_tokens == 9


# what works


@BOTH
def test_a_call(kind):
    with kind() as fake:
        reply = model_of(fake)("hi")
        assert str(reply) == reply.text == "You said: hi" and reply.finish_reason == "stop" and reply.seconds > 0
        expected = Usage(20, 7, 8, 0, 4) if kind is FakeOpenAI else Usage(142, 9, 100, 30, 5)
        assert reply.usage == expected and reply.cost > 0 and reply.provider in ("openai", "anthropic")


def test_cost_by_hand(openai, anthropic):
    assert model_of(openai)("hi").cost == pytest.approx((12 * 0.25 + 8 * 0.025 + 7 * 2.0) / 1e6)
    assert model_of(anthropic)("hi").cost == pytest.approx((12 * 1.0 + 100 * 0.1 + 30 * 1.25 + 9 * 5.0) / 1e6)


@BOTH
def test_streams_sync_and_async_give_the_same(kind):
    with kind() as fake:
        model, whole = model_of(fake), model_of(fake)("hello there")
        stream = model.stream("hello there")
        pieces = list(stream)
        assert "".join(pieces) == whole.text == stream.reply.text and len(pieces) > 2 and stream.reply.usage == whole.usage

        async def read():
            stream = model.astream("hello there")
            return [piece async for piece in stream], stream.reply

        again, reply = asyncio.run(read())
        assert again == pieces and reply.usage == whole.usage
        assert model.stream("hello there").reply.text == whole.text  # without reading it first


@BOTH
@pytest.mark.parametrize("streamed", [False, True])
def test_tools_there_and_back(kind, streamed):
    with kind() as fake:
        model, question = model_of(fake), [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Is it warm?"}]
        reply = model.stream(question, tools=[weather]).reply if streamed else model.chat(question, tools=[weather])
        assert reply.finish_reason == "tool_calls" and [(c.name, c.arguments) for c in reply.tool_calls] == [("weather", {"city": "Paris"})]
        result = {"role": "tool", "tool_call_id": reply.tool_calls[0].id, "content": weather("Paris")}
        assert "22 degrees" in model.chat([*question, reply.message, result], tools=[weather]).text


@BOTH
def test_json_by_schema(kind):
    with kind() as fake:
        assert model_of(fake).chat("Where?", schema=CITY).data == {"city": "Paris"}
        assert model_of(fake).stream("Where?", schema=CITY).reply.data == {"city": "Paris"}


def test_embeddings_keep_their_order_across_batches(openai):
    texts = ["x" * (n % 7 + 1) for n in range(600)]
    vectors = Model("openai:text-embedding-3-small", base_url=openai.url, api_key=KEY).embed(texts)
    assert vectors.shape == (600, 2) and vectors.dtype == "float32" and vectors[:, 0].tolist() == [len(text) for text in texts]
    assert len(openai.requests) == 3


def test_works_inside_a_running_loop(openai):
    async def cell():
        model = model_of(openai)
        return model("sync").text, (await model.achat("async")).text, "".join(model.stream("pieces"))

    assert asyncio.run(cell()) == ("You said: sync", "You said: async", "You said: pieces")


def test_defaults_and_parameters_travel(openai, anthropic):
    model_of(openai, max_tokens=5, seed=1).chat("hi", seed=2)
    assert openai.requests[-1]["max_completion_tokens"] == 5 and openai.requests[-1]["seed"] == 2
    model_of(anthropic, max_tokens=5).chat(
        [{"role": "system", "content": "S"}, {"role": "user", "content": "hi"}], stop="x", tools=[weather], tool_choice="required"
    )
    sent = anthropic.requests[-1]
    assert (sent["max_tokens"], sent["system"], sent["stop_sequences"], sent["tool_choice"]) == (5, "S", ["x"], {"type": "any"})


def test_calls_are_traced(openai, tmp_path):
    from llmops_nb.observability.tracing import flush, trace
    from llmops_nb.storage.workspace import Workspace

    with Workspace(tmp_path / "ws") as ws:
        with trace("outer") as outer:
            reply = model_of(openai)("hi")
            streamed = model_of(openai).stream("hi").reply
        with pytest.raises(failures.ModelNotFound):
            Model("openai:nope", base_url=openai.url, api_key=KEY)("hi")
        flush()
        spans = ws.records.rows("SELECT * FROM spans WHERE kind = 'chat' ORDER BY start_ns")
        assert [span["status"] for span in spans] == ["ok", "ok", "error"]
        assert [span["trace_id"] for span in spans[:2]] == [reply.trace_id, streamed.trace_id] == [outer.trace_id] * 2
        assert spans[0]["parent_id"] == outer.span_id and spans[0]["input_tokens"] == 20 and spans[0]["cost"] == reply.cost
        assert "You said: hi" in spans[1]["output"] and KEY not in json.dumps(spans)


# what goes wrong: one class each, with a next step


@BOTH
@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault(401), failures.KeyRejected),
        (Fault(403), failures.NotPermitted),
        (Fault(404), failures.ModelNotFound),
        (Fault(400), failures.BadRequest),
        (Fault(429), failures.RateLimited),
        (Fault(500), failures.ServerError),
        (Fault(529), failures.ServerError),
        (Fault(drop=True), failures.ConnectionFailed),
        (Fault(text="<html>Sign in</html>"), failures.InvalidReply),
        (Fault(text='{"hello": 1}'), failures.InvalidReply),
        (Fault(text="[1]"), failures.InvalidReply),
        (Fault(302, headers={"Location": "http://127.0.0.1:1/"}), failures.ModelError),
    ],
)
@pytest.mark.parametrize("streamed", [False, True])
def test_one_clear_error(kind, fault, error, streamed):
    with kind() as fake:
        fake.faults.append(fault)
        model = model_of(fake, max_retries=0)
        with pytest.raises(error) as caught:
            model.stream("hi").reply if streamed else model("hi")
        assert caught.value.what and caught.value.given and KEY not in str(caught.value)


def test_wrong_key_is_never_shown(openai):
    with pytest.raises(failures.KeyRejected, match="OPENAI_API_KEY") as caught:
        model_of(openai, api_key="sk-wrong-but-secret")("hi")
    assert "sk-wrong" not in str(caught.value) and "[key removed]" in str(caught.value)
    assert "sk-wrong" not in repr(model_of(openai, api_key="sk-wrong-but-secret"))


def test_wrong_model_names_it(openai):
    with pytest.raises(failures.ModelNotFound, match="gpt-55"):
        Model("openai:gpt-55", base_url=openai.url, api_key=KEY)("hi")


def test_no_key_says_which_variable_to_set():
    for spec, name in (
        ("openai:gpt-5-mini", "OPENAI_API_KEY"),
        ("anthropic:claude-haiku-4-5", "ANTHROPIC_API_KEY"),
        ("groq:x", "GROQ_API_KEY"),
    ):
        with pytest.raises(failures.MissingKey, match=name):
            Model(spec)("hi")


def test_bad_input_costs_nothing(openai):
    model = model_of(openai)
    for messages in ("", [], [{"role": "human", "content": "hi"}], [{"role": "user", "content": ""}], 3):
        with pytest.raises(InputError):
            model(messages)
    for texts in ("one", [""], [1]):
        with pytest.raises(InputError):
            model.embed(texts)
    for spec in ("gpt", "", "openai:", "nobody:x", None):
        with pytest.raises(InputError):
            Model(spec)
    with pytest.raises(failures.BadRequest):
        model("hi", metadata={1, 2})
    assert openai.requests == []


def test_nobody_listening_is_said_at_once():
    start = time.monotonic()
    with pytest.raises(ConnectionError, match="Nothing answers"):
        Model("ollama:qwen3", base_url="http://127.0.0.1:9/v1")("hi")
    assert time.monotonic() - start < 1
    with pytest.raises(failures.ConnectionFailed):
        Model("ollama:qwen3", base_url="not a url")("hi")


def test_too_slow_is_a_timeout_error(openai):
    openai.faults.append(Fault(delay=5))
    with pytest.raises(TimeoutError, match="0.2 seconds"):
        model_of(openai, timeout=0.2)("hi")


# streams that break


@BOTH
@pytest.mark.parametrize("fault", [Fault(cut_after=5), Fault(break_after=5)])
def test_truncated_stream_keeps_what_arrived(kind, fault):
    with kind() as fake:
        fake.faults.append(fault)
        stream, heard = model_of(fake).stream("a longer message"), []
        with pytest.raises(failures.TruncatedStream) as caught:
            heard.extend(stream)
            for piece in stream:
                heard.append(piece)
        assert caught.value.partial.startswith("You said") and len(fake.requests) == 1  # never retried: its reader has seen the beginning


def test_silent_stream_times_out_with_what_arrived(openai):
    openai.faults.append(Fault(stall_after=3))
    with pytest.raises(failures.CallTimeout) as caught:
        list(model_of(openai, timeout=0.3).stream("a longer message"))
    assert caught.value.partial == "You said"


@BOTH
def test_error_inside_the_stream(kind):
    with kind() as fake:
        fake.faults.append(Fault(in_stream={"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}))
        with pytest.raises(failures.ServerError, match="Overloaded"):
            list(model_of(fake, max_retries=0).stream("a longer message"))


def test_stream_that_broke_before_speaking_is_retried(openai):
    openai.faults.extend([Fault(cut_after=1), Fault(drop=True)])
    assert model_of(openai).stream("hi").reply.text == "You said: hi" and len(openai.requests) == 3


def test_dropping_a_stream_stops_the_call(openai):
    openai.faults.append(Fault(stall_after=3))
    stream = model_of(openai).stream("a longer message")
    next(stream)
    task = stream._task
    del stream
    deadline = time.monotonic() + 2
    while not task.done() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert task.cancelled()


# retries


def test_waits_as_retry_after_asks(openai):
    for header in ({"Retry-After": "0.4"}, {"retry-after-ms": "400"}):
        openai.faults.append(Fault(429, headers=header))
        start = time.monotonic()
        assert model_of(openai)("hi").text
        assert 0.4 <= time.monotonic() - start < 1.5
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)
    openai.faults.append(Fault(503, headers={"Retry-After": date}))
    start = time.monotonic()
    assert model_of(openai)("hi").text and 0.9 <= time.monotonic() - start < 3.5


def test_retries_what_may_pass_and_nothing_else(openai):
    openai.faults.extend([Fault(500), Fault(drop=True), Fault(429)])
    assert model_of(openai)("hi").text and len(openai.requests) == 4
    openai.faults.append(Fault(429, code="insufficient_quota"))
    with pytest.raises(failures.QuotaExhausted, match="credit"):
        model_of(openai)("hi")
    openai.faults.append(Fault(500, headers={"x-should-retry": "false"}))
    with pytest.raises(failures.ServerError):
        model_of(openai)("hi")
    assert len(openai.requests) == 6


def test_a_wait_longer_than_the_deadline_is_not_waited(openai):
    openai.faults.append(Fault(429, headers={"Retry-After": "3600"}))
    start = time.monotonic()
    with pytest.raises(failures.RateLimited):
        model_of(openai)("hi")
    assert time.monotonic() - start < 1


def test_concurrency_adapts_to_what_the_endpoint_takes():
    with FakeOpenAI(delay=0.02) as fake:
        fake.capacity = 20
        outcomes = map_items(model_of(fake, max_retries=20, timeout=60).achat, [f"q{n}" for n in range(300)], concurrency=150)
        assert [o.error for o in outcomes if o.error] == [] and {o.value.text for o in outcomes} == {f"You said: q{n}" for n in range(300)}
        assert len(fake.requests) < 900  # without adapting it would be several thousand


def test_from_worker_processes(openai):
    model = model_of(openai)
    model("the parent has connections open")
    outcomes = map_items(lambda n: model(f"q{n}").text, range(6), how="processes", concurrency=2)
    assert [o.value or o.error for o in outcomes] == [f"You said: q{n}" for n in range(6)]


# record and replay


def test_replay_needs_no_endpoint_and_no_key(openai, tmp_path):
    path = tmp_path / "calls.jsonl"
    live = model_of(openai, replay=path)
    first = [
        live("hi").text,
        live.stream("hi").reply.text,
        live.chat("where", schema=CITY).data,
        live.chat("warm?", tools=[weather]).tool_calls,
    ]
    vectors = Model("openai:text-embedding-3-small", base_url=openai.url, api_key=KEY, replay=path).embed(["a", "bb"])
    made = len(openai.requests)
    model = Model("openai:gpt-5-mini", replay=Replay(path, "replay"))
    again = [
        model("hi").text,
        model.stream("hi").reply.text,
        model.chat("where", schema=CITY).data,
        model.chat("warm?", tools=[weather]).tool_calls,
    ]
    assert again == first and len(openai.requests) == made
    assert (Model("openai:text-embedding-3-small", replay=path).embed(["a", "bb"]) == vectors).all()
    with pytest.raises(NotFound, match="not in the recording"):
        model("something new")
    assert KEY not in path.read_text()


def test_replayed_streams_come_in_the_same_pieces(openai, tmp_path):
    pieces = list(model_of(openai, replay=tmp_path / "calls.jsonl").stream("a longer message"))
    assert list(Model("openai:gpt-5-mini", replay=tmp_path / "calls.jsonl").stream("a longer message")) == pieces and len(pieces) > 3


def test_two_processes_may_record_into_one_file(openai, tmp_path):
    code = textwrap.dedent("""
        import sys
        from llmops_nb.compute.models import Model
        model = Model("openai:gpt-5-mini", base_url=sys.argv[1], api_key="sk-loopback", replay=sys.argv[2])
        for n in range(40): model(f"{sys.argv[3]} {n}")
    """)
    runs = [subprocess.Popen([sys.executable, "-c", code, openai.url, str(tmp_path / "calls.jsonl"), name]) for name in "ab"]
    assert [r.wait(60) for r in runs] == [0, 0]
    model = Model("openai:gpt-5-mini", replay=Replay(tmp_path / "calls.jsonl", "replay"))
    assert {model(f"{name} {n}").text for name in "ab" for n in range(40)} == {f"You said: {name} {n}" for name in "ab" for n in range(40)}


def test_killed_while_recording_loses_nothing_that_was_answered(openai, tmp_path):
    code = textwrap.dedent("""
        import sys
        from llmops_nb.compute.models import Model
        model = Model("openai:gpt-5-mini", base_url=sys.argv[1], api_key="sk-loopback", replay=sys.argv[2])
        for n in range(10000): print(model(f"q {n}").text, flush=True)
    """)
    child = subprocess.Popen([sys.executable, "-c", code, openai.url, str(tmp_path / "calls.jsonl")], stdout=subprocess.PIPE, text=True)
    told = [child.stdout.readline().strip() for _ in range(30)]
    child.send_signal(signal.SIGKILL)
    child.wait()
    with open(tmp_path / "calls.jsonl", "ab") as file:
        file.write(b'{"key": "torn')
    model = Model("openai:gpt-5-mini", replay=Replay(tmp_path / "calls.jsonl", "replay"))
    assert [model(f"q {n}").text for n in range(30)] == told


# a transformers model, made here


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    folder = tmp_path_factory.mktemp("tiny")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer.train_from_iterator(
        ["the quick brown fox"],
        trainers.BpeTrainer(
            vocab_size=300, special_tokens=["<s>", "</s>"], show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
        ),
    )
    template = "{% for m in messages %}<s>{{ m.role }}: {{ m.content }}{% endfor %}<s>assistant: "
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", chat_template=template
    ).save_pretrained(folder)
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=300, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, bos_token_id=0, eos_token_id=1
        )
    ).save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_a_local_transformers_model(tiny):
    model = Model(f"hf:{tiny}", max_tokens=8)
    reply, stream = model("the quick"), model.stream("the quick")
    assert "".join(stream) == reply.text and reply.cost == 0.0 and reply.usage.output_tokens == 8 and reply.finish_reason == "length"
    assert len({o.value.text for o in map_items(model.achat, ["the quick"] * 4)}) == 1  # one at a time, whoever asks
    with pytest.raises(failures.BadRequest):
        model("hi", schema=CITY)
    with pytest.raises(failures.ModelNotFound):
        Model(f"hf:{tiny}/nothing")("hi")
    model.close()


def test_import_stays_light():
    heavy = ("aiohttp", "numpy", "torch", "openai", "genai_prices", "pandas")
    code = f"import sys, llmops_nb.compute.models; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ})
    assert out.stdout.strip() == "[]"

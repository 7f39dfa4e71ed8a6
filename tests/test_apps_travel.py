"""An application written down here answers the same in another process; a stream ends with its reader."""

import asyncio
import importlib
import json
import linecache
import time

import pandas as pd
import pytest

import llmops_nb as ops
from llmops_nb.compute.models import Model, Replay
from llmops_nb.errors import InputError, NotFound
from tests.conftest import finish, start
from tests.loopback import FakeOpenAI, Fault

KEY = "sk-loopback"
PASSAGES = pd.DataFrame(
    {
        "id": ["refunds", "parcels", "hours"],
        "text": ["Refunds reach the card within five days.", "A parcel is tracked by its number.", "The desk is open from nine to five."],
    }
)


@pytest.fixture
def kb(ws):
    return ops.index.build(PASSAGES, name="kb", embedder="lexical", store="local")


@pytest.fixture
def openai():
    with FakeOpenAI() as fake:
        yield fake


def through_json(app):
    return ops.apps.from_config(json.loads(json.dumps(app.config())))


# there and back


def test_the_same_answer_in_another_process(ws, kb):
    ops.prompts.save("short", "{{ sources[0].text }}\n\nQuestion: {{ question }}")
    app = ops.apps.RAG(kb, prompt="short", k=2, mode="lexical")
    ops.prompts.save("short", "Another text: {{ context }} {{ question }}")  # the application keeps the version it was made with
    code = """
        import json, sys, llmops_nb as ops
        ws = ops.Workspace(sys.argv[1])
        app = ops.apps.from_config(json.loads(sys.argv[2]))
        print(json.dumps([app("When is the refund on the card?").text, app.config()]))
        """
    text, config = json.loads(finish(start(code, ws.path, json.dumps(app.config()))))
    assert text == app("When is the refund on the card?").text != "" and config == app.config()
    assert config["prompt"].startswith("short@1:") and config["mode"] == "lexical" and config["k"] == 2


def test_a_plain_application_is_written_down_as_before(kb):
    prompt = ops.prompts.save("answer", "{{ context }} {{ question }}")
    config = ops.apps.RAG(kb, prompt="answer", k=3, mode="lexical").config()
    assert config == {
        "app": "RAG",
        "index": {"name": "kb", "embedder": "lexical", "fingerprint": kb.fingerprint},
        "model": "local:extractive",
        "prompt": f"answer@1:{prompt.hash}",
        "k": 3,
        "mode": "lexical",
    }


def test_a_models_settings_travel_and_its_key_does_not(kb, tmp_path):
    model = Model(
        "openai:gpt-5-mini", base_url="http://127.0.0.1:9/v1", api_key="sk-secret-secret-secret", temperature=0, timeout=7, max_retries=0
    )
    config = ops.apps.RAG(kb, model).config()
    assert "secret" not in json.dumps(config)
    again = through_json(ops.apps.RAG(kb, model)).model
    assert (again.base_url, again.params, again.timeout, again.max_retries) == ("http://127.0.0.1:9/v1", {"temperature": 0}, 7, 0)
    recorded = Model("openai:gpt-5-mini", replay=Replay(tmp_path / "calls.jsonl", mode="replay"))
    assert through_json(ops.apps.RAG(kb, recorded)).model.replay.mode == "replay"


def test_temperature_is_part_of_an_applications_identity(kb):
    warm, cold = (ops.evals.describe(ops.apps.RAG(kb, Model("openai:gpt-5-mini", temperature=t))) for t in (0, 1))
    assert warm != cold


@pytest.mark.parametrize("part", ["base_url", "header"])
def test_a_secret_in_an_address_or_parameter_is_never_written_down(kb, part):
    secrets = {"base_url": "http://me:hunter2222@127.0.0.1:9/v1", "header": {"authorization": "Bearer hunter2222abcd"}}
    config = ops.apps.RAG(kb, Model("openai:gpt-5-mini", **{part: secrets[part]})).config()
    assert "hunter" not in json.dumps(config)
    with pytest.raises(InputError, match="without a secret") as caught:
        ops.apps.from_config(config)
    assert "hunter" not in str(caught.value) and "environment variable" in str(caught.value)


def test_what_is_not_here_is_named(ws, kb):
    ops.prompts.save("answer", "{{ context }} {{ question }}")
    config = ops.apps.RAG(kb, prompt="answer").config()
    with pytest.raises(NotFound, match="No index has this name"):
        ops.apps.from_config(config | {"index": config["index"] | {"name": "other"}})
    with pytest.raises(NotFound, match="no such version"):
        ops.apps.from_config(config | {"prompt": "answer@1:" + "0" * 64})
    history = next((ws.path / "prompts" / "history" / "answer").glob("*.jinja"))
    history.write_text("Obey the customer. {{ context }} {{ question }}")
    with pytest.raises(InputError, match="changed by hand"):
        ops.apps.from_config(config)
    for wrong in ({}, {"app": "Chain"}, "RAG", None):
        with pytest.raises(InputError, match="not the config of an application"):
            ops.apps.from_config(wrong)


def test_an_index_only_its_maker_can_search_is_refused_before_anything_runs(ws):
    def embed(texts):
        return [[float(len(text)), 1.0] for text in texts]

    mine = ops.index.build(PASSAGES, name="mine", embedder=embed, store="local")
    with pytest.raises(InputError, match="a function that only your session has"):
        through_json(ops.apps.RAG(mine))


# streams


def test_a_stream_is_the_answer_in_pieces(kb):
    app = ops.apps.RAG(kb)
    stream = app.stream("When is the refund on the card?")
    assert "".join(stream) == stream.answer.text == app("When is the refund on the card?").text
    assert app.stream("When is the refund on the card?").answer.sources.id[0] == "refunds"  # without reading it first

    async def read():
        stream = app.stream("When is the refund on the card?")
        pieces = [piece async for piece in stream]
        return "".join(pieces), (await app.acall("When is the refund on the card?")).text

    assert len(set(asyncio.run(read()))) == 1


def test_a_stream_leaves_the_same_trace_as_a_call(kb):
    app = ops.apps.RAG(kb)
    app("When is the desk open?"), app.stream("When is the desk open?").answer
    called, streamed = (ops.traces.get(trace_id).spans for trace_id in ops.traces.recent(2).trace_id)
    assert list(called.kind) == list(streamed.kind) == ["app", "retrieval", "chat"] and list(called.depth) == [0, 1, 1]


class Watched(FakeOpenAI):
    "Knows whether the connection of its last request is still open."

    async def handle(self, request, answer):
        self.request = request
        return await super().handle(request, answer)

    def is_connected(self):
        return self.request.transport is not None and not self.request.transport.is_closing()


def test_a_reader_who_goes_away_ends_the_models_call(kb):
    with Watched() as fake:
        app = ops.apps.RAG(kb, Model("openai:gpt-5-mini", base_url=fake.url, api_key=KEY, max_retries=0))
        fake.faults.append(Fault(stall_after=3))  # then silent for half a minute
        stream = app.stream("When is the desk open?")
        next(stream)
        assert fake.is_connected()
        stream.close()
        deadline = time.monotonic() + 5
        while fake.is_connected() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not fake.is_connected()
    spans = ops.traces.last().spans
    assert list(spans.status[spans.kind.isin(["app", "chat"])]) == ["error", "error"] and "CancelledError" in spans.error.iloc[0]


def test_an_error_in_the_middle_comes_with_what_was_said(kb, openai):
    app = ops.apps.RAG(kb, Model("openai:gpt-5-mini", base_url=openai.url, api_key=KEY, max_retries=0))
    openai.faults.append(Fault(cut_after=4))
    stream, pieces = app.stream("When is the desk open?"), []
    with pytest.raises(ops.models.ModelError) as caught:
        for piece in stream:
            pieces.append(piece)
    assert pieces and "".join(pieces) == caught.value.partial
    assert ops.traces.last().spans.status.iloc[0] == "error"


def test_an_empty_question_is_refused_before_a_stream_begins(kb):
    with pytest.raises(InputError, match="cannot be empty"):
        ops.apps.RAG(kb).stream("  ")


def test_a_slow_index_blocks_nobody_else(kb):
    class Slow:
        def search(self, query, k=5):
            time.sleep(0.2)
            return kb.search(query, k=k)

    async def many():
        app = ops.apps.RAG(Slow())
        start = time.perf_counter()
        await asyncio.gather(*(app.acall("When is the desk open?") for _ in range(20)))
        return time.perf_counter() - start

    assert asyncio.run(many()) < 20 * 0.2 / 2


def test_a_model_of_ones_own_needs_only_chat(kb):
    class Parrot:
        spec = "mine:parrot"

        def chat(self, messages):
            return ops.models.Reply("Polly: " + messages[-10:], "parrot")

    app = ops.apps.RAG(kb, Parrot())
    assert app("When is the desk open?").text.startswith("Polly: ") and "".join(app.stream("When is the desk open?")).startswith("Polly: ")
    with pytest.raises(ops.models.ModelError, match="mine"):
        through_json(app)


# agents

SHOP = '''
def order_status(order_id: str) -> str:
    "The status of an order."
    return f"{order_id} was sent"

def reading_only(call):
    return call.name != "refund" or "not here"

def refund(order_id: str) -> str:
    "Refund an order."
    raise AssertionError("a refund was made")
'''


@pytest.fixture
def shop(tmp_path, monkeypatch):
    "A module beside the notebook."
    (tmp_path / "shop_of_this_test.py").write_text(SHOP)
    monkeypatch.syspath_prepend(tmp_path)
    return importlib.import_module("shop_of_this_test")


def test_an_agent_answers_the_same_in_another_process(ws, kb, shop, tmp_path):
    ops.prompts.save("desk", "You are a help desk.")
    tools = [shop.order_status, shop.refund, ops.apps.search_tool(kb, "manual", "Search the rules on refunds and parcels.", k=2)]
    agent = ops.apps.Agent(tools=tools, prompt="desk", approve=shop.reading_only, max_steps=4, name="desk")
    questions = ["What is the status of order #W1?", "Refund order #W1!", "What do the rules say on parcels?"]
    code = """
        import json, sys
        sys.path.insert(0, sys.argv[3])
        import llmops_nb as ops
        ws = ops.Workspace(sys.argv[1])
        config, questions = json.loads(sys.argv[2])
        app = ops.apps.from_config(config)
        print(json.dumps([[app(question).text for question in questions], app.config()]))
        """
    texts, config = json.loads(finish(start(code, ws.path, json.dumps([agent.config(), questions]), tmp_path)))
    assert texts == [agent(question).text for question in questions] and config == agent.config()
    assert texts[0] == "#W1 was sent" and "not here" in texts[1] and "tracked by its number" in texts[2]
    assert config["max_steps"] == 4 and config["approve"] == "shop_of_this_test:reading_only" and config["prompt"].startswith("desk@1:")


def test_another_function_under_the_same_name_is_another_agent(shop, tmp_path):
    before = ops.apps.Agent(tools=[shop.order_status]).config()
    (tmp_path / "shop_of_this_test.py").write_text(SHOP.replace("was sent", "was never sent"))
    linecache.clearcache()
    assert ops.apps.Agent(tools=[importlib.reload(shop).order_status]).config() != before


def test_what_cannot_be_found_again_is_refused_before_anything_runs(ws):
    def local(n: int) -> int:
        "Local."
        return n

    with pytest.raises(InputError, match="cannot be found again") as caught:
        through_json(ops.apps.Agent(tools=[local]))
    assert "a .py file beside the notebook" in str(caught.value)
    code = """
        import json, sys, llmops_nb as ops
        ws = ops.Workspace(sys.argv[1])
        try: ops.apps.from_config(json.loads(sys.argv[2]))
        except ops.errors.InputError as error: print(error)
        """
    config = ops.apps.Agent(tools=[local]).config() | {"tools": [{"function": "__main__:defined_in_a_notebook", "hash": "0"}]}
    assert "__main__:defined_in_a_notebook" in finish(start(code, ws.path, json.dumps(config)))
    hooked = ops.apps.Agent(tools=[test_a_slow_index_blocks_nobody_else], approve=lambda call: True)
    with pytest.raises(InputError, match="cannot be found again"):
        through_json(hooked)  # an agent that lost its hook would be another agent


def test_names_at_the_front_door():
    import llmops_nb.agents

    assert ops.apps.Agent is llmops_nb.agents.Agent and ops.apps.search_tool is llmops_nb.agents.search_tool
    with pytest.raises(AttributeError, match="no attribute 'Chain'"):
        ops.apps.Chain  # noqa: B018

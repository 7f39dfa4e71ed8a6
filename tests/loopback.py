"""Servers on this machine that answer as OpenAI's and Anthropic's published APIs do, and misbehave when told to.

They check the shape of what they are sent (required fields, roles, the key) and refuse it as the real ones would, so that a request that
passes here has the documented form. `fake.faults` holds what to do with the next requests; an empty list means to behave.
"""

import asyncio
import json
import threading
import time
from collections import deque
from dataclasses import dataclass, field

from aiohttp import web


@dataclass
class Fault:
    "What to do instead of answering."

    status: int = 200
    headers: dict = field(default_factory=dict)
    text: str | None = None  # a body that replaces the answer
    code: str = "server_error"
    delay: float = 0.0  # seconds before anything happens
    drop: bool = False  # close the connection without a word
    cut_after: int | None = None  # end the stream after this many events
    break_after: int | None = None  # break the connection after this many events of the stream
    stall_after: int | None = None  # go silent after this many events
    in_stream: dict | None = None  # an error event sent in the middle of the stream


class Loopback:
    "An aiohttp server in a thread of its own."

    def __init__(self, delay: float = 0.0, keys: tuple[str, ...] = ("sk-loopback",)) -> None:
        self.delay, self.keys = delay, keys
        self.faults: deque[Fault] = deque()
        self.requests: list[dict] = []
        self.headers: list[dict] = []
        self.at_once = self.most_at_once = 0
        self.capacity: int | None = None  # more than this at once are refused with 429

    def __enter__(self):
        self._loop, ready = asyncio.new_event_loop(), threading.Event()
        threading.Thread(target=self._serve, args=(ready,), daemon=True).start()
        assert ready.wait(10)
        return self

    def __exit__(self, *exception) -> None:
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)

    def _serve(self, ready: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._start())
        ready.set()
        self._loop.run_forever()

    async def _start(self) -> None:
        app = web.Application()
        app.add_routes(self.routes())
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0, backlog=1024).start()
        self.origin = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    def post(self, path: str, answer) -> web.RouteDef:
        async def handler(request: web.Request) -> web.StreamResponse:
            return await self.handle(request, answer)

        return web.post(path, handler)

    async def handle(self, request: web.Request, answer) -> web.StreamResponse:
        "Count, check the key, misbehave if told to, else answer."
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            body = await request.json()
            self.requests.append(body)
            self.headers.append(dict(request.headers))
            fault = self.faults.popleft() if self.faults else Fault()
            await asyncio.sleep(fault.delay or self.delay)
            if fault.drop:
                request.transport.close()
                return web.Response()
            if fault.text is not None:
                return web.Response(status=fault.status, headers=fault.headers, text=fault.text)
            if fault.status != 200:
                return self.refuse(fault.status, f"told to answer {fault.status}", fault.code, fault.headers)
            if self.capacity is not None and self.at_once > self.capacity:
                return self.refuse(429, "Rate limit reached", "rate_limit_exceeded", {})
            if self.key_of(request) not in self.keys:
                return self.refuse(401, f"Incorrect API key provided: {self.key_of(request)}", "invalid_api_key", {})
            return await answer(request, body, fault)
        finally:
            self.at_once -= 1

    async def send_events(self, request: web.Request, events: list[tuple[str | None, object]], fault: Fault) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for count, (name, event) in enumerate(events):
            if fault.cut_after == count:
                break
            if fault.break_after == count:
                request.transport.abort()
                return response
            if fault.stall_after == count:
                await asyncio.sleep(30)
            if fault.in_stream is not None and count == 2:
                await response.write(f"data: {json.dumps(fault.in_stream)}\n\n".encode())
                break
            data = event if isinstance(event, str) else json.dumps(event)
            await response.write((f"event: {name}\n" if name else "").encode() + f"data: {data}\n\n".encode())
            await asyncio.sleep(0)
        await response.write_eof()
        return response


class FakeOpenAI(Loopback):
    "Chat completions and embeddings as in OpenAI's API description."

    MODELS = ("gpt-5-mini", "text-embedding-3-small")

    @property
    def url(self) -> str:
        return f"{self.origin}/v1"

    def routes(self):
        return [self.post("/v1/chat/completions", self._chat), self.post("/v1/embeddings", self._embed)]

    def key_of(self, request):
        return request.headers.get("Authorization", "").removeprefix("Bearer ")

    def refuse(self, status, message, code, headers):
        kind = {401: "invalid_request_error", 429: "requests"}.get(status, "server_error" if status >= 500 else "invalid_request_error")
        return web.json_response({"error": {"message": message, "type": kind, "param": None, "code": code}}, status=status, headers=headers)

    def _wrong(self, body):
        if body.get("model") not in self.MODELS:
            return self.refuse(
                404, f"The model `{body.get('model')}` does not exist or you do not have access to it.", "model_not_found", {}
            )
        if "max_tokens" in body:
            return self.refuse(
                400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.", "unsupported_parameter", {}
            )
        for message in body["messages"]:
            if message.get("role") not in ("system", "developer", "user", "assistant", "tool"):
                return self.refuse(400, f"Invalid value: {message.get('role')!r}", "invalid_value", {})
            if message["role"] == "tool" and "tool_call_id" not in message:
                return self.refuse(400, "Missing parameter 'messages[].tool_call_id'", "missing_required_parameter", {})
        form = body.get("response_format")
        if form and form["json_schema"]["strict"] and form["json_schema"]["schema"].get("additionalProperties") is not False:
            return self.refuse(400, "'additionalProperties' is required to be supplied and to be false", "invalid_json_schema", {})
        return None

    async def _chat(self, request, body, fault):
        if wrong := self._wrong(body):
            return wrong
        asked = body["messages"][-1]["content"]
        text = '{"city": "Paris"}' if "response_format" in body else f"You said: {asked}"
        wants_tool = bool(body.get("tools")) and body["messages"][-1]["role"] == "user"
        tool = body["tools"][0]["function"]["name"] if wants_tool else ""
        calls = [{"id": "call_abc", "type": "function", "function": {"name": tool, "arguments": '{"city": "Paris"}'}}]
        usage = (
            {
                "prompt_tokens": 20,
                "completion_tokens": 7,
                "total_tokens": 27,
                "prompt_tokens_details": {"cached_tokens": 8, "audio_tokens": 0},
                "completion_tokens_details": {
                    "reasoning_tokens": 4,
                    "audio_tokens": 0,
                    "accepted_prediction_tokens": 0,
                    "rejected_prediction_tokens": 0,
                },
            }
            if not body.get("tools")
            else {"prompt_tokens": 50, "completion_tokens": 12, "total_tokens": 62}
        )
        finish = "tool_calls" if wants_tool else "stop"
        common = {"id": "chatcmpl-1", "created": int(time.time()), "model": f"{body['model']}-2025-08-07", "system_fingerprint": None}
        if not body.get("stream"):
            message = {"role": "assistant", "content": None if wants_tool else text, "refusal": None} | (
                {"tool_calls": calls} if wants_tool else {}
            )
            return web.json_response(
                common
                | {
                    "object": "chat.completion",
                    "usage": usage,
                    "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": finish}],
                }
            )
        deltas = [{"role": "assistant", "content": ""}]
        if wants_tool:
            call = calls[0]
            deltas += [
                {
                    "tool_calls": [
                        {"index": 0, "id": call["id"], "type": "function", "function": {"name": call["function"]["name"], "arguments": ""}}
                    ]
                },
                {"tool_calls": [{"index": 0, "function": {"arguments": '{"city": '}}]},
                {"tool_calls": [{"index": 0, "function": {"arguments": '"Paris"}'}}]},
            ]
        else:
            deltas += [{"content": text[i : i + 4]} for i in range(0, len(text), 4)]
        chunk = common | {"object": "chat.completion.chunk"}
        events = [(None, chunk | {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}) for delta in deltas]
        events.append((None, chunk | {"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]}))
        if (body.get("stream_options") or {}).get("include_usage"):
            events.append((None, chunk | {"choices": [], "usage": usage}))
        return await self.send_events(request, [*events, (None, "[DONE]")], fault)

    async def _embed(self, request, body, fault):
        if body.get("model") not in self.MODELS:
            return self.refuse(404, f"The model `{body.get('model')}` does not exist", "model_not_found", {})
        rows = [{"object": "embedding", "index": i, "embedding": [float(len(text)), float(i)]} for i, text in enumerate(body["input"])]
        return web.json_response(
            {"object": "list", "data": rows[::-1], "model": body["model"], "usage": {"prompt_tokens": len(rows), "total_tokens": len(rows)}}
        )


class FakeAnthropic(Loopback):
    "The Messages API as Anthropic documents it, version 2026-10-21."

    @property
    def url(self) -> str:
        return self.origin

    def routes(self):
        return [self.post("/v1/messages", self._messages)]

    def key_of(self, request):
        return request.headers.get("x-api-key") or request.headers.get("Authorization", "").removeprefix("Bearer ")  # both are accepted

    def refuse(self, status, message, code, headers):
        kind = {
            400: "invalid_request_error",
            401: "authentication_error",
            403: "permission_error",
            404: "not_found_error",
            429: "rate_limit_error",
            529: "overloaded_error",
        }.get(status, "api_error")
        return web.json_response(
            {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_1"}, status=status, headers=headers
        )

    def _wrong(self, request, body):
        if request.headers.get("anthropic-version") != "2026-10-21":
            return "anthropic-version: header is required"
        if "max_tokens" not in body:
            return "max_tokens: Field required"
        if "temperature" in body:
            return "temperature: removed in this API version"
        if any(message["role"] not in ("user", "assistant") for message in body["messages"]):
            return "messages: Unexpected role. The Messages API accepts a top-level `system` parameter"
        known: set[str] = set()
        for message in body["messages"]:
            for block in message["content"] if isinstance(message["content"], list) else ():
                if block["type"] == "tool_use":
                    known.add(block["id"])
                if block["type"] == "tool_result" and block["tool_use_id"] not in known:
                    return "unexpected `tool_use_id` found in `tool_result` blocks"
        schema = body.get("output_config", {}).get("format", {}).get("schema")
        if schema is not None and schema.get("additionalProperties") is not False:
            return "output_config.format.schema: For 'object' type, 'additionalProperties' must be explicitly set to false"
        return None

    async def _messages(self, request, body, fault):
        if wrong := self._wrong(request, body):
            return self.refuse(400, wrong, "", {})
        if body["model"] != "claude-haiku-4-5":
            return self.refuse(404, f"model: {body['model']}", "", {})
        last = body["messages"][-1]["content"]
        wants_tool = bool(body.get("tools")) and last[-1]["type"] == "text"
        said = '{"city": "Paris"}' if "output_config" in body else f"You said: {last[-1].get('text') or last[-1].get('content')}"
        block = (
            {"type": "tool_use", "id": "toolu_1", "name": body["tools"][0]["name"], "input": {"city": "Paris"}}
            if wants_tool
            else {"type": "text", "text": said}
        )
        usage = {
            "input_tokens": 12,
            "cache_read_input_tokens": 100,
            "cache_creation_input_tokens": 30,
            "output_tokens": 9,
            "output_tokens_details": {"thinking_tokens": 5},
        }
        stop = "tool_use" if wants_tool else "end_turn"
        message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-haiku-4-5-20251001", "stop_sequence": None}
        if not body.get("stream"):
            return web.json_response(message | {"content": [block], "stop_reason": stop, "usage": usage})
        start = message | {"content": [], "stop_reason": None, "usage": usage | {"output_tokens": 1, "output_tokens_details": None}}
        shreds = (
            [{"type": "input_json_delta", "partial_json": p} for p in ('{"city":', ' "Paris"}')]
            if wants_tool
            else [{"type": "text_delta", "text": said[i : i + 4]} for i in range(0, len(said), 4)]
        )
        empty = block | ({"input": {}} if wants_tool else {"text": ""})
        events = [
            {"type": "message_start", "message": start},
            {"type": "content_block_start", "index": 0, "content_block": empty},
            {"type": "ping"},
            *({"type": "content_block_delta", "index": 0, "delta": shred} for shred in shreds),
            {"type": "content_block_stop", "index": 0},
            {
                "type": "message_delta",
                "delta": {"stop_reason": stop, "stop_sequence": None},
                "usage": {"output_tokens": 9, "output_tokens_details": {"thinking_tokens": 5}},
            },
            {"type": "message_stop"},
        ]
        return await self.send_events(request, [(event["type"], event) for event in events], fault)

"""A fake of OpenAI's chat endpoint that says what a script tells it: text, tool calls, or nonsense."""

import json
import time

from aiohttp import web

from tests.loopback import FakeOpenAI


def calls(*wanted: tuple[str, object]) -> dict:
    """A turn that calls tools: (name, arguments), arguments as they are or as text."""
    made = [{"name": name, "arguments": given if isinstance(given, str) else json.dumps(given)} for name, given in wanted]
    return {"tool_calls": [{"id": f"call_{n}", "type": "function", "function": function} for n, function in enumerate(made)]}


class Scripted(FakeOpenAI):
    """Answers each request with the next turn of the script; the last one again and again. A turn may be a function of the request."""

    def __init__(self, *turns, usage: tuple[int, int] = (20, 5)) -> None:
        super().__init__()
        self.turns, self.usage, self.count = list(turns), usage, 0

    async def _chat(self, request, body, fault):
        if wrong := self._wrong(body):
            return wrong
        for message, following in zip(body["messages"], body["messages"][1:], strict=False):  # as OpenAI checks: each call has its result
            if message.get("tool_calls") and following.get("role") != "tool":
                return self.refuse(400, "'tool_calls' must be followed by tool messages", "invalid_request_error", {})
        turn = self.turns[min(self.count, len(self.turns) - 1)]
        self.count += 1
        turn = turn(body) if callable(turn) else turn
        message = {"role": "assistant", "content": turn if isinstance(turn, str) else turn.get("content")}
        message |= {} if isinstance(turn, str) else {name: turn[name] for name in ("refusal",) if name in turn}
        made = [] if isinstance(turn, str) else turn.get("tool_calls", [])
        finish = "tool_calls" if made else "stop"
        usage = {"prompt_tokens": self.usage[0], "completion_tokens": self.usage[1], "total_tokens": sum(self.usage)}
        common = {"id": "chatcmpl-1", "created": int(time.time()), "model": f"{body['model']}-2025-08-07"}
        if not body.get("stream"):
            message |= {"tool_calls": made} if made else {}
            choice = {"index": 0, "message": message, "finish_reason": finish}
            return web.json_response(common | {"object": "chat.completion", "usage": usage, "choices": [choice]})
        text = message["content"] or ""
        deltas = [{"content": text[at : at + 4]} for at in range(0, len(text), 4)]
        deltas += [{"tool_calls": [{"index": place, **call}]} for place, call in enumerate(made)]
        chunk = common | {"object": "chat.completion.chunk"}
        events = [(None, chunk | {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}) for delta in deltas]
        events += [
            (None, chunk | {"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]}),
            (None, chunk | {"choices": [], "usage": usage}),
        ]
        return await self.send_events(request, [*events, (None, "[DONE]")], fault)

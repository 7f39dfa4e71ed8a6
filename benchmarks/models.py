"""2,000 short chat calls, 200 at once, to an endpoint on this machine that takes 50 ms: how many a second, by client.

python benchmarks/models.py            # the table
python benchmarks/models.py --profile  # where our own time goes
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CALLS, AT_ONCE, SECONDS = 2000, 200, 0.05
MESSAGES = [{"role": "user", "content": "Name a French cheese."}]


def endpoint() -> None:
    "Serve chat completions until killed; runs in a process of its own and prints its port."
    from aiohttp import web

    body = json.dumps(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1,
            "model": "gpt-5-mini",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": "Comté."}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 12, "completion_tokens": 3, "total_tokens": 15},
        }
    ).encode()

    async def answer(request: web.Request) -> web.Response:
        await request.read()
        await asyncio.sleep(SECONDS)
        return web.Response(body=body, content_type="application/json")

    async def main() -> None:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
        print(runner.addresses[0][1], flush=True)
        await asyncio.Event().wait()

    asyncio.run(main())


async def gathered(call) -> float:
    "Seconds for all calls, never more than AT_ONCE under way."
    places = asyncio.Semaphore(AT_ONCE)

    async def one(n: int) -> None:
        async with places:
            await call(n)

    start = time.perf_counter()
    await asyncio.gather(*(one(n) for n in range(CALLS)))
    return time.perf_counter() - start


def bare_aiohttp(url: str) -> float:
    async def main() -> float:
        import aiohttp

        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

            async def call(n: int) -> None:
                async with session.post(f"{url}/chat/completions", json={"model": "gpt-5-mini", "messages": MESSAGES}) as response:
                    assert (await response.json())["choices"][0]["message"]["content"] == "Comté."

            await gathered(call)
            return await gathered(call)

    return asyncio.run(main())


def official_openai(url: str) -> float:
    async def main() -> float:
        import openai

        async with openai.AsyncOpenAI(base_url=url, api_key="sk-none") as client:

            async def call(n: int) -> None:
                reply = await client.chat.completions.create(model="gpt-5-mini", messages=MESSAGES)
                assert reply.choices[0].message.content == "Comté."

            return await gathered(call)

    return asyncio.run(main())


def ours(url: str) -> float:
    from llmops_nb.compute.mapping import map_items
    from llmops_nb.compute.models import Model

    model = Model("openai:gpt-5-mini", base_url=url, api_key="sk-none")
    map_items(model.achat, [MESSAGES] * AT_ONCE, concurrency=AT_ONCE)  # connections and prices are loaded
    start = time.perf_counter()
    outcomes = map_items(model.achat, [MESSAGES] * CALLS, concurrency=AT_ONCE)
    seconds = time.perf_counter() - start
    assert all(outcome.value.text == "Comté." for outcome in outcomes), next(o.error for o in outcomes if o.error)
    return seconds


def ours_traced(url: str) -> float:
    from llmops_nb.observability.tracing import flush
    from llmops_nb.storage.workspace import Workspace

    with tempfile.TemporaryDirectory() as folder, Workspace(Path(folder) / "ws") as workspace:
        seconds = ours(url)
        flush()
        stored = workspace.records.rows("SELECT count(*) AS n FROM spans")[0]["n"]
        assert stored == CALLS + AT_ONCE, stored
        return seconds


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    server = subprocess.Popen([sys.executable, __file__, "--endpoint"], stdout=subprocess.PIPE, text=True)
    try:
        url = f"http://127.0.0.1:{server.stdout.readline().strip()}/v1"
        if options.profile:
            return profile(url)
        clients = {
            "bare aiohttp": bare_aiohttp,
            "ours": ours,
            "ours, traced into a workspace": ours_traced,
            "official openai client": official_openai,
        }
        best = {name: min(client(url) for _ in range(1 if "official" in name else options.repeat)) for name, client in clients.items()}
        print(f"{CALLS:,} calls, {AT_ONCE} at once, {SECONDS * 1e3:.0f} ms each")
        print(f"{'client':32} {'seconds':>8} {'calls/s':>8} {'of bare':>8}")
        for name, seconds in best.items():
            print(f"{name:32} {seconds:8.2f} {CALLS / seconds:8,.0f} {best['bare aiohttp'] / seconds:8.2f}")
    finally:
        server.kill()


def profile(url: str) -> None:
    import cProfile
    import pstats

    from llmops_nb.compute.loop import run

    profiler = cProfile.Profile()

    async def switch(on: bool) -> None:  # the work happens on the loop's thread, so the profiler must live there
        profiler.enable() if on else profiler.disable()

    run(switch(True))
    ours_traced(url)
    run(switch(False))
    pstats.Stats(profiler).sort_stats("tottime").print_stats(35)


if __name__ == "__main__":
    endpoint() if "--endpoint" in sys.argv else main()

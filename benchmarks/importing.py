"""What `import llmops_nb` costs in a new interpreter, beside `import pandas`."""

import statistics
import subprocess
import sys

HEAVY = {"torch", "transformers", "chromadb", "altair", "pandas", "ipywidgets", "openai", "anthropic", "aiohttp", "sqlalchemy", "numpy"}


def milliseconds(statement: str) -> float:
    code = f"import time; t = time.perf_counter(); {statement}; print((time.perf_counter() - t) * 1000)"
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


if __name__ == "__main__":
    rounds = [(milliseconds("import pandas"), milliseconds("import llmops_nb")) for _ in range(7)]
    pandas, ours = (statistics.median(column) for column in zip(*rounds, strict=True))
    code = f"import sys, llmops_nb; print(sorted({HEAVY!r} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    print(f"import pandas     {pandas:7.1f} ms\nimport llmops_nb  {ours:7.1f} ms   {ours / pandas:.3f}x, heavy modules loaded: {loaded}")

"""Small programs in place of vLLM, vllm-router and what the benchmark client imports of vLLM: the driver's tests take a second
with them instead of a minute. They know what pdslurm uses and nothing else; the real ones are run in tests/integration."""

from __future__ import annotations

import textwrap
from pathlib import Path

FILES = {
    "vllm-0.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: vllm\nVersion: 0.0\n",
    "vllm/__init__.py": "",
    "vllm/utils/__init__.py": "",
    "vllm/utils/argparse_utils.py": "from argparse import ArgumentParser as FlexibleArgumentParser",
    "vllm/benchmarks/__init__.py": "",
    "vllm/benchmarks/lib/__init__.py": "",
    "vllm/benchmarks/lib/endpoint_request_func.py": """
        from dataclasses import dataclass, field
        from typing import Any
        @dataclass
        class RequestFuncInput:
            prompt: Any
            api_url: str
            prompt_len: int
            output_len: int
            model: str
            model_name: Any = None
            logprobs: Any = None
            extra_headers: Any = None
            extra_body: Any = None
            ignore_eos: bool = False
            request_id: Any = None
        @dataclass
        class RequestFuncOutput:
            generated_text: str = ""
            success: bool = False
            latency: float = 0.0
            output_tokens: int = 0
            ttft: float = 0.0
            itl: list = field(default_factory=list)
            prompt_len: int = 0
            error: str = ""
            start_time: float = 0.0
        async def async_request_openai_completions(request_func_input, session, pbar=None):
            raise NotImplementedError
        ASYNC_REQUEST_FUNCS = {"vllm": async_request_openai_completions}
        class StreamedResponseHandler:
            def __init__(self):
                self.buffer = ""
            def add_chunk(self, chunk):
                self.buffer += chunk.decode().strip()
                done, _, rest = self.buffer.partition("\\n\\n")
                if not rest and "}" not in done:
                    return []
                self.buffer = rest
                return [done]
        """,
    "vllm/benchmarks/datasets.py": """
        from dataclasses import dataclass
        from typing import Any
        @dataclass
        class SampleRequest:
            prompt: Any
            prompt_len: int
            expected_output_len: int = 0
            request_id: Any = None
        """,
    "vllm/benchmarks/serve.py": """
        import asyncio, math, os, random, statistics, sys, time
        from types import SimpleNamespace
        from vllm.benchmarks.lib.endpoint_request_func import ASYNC_REQUEST_FUNCS
        tqdm = None
        async def get_request(input_requests, request_rate, burstiness=1.0):
            for request in input_requests:
                yield request, request_rate
        def add_cli_args(parser):
            for name in ("model", "tokenizer", "tokenizer-mode", "dataset-name", "base-url", "host", "label", "behave", "backend",
                         "endpoint", "served-model-name", "percentile-metrics", "metric-percentiles"):
                parser.add_argument(f"--{name}")
            for name in ("port", "seed", "num-prompts", "random-input-len", "random-output-len", "max-concurrency",
                         "ready-check-timeout-sec"):
                parser.add_argument(f"--{name}", type=int)
            for name in ("request-rate", "burstiness", "temperature"):
                parser.add_argument(f"--{name}", type=float)
            for name in ("trust-remote-code", "ignore-eos", "save-detailed"):
                parser.add_argument(f"--{name}", action="store_true")
        def get_tokenizer(name, *, tokenizer_mode, trust_remote_code):
            return f"tokenizer of {name}"
        def get_samples(args, tokenizer):
            print("making samples", args.seed, args.behave, flush=True)
            each = args.random_output_len or 0
            return [SimpleNamespace(prompt=str(random.random()), expected_output_len=each) for _ in range(args.num_prompts)]
        def behaviour(asked, length):
            # `raise:128`: at points of 128 tokens; by option, or by the file $STAND_INS/client, which may change meanwhile
            told = os.path.join(os.environ.get("STAND_INS", ""), "client")
            if not asked and "STAND_INS" in os.environ and os.path.exists(told):
                with open(told) as file: asked = file.read().strip()
            each = [b.partition(":") for b in (asked or "").split(",")]
            return next((what for what, _, only in each if only in ("", length)), "")
        async def main_async(args):
            samples = get_samples(args, get_tokenizer(args.tokenizer or args.model, tokenizer_mode=None, trust_remote_code=False))
            length = str(args.random_input_len or 0)
            behave = behaviour(args.behave, length)
            if behave == "raise": raise ValueError("no such data set")
            if behave == "exit": sys.exit(3)
            if behave == "die": os._exit(7)
            began = time.monotonic()
            while behave == "hang" and time.monotonic() < began + 100:
                time.sleep(0.05)
                behave = behaviour(args.behave, length)
            n, out, gap = len(samples), args.random_output_len or 0, 1 / (args.request_rate or math.inf)
            bar = tqdm(total=n)
            began = time.perf_counter()
            await asyncio.sleep(0.03)
            for _ in samples: bar.update(1)
            bar.close()
            if behave == "busy":  # says so: how much of a core one gets on a machine that others use is nobody's to promise
                tqdm.ended = (tqdm.ended[0], tqdm.began[1] + 0.95 * (tqdm.ended[0] - tqdm.began[0]))
            completed = {"refused": 0, "lose": n - 1}.get(behave, n)
            e2el = 0.1 + out * (0.02 if behave == "hold-up" else 0.01)
            if "STAND_INS" in os.environ:
                with open(os.path.join(os.environ["STAND_INS"], "points"), "a") as file: file.write(".")
            wait = [(behave == "pile-up") * i * gap / 2 for i in range(n)]
            starts = [began + (i + 1) * gap + (behave == "late") + i / 1e4 for i in range(n)]
            duration = max(begin + more for begin, more in zip(starts, wait)) + e2el - began + 0.01
            tokens, noise = completed * out - (behave == "short") * n, random.random() if behave == "noisy" else 1.0
            ttfts = [0.1 * noise + more for more in wait]
            gaps = [[(e2el + more - ttft) / (out - 1)] * (out - 1) if out > 1 else [] for more, ttft in zip(wait, ttfts)]
            every = [each for some in gaps[:completed] for each in some]
            mean = lambda values: 1e3 * sum(values) / len(values) if values else 0.0
            p90 = lambda v: 1e3 * statistics.quantiles(v, n=10, method="inclusive")[8] if len(v) > 1 else mean(v)
            return {"completed": completed, "total_output_tokens": tokens, "duration": duration,
                    "request_throughput": completed / duration, "output_throughput": tokens / duration,
                    "total_token_throughput": (completed * int(length) + tokens) / duration, "mean_itl_ms": mean(every),
                    "samples": [s.prompt for s in samples], "arrivals": random.random(), "ignore_eos": args.ignore_eos,
                    "total_input_tokens": completed * int(length),
                    "ttfts": ttfts, "itls": gaps, "generated_texts": ["x"] * n,
                    "errors": ["boom" if i == 1 else "" for i in range(n)],
                    "start_times": starts, "latencies": [e2el + more for more in wait],
                    "input_lens": [int(length)] * n, "output_lens": [out] * completed + [0] * (n - completed),
                    "mean_tpot_ms": mean(every), "p90_tpot_ms": mean(every), "p90_ttft_ms": p90(ttfts[:completed]),
                    "mean_ttft_ms": mean(ttfts[:completed]), "mean_e2el_ms": mean([e2el + more for more in wait[:completed]])}
        """,
}

# What the preflight asks of an engine's environment: that vLLM is there, and NIXL's back ends. NOSUCH is unknown, CRASH crashes.
FILES |= {
    "vllm-0.0.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: vllm\nVersion: 0.0.0\n",
    "vllm/distributed/kv_transfer/kv_connector/factory.py": """
        KVConnectorFactory.register_connector(
            "NixlConnector", "vllm.distributed.kv_transfer.kv_connector.factory", "NixlConnector")
        """,
    "nixl/__init__.py": "",
    "nixl/_api.py": """
        import os
        from types import SimpleNamespace as nixl_agent_config
        class nixl_agent:
            def __init__(self, name, config):
                pass
            def get_plugin_list(self):
                return ["UCX", "CRASH"]
            def create_backend(self, name):
                if name == "CRASH": os.abort()
                if name != "UCX": raise KeyError(name)
        """,
}


def write_vllm(root: Path) -> Path:
    """Writes the packages `vllm` and `nixl` into `root`, to be put on the import path."""
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(textwrap.dedent(text))
    return root


SERVER = '''
"""A `vllm serve` or `vllm-router`: /health answers 200 after a moment, /metrics what it has been told to count, /v1/completions an
empty completion, or log-probabilities where they are asked for: drawn by a seed of all tokens before. A router that is `wrong-kv`
answers as if the first token had been another, one that is `no-logprobs` leaves them out."""
import contextlib, json, math, os, random, signal, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

def option(name, default=None):
    return sys.argv[sys.argv.index(name) + 1] if name in sys.argv else default

BEHAVE = option("--behave")
if BEHAVE == "die":
    sys.exit("ValueError: --max-num-seqs must be positive")
if BEHAVE == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
began = time.monotonic()
asked = []
# --counts: what each engine counts in a point, a point being one mark that the client leaves in $STAND_INS/points; given as one
# JSON object of Prometheus names for all engines, or as a list, of which every engine takes the next
STAND_INS = os.environ.get("STAND_INS", "")
counts = json.loads(option("--counts", "{}"))
while isinstance(counts, list):
    with contextlib.suppress(FileExistsError):
        n = len([name for name in os.listdir(STAND_INS) if name.startswith("engine-")])
        open(os.path.join(STAND_INS, f"engine-{n}"), "x").close()
        counts = counts[n % len(counts)]

def metrics():
    if not counts:
        return ""
    try:
        points = len(open(os.path.join(STAND_INS, "points")).read())
    except FileNotFoundError:
        points = 0
    text = '# TYPE vllm:cache_config_info gauge\\nvllm:cache_config_info{block_size="16",cache_dtype="auto"} 1.0\\n'
    for name, value in counts.items():
        family, _, end = name.rpartition("_")
        text += f"# TYPE {name + ' counter' if end == 'total' else family + ' summary'}\\n{name} {points * value}\\n"
    return text

def completion(body):
    if "logprobs" not in body or BEHAVE == "no-logprobs":
        return {"choices": []}
    tokens, chosen, top = list(body["prompt"]), [], []
    if BEHAVE == "wrong-kv":
        tokens[0] += 1
    for _ in range(body["max_tokens"]):
        draw = random.Random(str(tokens))
        scores = [draw.gauss(0, 1) for _ in range(50)]
        total = math.log(sum(map(math.exp, scores)))
        told = {f"token_id:{n}": score - total for n, score in enumerate(scores)}
        best = sorted(told, key=told.get, reverse=True)[:body["logprobs"]]
        forced = [f"token_id:{n}" for n in body.get("logit_bias", {})]
        chosen.append((forced or best)[0])
        tokens.append(int(chosen[-1].partition(":")[2]))
        top.append({name: told[name] for name in best})
        top[-1][chosen[-1]] = told[chosen[-1]]
    logprobs = {"tokens": chosen, "token_logprobs": [each[name] for each, name in zip(top, chosen)], "top_logprobs": top}
    return {"choices": [{"logprobs": logprobs}]}

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        ill = BEHAVE == "never-ready" or BEHAVE == "falls-ill" and asked
        if self.path != "/health":
            asked.append(self.path)
        self.answer((503 if ill else 200) if self.path == "/health" else 200, metrics() if self.path == "/metrics" else "")
    def do_POST(self):
        asked.append(self.rfile.read(int(self.headers["Content-Length"])))
        useless = BEHAVE == "useless" or BEHAVE == "useless-soon" and len(asked) > 1
        self.answer(500 if useless else 200, json.dumps(completion(json.loads(asked[-1]))))
    def answer(self, status, text):
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode())
    def log_message(self, *_):
        pass

print(option("--say", "serving"), flush=True)
ThreadingHTTPServer.request_queue_size = 128  # of 5 a busy machine resets the rest
ThreadingHTTPServer((option("--host"), int(option("--port"))), Handler).serve_forever(0.05)
'''

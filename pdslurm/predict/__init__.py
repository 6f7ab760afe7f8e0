"""Instances, links and requests in; what a client and the engines' counters would have said of them out. Standard library alone.

A discrete-event simulation of vLLM V1 behind vllm-router: `cluster.simulate` is the way in. engine.py decides the steps as vLLM's
scheduler does, and cost.py says how long a step takes.

What is not modelled:
- Clocks. A GPU at its power cap slows down: on H100 a busy prefill instance ran at 1,412 MHz instead of 1,980. A calibration
  averages over it.
- Tokens that come late. While the host launches a prompt's step or posts a transfer, it delivers the last step's tokens late by up
  to 25 ms. The mean gap between tokens is not changed by it; on H100 the p99 gap of plain instances was a third shorter than here.
- The API server and the router as queues. Each request spends the same time there, however long its prompt and however many come
  at once; no request is refused or times out.
- The overlap of memory traffic, arithmetic and collectives in a step, and CUDA graphs' padding: cost.py adds up what it knows.
- Transfers that begin while they are posted. The first block is on its way before the last one is posted; here it leaves after it.
- Experts that are loaded unevenly, and the up to 32 idle steps after the last request of ranks in lock step.
- Pipeline parallelism, speculative decoding, LoRA, sliding windows and other caches than one of full attention, multimodal input,
  KV in host memory, connectors that push, priorities, answers that end before their length.
- vllm-router's kv_aware and sticky_least_loaded policies, its retries and circuit breaker; cache_aware is approximated
  (routing.py).
"""

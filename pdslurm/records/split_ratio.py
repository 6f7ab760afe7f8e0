"""What saturated instances do in requests/s in; how many instances should prefill, out: for the driver and for the analysis."""

from __future__ import annotations

import math

SATURATED = "saturated"  # the sweep of points that show how fast an instance is at most


def decode_rate(prefill_per_s: float, together_per_s: float) -> float:
    """Requests/s that one instance decodes which does nothing else; infinite where prefill seems to take all of its time.

    `prefill_per_s`: requests/s that one saturated instance prefills; `together_per_s`: that one saturated instance answers whole.
    An instance that does both shares its time: 1/together = 1/prefill + 1/decode. Sharing is the best case for splitting: chunked
    prefill rides along with decode steps that wait for memory, so that decode alone is slower than this says."""
    return 1 / (1 / together_per_s - 1 / prefill_per_s) if together_per_s < prefill_per_s else math.inf


def best_prefill(instances: int, prefill_per_s: float, decode_per_s: float) -> int:
    """How many of `instances` should prefill so that neither side waits for the other; the rates are those of one instance.

    p prefill instances serve min(p · prefill, (instances - p) · decode) requests/s; the largest of these is taken, of two equals
    the smaller p, which leaves more memory for KV to decode. The hand-over costs nothing here, so it is a place to begin, to be
    measured with its neighbours.

    It can only grow with decode / prefill, for min(p, (instances - p) · ratio) does: so the best splits over an interval of ratios
    are all those between the best of its ends."""
    return max(range(1, instances), key=lambda p: min(p * prefill_per_s, (instances - p) * decode_per_s))


def balanced_prefill(instances: int, prefill_per_s: float, together_per_s: float) -> int:
    """best_prefill by what the saturated points of an arm without P/D show of one instance: prompts alone, and whole answers."""
    return best_prefill(instances, prefill_per_s, decode_rate(prefill_per_s, together_per_s))

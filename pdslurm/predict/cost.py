"""What an engine step computes in; how long the step takes out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Batch:
    """What one engine computes in one step. Lengths are in tokens."""

    chunks: tuple[tuple[int, int], ...] = ()  # of each prompt that is computed: new tokens, and tokens before them
    decodes: int = 0  # requests that compute one token
    decode_context: int = 0  # tokens that those attend to, themselves included, all requests together
    sampled: int = 0  # requests that get a token at the step's end
    group_tokens: int = 0  # new tokens of all ranks that step together; 0: this engine steps alone

    @property
    def tokens(self) -> int:
        return self.decodes + sum(new for new, _ in self.chunks)

    @property
    def requests(self) -> int:
        return self.decodes + len(self.chunks)


class StepCost(Protocol):
    """How long a step takes."""

    def step_s(self, batch: Batch) -> float:
        """Seconds from the step's start to its end, without the posting of transfers."""

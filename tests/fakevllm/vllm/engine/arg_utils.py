"""The arguments that a flag can set, as the real vLLM's dataclass names them."""

from dataclasses import dataclass


@dataclass
class EngineArgs:
    async_scheduling: bool | None = None
    block_size: int | None = None
    max_num_seqs: int | None = None

"""What load is put on a server: its specification, its prompts, and when its requests are due.

Everything random comes from (seed, boot token, run number), so that a run can be repeated exactly, no two boots or runs share a
prompt (a repeated prompt is answered from the prefix cache and measures nothing), and two sides of an A/B get the same work when
they are given the same token.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from perfgate.errors import InputError
from perfgate.records import Name, Record

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
SloName = Literal["ttft", "tpot", "e2el"]
Tokens = NDArray[np.int32]

_MOST_IDS = 2**24
_MOST_TOKENS = 2**30
_HEAD_TOKENS = 64
"""A prompt costs a request's head too, as much as so many tokens."""


class WorkloadSpec(Record):
    """One workload: how long, how many, and how they arrive.

    A closed loop keeps ``concurrency`` requests in flight. An open loop sends them by the clock, ``request_rate`` a second on
    average, and if it has ``max_concurrency`` it queues what is due beyond it (the waiting is in the TTFT from schedule).
    """

    name: Name
    description: str = ""
    input_len: int = Field(ge=1)
    """Prompt tokens, the shared prefix included."""
    output_len: int = Field(ge=1)
    """Tokens to generate; end-of-sequence is ignored."""
    shared_prefix_len: int = Field(default=0, ge=0)
    """Leading tokens that all prompts of a run share, as a system prompt would be."""
    concurrency: int | None = Field(default=None, ge=1)
    request_rate: Positive | None = None
    """Mean arrivals a second."""
    burstiness: Positive = 1.0
    """Shape of the gamma distribution of the gaps: 1 is Poisson, below it burstier, above it more even."""
    max_concurrency: int | None = Field(default=None, ge=1)
    num_prompts: int = Field(ge=1)
    warmups: int = Field(default=0, ge=0)
    """Requests sent and forgotten before the measured ones."""
    runs: int = Field(default=1, ge=1)
    """Runs a boot."""
    slo: dict[SloName, Positive] = {}
    """Goodput: the most milliseconds for ttft, tpot and e2el."""
    allow_preemption: bool = False
    api: Literal["completions", "chat"] = "completions"
    request_timeout_s: Positive = 600.0
    run_timeout_s: Positive = 3600.0
    steady_share: float = Field(default=0.95, gt=0, le=1)
    """The steady window begins when this share of the target concurrency is in flight."""
    margins: dict[str, Positive] = {}
    """Margins of this workload by metric, in place of the metric table's."""
    extra_body: dict[str, Any] = {"temperature": 0.0}
    """More fields of the request body."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.concurrency is None) == (self.request_rate is None):
            raise ValueError(
                "exactly one of concurrency (closed loop) and request_rate (open loop) is needed"
            )
        if self.concurrency is not None and self.max_concurrency is not None:
            raise ValueError(
                "max_concurrency belongs to request_rate; a closed loop is limited by concurrency itself"
            )
        if self.request_rate is not None and self.num_prompts / self.request_rate > self.run_timeout_s:
            raise ValueError(
                f"num_prompts {self.num_prompts} at request_rate {self.request_rate:g} a second are due within"
                f" {self.num_prompts / self.request_rate:g} s, and run_timeout_s is {self.run_timeout_s:g}"
            )
        if self.shared_prefix_len >= self.input_len:
            raise ValueError(
                f"shared_prefix_len {self.shared_prefix_len} leaves nothing of input_len {self.input_len} to differ"
            )
        reserved = sorted(set(self.extra_body) & _OURS)
        if reserved:
            raise ValueError(f"extra_body may not set {', '.join(reserved)}: perfgate sets it")
        return self

    @property
    def slots(self) -> int | None:
        """Most requests in flight at a time; None for an open loop without a cap."""
        return self.concurrency if self.concurrency is not None else self.max_concurrency


_OURS = frozenset(
    {
        "model",
        "prompt",
        "messages",
        "max_tokens",
        "max_completion_tokens",
        "stream",
        "stream_options",
        "ignore_eos",
    }
)


@dataclass(frozen=True, kw_only=True, eq=False)
class PromptSet:
    """The prompts of one run as token ids.

    Args:
        measured: shape (num_prompts, input_len).
        warmup: shape (warmups, input_len); no row is a measured one.
    """

    measured: Tokens
    warmup: Tokens


def make_prompts(
    spec: WorkloadSpec,
    *,
    seed: int,
    boot: str,
    run: int,
    vocab_size: int,
    first_id: int = 0,
    excluded: Sequence[int] = (),
) -> PromptSet:
    """Draws the prompts of one run; the same arguments give the same prompts.

    Args:
        spec: lengths and numbers.
        seed: the workload's seed.
        boot: token of the boot; another token gives other prompts, both sides of an A/B pass the same one.
        run: number of the run on that boot.
        vocab_size: ids are drawn below this.
        first_id: ids are drawn from this on.
        excluded: special ids, never drawn.

    Raises:
        InputError: fewer than two ids to draw from, ids that no vocabulary has, not enough of them for that many different prompts, or
            more prompts than fit in memory.
    """
    if first_id < 0 or vocab_size > _MOST_IDS:
        raise InputError(
            f"workload {spec.name!r}: token ids from {first_id} to below {vocab_size}",
            remedy=f"Ids begin at 0, and no vocabulary has more than {_MOST_IDS}.",
        )
    if (spec.num_prompts + spec.warmups) * (spec.input_len + _HEAD_TOKENS) > _MOST_TOKENS:
        raise InputError(
            f"workload {spec.name!r}: {spec.num_prompts + spec.warmups} prompts of {spec.input_len} tokens do not fit in memory",
            remedy="Lower num_prompts or input_len: a run's requests are made before it begins.",
        )
    ids = np.setdiff1d(np.arange(first_id, vocab_size, dtype=np.int32), np.asarray(excluded, dtype=np.int32))
    if len(ids) < 2:
        raise InputError(
            f"workload {spec.name!r}: {len(ids)} token ids to draw prompts from"
            f" (from {first_id} to below {vocab_size}, {len(excluded)} excluded)",
            remedy="Give the model's vocabulary size, and exclude its special tokens only.",
        )
    count, own = spec.num_prompts + spec.warmups, spec.input_len - spec.shared_prefix_len
    if own * np.log(len(ids)) < np.log(count):
        raise InputError(
            f"workload {spec.name!r}: {count} different prompts cannot be made of {own} tokens out of {len(ids)}",
            remedy="Raise input_len, or ask for fewer prompts.",
        )
    random = generator(seed=seed, boot=boot, run=run, purpose="prompts")
    prompts = ids[random.integers(len(ids), size=(count, spec.input_len))]
    prompts[:, : spec.shared_prefix_len] = prompts[0, : spec.shared_prefix_len]
    _make_distinct(prompts, ids, random, first=spec.shared_prefix_len)
    return PromptSet(measured=prompts[spec.warmups :], warmup=prompts[: spec.warmups])


def arrivals(spec: WorkloadSpec, *, seed: int) -> NDArray[np.float64]:
    """When each request of an open loop is due, in seconds from the run's beginning. Shape (num_prompts,).

    Gaps are Gamma(burstiness, 1/(rate · burstiness)), then scaled so that the last request is due at num_prompts/rate exactly, as
    ``vllm bench serve`` does it: the offered rate is the one asked for, whatever the seed.

    Raises:
        InputError: the workload is a closed loop.
    """
    if spec.request_rate is None:
        raise InputError(f"workload {spec.name!r} is a closed loop: its requests have no schedule")
    random = generator(seed=seed, boot="", run=0, purpose="arrivals")
    gaps = random.gamma(spec.burstiness, 1.0 / (spec.request_rate * spec.burstiness), size=spec.num_prompts)
    due = np.cumsum(gaps)
    if due[-1] <= 0:  # an extremely small burstiness underflows: every gap is zero
        return np.zeros(spec.num_prompts)
    scaled: NDArray[np.float64] = due * (spec.num_prompts / spec.request_rate / due[-1])
    return scaled


def generator(*, seed: int, boot: str, run: int, purpose: str) -> np.random.Generator:
    """The random numbers of one purpose in one run."""
    token = hashlib.sha256(f"{purpose}\0{boot}".encode()).digest()
    words = np.frombuffer(token, dtype=np.uint32).tolist()
    return np.random.default_rng([abs(seed), int(seed < 0), run, *words])


def words(tokens: Tokens) -> str:
    """Plain English words for token ids, one a token: what a chat request carries, where a prompt must be text.

    Most tokenizers have each of these words as one token, so the length is about right; the server's usage says what it was.
    """
    return " ".join(_WORDS[int(token) % len(_WORDS)] for token in tokens)


def as_plain(spec: WorkloadSpec) -> Mapping[str, Any]:
    """The specification as JSON-ready data, as a measurement stores it."""
    data: dict[str, Any] = spec.model_dump(mode="json")
    return data


def _make_distinct(prompts: Tokens, ids: Tokens, random: np.random.Generator, *, first: int) -> None:
    """Draws again whatever came twice; only with very short prompts is there anything to do."""
    while True:
        _, keep = np.unique(prompts, axis=0, return_index=True)
        if len(keep) == len(prompts):
            return
        again = np.setdiff1d(np.arange(len(prompts)), keep)
        width = prompts.shape[1] - first
        prompts[again, first:] = ids[random.integers(len(ids), size=(len(again), width))]


_TEXT = (
    "about after again air all also always an and another any are around as ask at away back be because been before below"
    " best big both boy but by call came can change city close cold come could country cut day did different do does done"
    " door down each earth eat end even every example eye face far father few find first follow food for form found four from"
    " get girl give go good got great group grow had hand hard has have he head hear help her here high him his home hot hour"
    " house how idea if important in into is it its just keep kind know land large last late learn left less let letter life"
    " light like line list little live long look love low made make man many may me mean men might mind money more morning most"
    " mother move much must my name near need never new next night no north not now number of off often old on once one only"
    " open or order other our out over own page paper part people place plan plant play point power put question quick rain read"
    " real red rest right river room run said same saw say school sea second see seem set she ship short should show side small"
    " so some soon sound south space stand start state still stop story street such sun sure table take talk tell ten than that"
    " the them then there these they thing think this those thought three through time to today together told too took top town"
    " travel tree true try turn two under until up upon us use very voice walk want war warm was watch water way we week well"
    " went were west what when where which while white who why will wind wish with without woman word work world would year yes"
    " yet you young your"
)
_WORDS = tuple(_TEXT.split())

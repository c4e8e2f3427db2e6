"""Batch sizes from a server's histogram: decode and prefill are placed apart."""

import pytest

from perfgate.iterations import HISTOGRAM, Decoding, bucket_name, iterations

EDGES = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)


def counted(*steps: tuple[int, int]) -> dict[str, float]:
    """The counters of a server that made these steps: tokens, and how often."""
    found = {bucket_name(f"{edge}.0"): float(sum(n for size, n in steps if size <= edge)) for edge in EDGES}
    found[bucket_name("+Inf")] = float(sum(n for _, n in steps))
    found[f"{HISTOGRAM}_sum"] = float(sum(size * n for size, n in steps))
    return found


@pytest.mark.parametrize(("input_len", "beside"), [(512, False), (512, True), (2048, True), (8192, True)])
@pytest.mark.parametrize("streams", [1, 2, 4, 9, 16, 24, 32])
def test_full_decode_steps_have_as_many_tokens_as_there_are_streams(streams, input_len, beside):
    """All prompts together or each beside decoding streams: full decode steps come out exactly, prefills within 1%."""
    requests, output_len = 8 * streams, 512
    prefill = input_len + 1 + streams - 1 if beside else streams * (input_len + 1)
    prefills = requests if beside else 8
    decodes = (requests * (output_len - 1) - prefills * (streams - 1) * beside) // streams
    found = iterations(
        [counted((prefill, prefills), (streams, decodes))],
        Decoding(streams=streams, tokens=float(requests * (output_len - 1)), requests=requests),
    )
    assert found.fits
    small, large = found.sizes
    assert (small.tokens, small.steps, small.decode) == (streams, decodes, True)
    assert (large.tokens, large.steps, large.decode) == (pytest.approx(prefill, rel=0.01), prefills, False)


@pytest.mark.parametrize("streams", [2, 4, 16, 32])
def test_waves_whose_prompts_come_one_by_one_are_placed_within_a_thirtieth(streams):
    """Of a wave the first prompt is prefilled alone and the last one beside all others; decode steps are as full as the streams."""
    waves, output_len = 8, 512
    prefills = [(2049 + others, waves) for others in range(streams)]
    decoded = streams * (output_len - 1) - sum(range(streams))
    steps = decoded // streams
    found = iterations(
        [counted(*prefills, (streams, waves * steps))],
        Decoding(streams=streams, tokens=float(waves * streams * (output_len - 1)), requests=waves * streams),
    )
    assert found.fits
    assert found.sizes[0].tokens == pytest.approx(streams, rel=1 / 30)


def test_four_streams_on_a_real_cpu_server():
    """24 requests of 32 tokens at four streams, counted by vLLM 0.32.0: 186 decode steps of 4, and prefills that have the rest."""
    cumulative = {"1.0": 0, "8.0": 186, "64.0": 186, "128.0": 192, "256.0": 192, "512.0": 198, "+Inf": 198}
    page = {bucket_name(edge): float(steps) for edge, steps in cumulative.items()}
    found = iterations(
        [{**page, f"{HISTOGRAM}_sum": 3072.0}], Decoding(streams=4, tokens=24 * 31.0, requests=24)
    )
    assert found.fits
    assert [(one.tokens, one.steps, one.decode) for one in found.sizes] == [
        (4, 186, True),
        (79, 6, False),
        (311, 6, False),
    ]


def test_decode_steps_that_are_not_full_have_the_mean_that_the_tokens_leave():
    """1,000 steps of 4 tokens and 500 of 6 under eight streams are 1,500 steps in one bucket: 4.7 tokens each, shown as 5."""
    found = iterations(
        [counted((4, 1000), (6, 500), (4097, 20))],
        Decoding(streams=8, tokens=4 * 1000 + 6 * 500, requests=160),
    )
    assert found.fits
    assert [(one.tokens, one.steps) for one in found.sizes if one.decode] == [(5, 1500)]


def test_drafts_are_computed_although_the_histogram_counts_only_what_is_accepted():
    """Sixteen streams with three drafts of which half are taken generate 40 tokens a step and compute 64; one with one, 1.6 and 2."""
    sixteen = Decoding(streams=16, tokens=40 * 600.0, requests=256, computed=4.0, gained=2.5)
    found = iterations([counted((36, 300), (44, 300), (8193, 16))], sixteen)
    assert found.fits
    assert [(one.tokens, one.steps, one.decode) for one in found.sizes] == [
        (64, 600, True),
        (pytest.approx(8193, rel=0.02), 16, False),
    ]
    one = Decoding(streams=1, tokens=1.6 * 1000, requests=5, computed=2.0, gained=1.6)
    assert [
        (size.tokens, size.steps) for size in iterations([counted((1, 400), (2, 600), (513, 5))], one).sizes
    ] == [(2, 1000), (513, 5)]


@pytest.mark.parametrize(
    "decoding",
    [Decoding(streams=4, tokens=16_000.0, requests=32), Decoding(streams=4, tokens=500.0, requests=32)],
)
def test_tokens_that_the_steps_cannot_have_generated_do_not_fit(decoding):
    """2,040 steps of at most four tokens generate neither 16,000 nor 500, and the sizes stay inside their buckets all the same."""
    found = iterations([counted((8192, 32), (4, 2040))], decoding)
    assert not found.fits
    assert all(one.lower <= one.tokens <= one.upper for one in found.sizes)


def test_without_knowing_the_streams_no_step_is_called_decode():
    """A page alone gives sizes whose sum fits, and says of none that it was a decode step."""
    found = iterations([counted((8192, 32), (4, 2040))])
    assert found.fits
    assert not any(one.decode for one in found.sizes)

"""The search for what is at fault: its model, its choices, its endings."""

import itertools
import math

import numpy as np
import pytest

from perfgate.statistics.attribution import Search
from perfgate.statistics.attribution_evidence import Direct, Response, SearchPolicy
from perfgate.statistics.attribution_findings import Ended
from perfgate.statistics.attribution_forecast import forecast, smallest_effect
from perfgate.statistics.attribution_model import MOST_UNITS, Spread, believe, design, explanations
from perfgate.statistics.attribution_simulation import (
    MOST_REPLICATES,
    World,
    full_factorial,
    level,
    one_at_a_time,
    replicates_needed,
    search_once,
)
from perfgate.statistics.attribution_units import Boot, Units
from perfgate.statistics.interval import Prior, compare

TTFT, SPEED = ("cell", "mean_ttft_ms"), ("cell", "output_throughput")
SPREAD = Spread(df=20.0, variance=1e-4, effect=0.1)


def responses(*keys, sigma=0.01, tolerance=0.02):
    return [
        Response(
            key=key,
            tolerance=tolerance,
            margin=0.05,
            prior=None if sigma is None else Prior(df=20.0, variance=sigma**2),
        )
        for key in keys or (TTFT,)
    ]


def carry_out(search, truth, *, noise=0.01, seed=0, needs=()):
    """Boots what the search asks for; ``truth`` is bits → log slowdown by metric, ``needs`` pairs (item, what it needs to boot)."""
    rng = np.random.default_rng(seed)
    while (chosen := search.next()) is not None:
        if any(item in chosen and other not in chosen for item, other in needs):
            search.add(Boot(applied=chosen, failed=True))
            continue
        bits = sum(1 << item for item in chosen)
        values = {key: level(terms, bits) + noise * rng.standard_normal() for key, terms in truth.items()}
        search.add(Boot(applied=chosen, values=values))
    return search.findings()


@pytest.mark.parametrize("units", [1, 2, 5, 8, MOST_UNITS])
def test_explanations_are_distinct_and_share_one_prior(units):
    """No explanation is listed twice, the prior sums to one, and no unit is preferred."""
    space = explanations(units)
    terms = [frozenset(row[row > 2]) for row in space.columns]
    assert len(set(terms)) == len(terms)
    assert np.exp(space.log_prior).sum() == pytest.approx(1.0)
    assert np.ptp(space.prior_inclusion) < 1e-12


def test_probabilities_agree_with_the_marginal_likelihood_of_a_multivariate_t():
    """The weights are those of scipy's multivariate t density of the data under each explanation."""
    from scipy import stats

    space = explanations(2)
    subsets, times = [0, 3, 1, 2, 3, 0], np.arange(6) / 10
    y = np.asarray([0.0, 0.11, 0.1, 0.01, 0.09, 0.0])
    belief = believe(space, subsets, y, times, SPREAD)
    columns = design(space, subsets, times - times.mean())
    prior = np.full(columns.shape[1], SPREAD.effect**2)
    prior[1], prior[2] = 1.0, SPREAD.trend**2
    logs = []
    for row in space.columns:
        used = row[row > 0]
        shape = SPREAD.variance * np.eye(6) + (columns[:, used] * prior[used]) @ columns[:, used].T
        logs.append(stats.multivariate_t(shape=shape, df=SPREAD.df).logpdf(y - y.mean()))
    wanted = np.exp(np.asarray(logs) + space.log_prior)
    assert belief.weights == pytest.approx(wanted / wanted.sum(), rel=1e-6)


def test_a_boot_that_something_else_slowed_is_pulled_in():
    """One boot of twenty that comes out 40% slower doubles the noise and hides the guilty setting; pulled in it does neither."""
    rng = np.random.default_rng(3)
    subsets = [0, 7] * 4 + [1, 6, 2, 5, 4, 3] * 2
    values = [0.03 * (subset & 1) + 0.01 * rng.standard_normal() for subset in subsets]
    values[9] += 0.4
    times = [number / 10 for number in range(20)]
    found = {
        reach: believe(explanations(3), subsets, values, times, SPREAD, reach=reach)
        for reach in (math.inf, 0.025)
    }
    noise = {reach: math.sqrt(belief.variance[belief.best(1)]) for reach, belief in found.items()}
    assert noise[math.inf] > 0.05 > 0.015 > noise[0.025]
    assert found[math.inf].involved[0] < 0.9
    assert found[0.025].involved[0] > 0.99
    assert found[0.025].slower(7, 0, 0.0)[0] == pytest.approx(0.03, abs=0.015)


def test_the_first_boot_of_a_search_halves_the_settings():
    """With a large effect the most telling subset has half of eight settings, and is worth one bit."""
    space = explanations(8)
    belief = believe(space, [0, 255] * 5, [0.0, 0.1] * 5, np.arange(10) / 10, SPREAD)
    gain = belief.gain(range(256), 1.0)
    assert int(np.argmax(gain)).bit_count() in (3, 4, 5)
    assert 0.55 < gain.max() <= math.log(2) + 0.05
    assert gain[0] == pytest.approx(0.0, abs=1e-3)
    assert gain[255] == pytest.approx(0.0, abs=1e-3)


def test_a_boot_without_data_is_refused():
    """Nothing is believed about no boots, nor about values that are not finite."""
    for values in ([], [math.nan]):
        with pytest.raises(ValueError, match="finite"):
            believe(explanations(2), [0] * len(values), values, [0.0] * len(values), SPREAD)


@pytest.mark.parametrize("guilty", [(0,), (4,), (1, 3), (0, 2, 4)])
def test_names_exactly_what_slows(guilty):
    """One, two or three of five settings that slow by a tenth are named, and no other, with few boots."""
    search = Search(5, responses())
    found = carry_out(search, {TTFT: {1 << item: math.log(1.1) for item in guilty}})
    assert found.ended is Ended.EXPLAINED
    assert found.responsible == guilty
    assert found.boots - 2 * search.pairs <= 4 + 4 * len(guilty)
    (answer,) = found.answers
    for item in guilty:
        effect = answer.parts[item].effect
        assert effect.lower < 0.1 < effect.upper
    assert sum(answer.parts[item].share for item in guilty) == pytest.approx(1.0, abs=0.15)


def test_ends_with_the_two_boots_that_need_no_model():
    """What is named has been booted alone, and everything but it as well."""
    search = Search(5, responses())
    carry_out(search, {TTFT: {1 << 2: math.log(1.1)}})
    applied = {boot.applied for boot in search.boots}
    assert {frozenset({2}), frozenset({0, 1, 3, 4})} <= applied


@pytest.mark.parametrize("seed", range(4))
def test_under_noise_the_last_boots_speak_for_themselves(seed):
    """Where one boot says little, what is named and everything but it are booted until they agree with their end, or as often as it."""
    search = Search(4, responses(sigma=0.03))
    found = carry_out(search, {TTFT: {1: math.log(1.1)}}, noise=0.03, seed=seed)
    assert found.responsible == (0,)
    values = {
        applied: [boot.values[TTFT] for boot in search.boots if boot.applied == applied]
        for applied in (frozenset(), frozenset({0}), frozenset({1, 2, 3}), frozenset(range(4)))
    }
    nothing, alone, others, everything = values.values()
    small = math.sqrt(math.log1p(0.02) * math.log1p(0.05))
    for fast, slow in ((alone, everything), (nothing, others)):
        left = compare(fast, slow, prior=Prior(df=20.0, variance=9e-4), winsor_width=2.5)
        assert left.p_less(small) <= 0.1 or min(len(fast), len(slow)) >= search.pairs


def test_no_total_effect_names_nothing_and_boots_only_the_ends():
    """Where everything applied is no slower than nothing, the search is over after both ends."""
    search = Search(5, responses())
    found = carry_out(search, {TTFT: {}})
    assert found.ended is Ended.NO_EFFECT
    assert (found.responsible, found.boots) == ((), 2 * search.pairs)


def test_a_total_that_does_not_last_ends_without_a_name():
    """Both ends that differed by chance are outvoted by the boots that follow."""
    search = Search(4, responses(), confirmed=True, pairs=2)
    for applied, value in ((frozenset(), 0.0), (frozenset(range(4)), 0.035)) * 2:
        search.add(Boot(applied=applied, values={TTFT: value}))
    found = carry_out(search, {TTFT: {}}, noise=0.002)
    assert found.responsible == ()
    assert found.ended is Ended.NO_EFFECT


def test_two_that_act_only_together_are_named_together():
    """A pair that slows only when both are applied is named as a pair, each alone near nothing."""
    found = carry_out(Search(5, responses()), {TTFT: {0b01010: math.log(1.1)}})
    assert found.responsible == (1, 3)
    (pair,) = [part for part in found.answers[0].parts if len(part.units) == 2]
    assert pair.units == (1, 3)
    assert pair.effect.lower < 0.1 < pair.effect.upper
    assert abs(found.answers[0].parts[1].effect.estimate) < 0.03


def test_a_setting_that_makes_it_faster_is_no_culprit():
    """Of a slowdown by a fifth beside a speed-up the first is named, with all of its effect; the other has a negative share."""
    found = carry_out(Search(5, responses()), {TTFT: {1 << 1: math.log(1.2), 1 << 3: -math.log(1.1)}})
    assert found.ended is Ended.EXPLAINED
    assert found.responsible == (1,)
    (answer,) = found.answers
    assert answer.parts[1].effect.lower < 0.2 < answer.parts[1].effect.upper
    assert answer.parts[1].share > 1.5
    assert answer.parts[3].effect.upper < 0
    assert not answer.parts[3].named


def test_more_culprits_than_an_explanation_has_leave_the_others_unknown():
    """Of ten settings four slow; of the other six it is said that nothing is known of their effects, not that they have none."""
    found = carry_out(Search(10, responses()), {TTFT: {1 << item: math.log(1.2) for item in range(4)}})
    assert found.responsible == (0, 1, 2, 3)
    assert all(part.effect.upper == math.inf for part in found.answers[0].parts[4:])


def test_each_metric_has_its_own_answer_from_the_same_boots():
    """Two metrics slowed by different settings get different names, and a metric that is not slower gets none."""
    truth = {TTFT: {1: math.log(1.3)}, SPEED: {8: math.log(1.1)}, ("cell", "tpot"): {}}
    found = carry_out(Search(4, responses(*truth)), truth)
    assert found.responsible == (0, 3)
    assert [answer.named for answer in found.answers] == [(0,), (3,), ()]
    assert [answer.confirmed for answer in found.answers] == [True, True, False]


def test_without_a_noise_model_the_ends_tell_the_noise():
    """A threefold slowdown is traced with three pairs and no prior, at a noise of fifteen per cent."""
    search = Search(5, responses(sigma=None), confirmed=True, pairs=3)
    rng = np.random.default_rng(1)
    for applied in (frozenset(), frozenset(range(5))) * 3:
        value = (math.log(3) if applied else 0.0) + 0.15 * rng.standard_normal()
        search.add(Boot(applied=applied, values={TTFT: value}))
    found = carry_out(search, {TTFT: {2: math.log(3)}}, noise=0.15)
    assert found.responsible == (1,)
    assert found.boots <= 20


def test_settings_of_a_group_are_never_parted():
    """Given groups are applied as one and named as one."""
    search = Search(5, responses(), groups=[(1, 3)])
    found = carry_out(search, {TTFT: {1 << 3: math.log(1.1)}})
    assert all(len({1, 3} & boot.applied) in (0, 2) for boot in search.boots)
    assert [found.units[unit] for unit in found.responsible] == [(1, 3)]


@pytest.mark.parametrize("needs", [[(0, 4)], [(2, 1)], [(0, 4), (4, 0)]])
def test_settings_that_do_not_boot_apart_are_merged(needs):
    """After failed boots the two that need each other are one unit, which is said, and the culprit is still named."""
    search = Search(5, responses())
    found = carry_out(search, {TTFT: {1 << 4: math.log(1.2)}}, needs=needs)
    assert found.ended is Ended.EXPLAINED
    assert 4 in {item for unit in found.responsible for item in found.units[unit]}
    assert found.failed <= 6
    assert all(set(unit) <= {item for pair in needs for item in pair} for unit in found.merged)


def test_many_settings_are_bundled_and_the_guilty_bundle_opened():
    """Of twenty-four settings one is found through its bundle."""
    search = Search(24, responses())
    found = carry_out(search, {TTFT: {1 << 17: math.log(1.1)}})
    assert [found.units[unit] for unit in found.responsible] == [(17,)]
    assert found.boots - 2 * search.pairs <= 20


def test_out_of_boots_says_what_is_undecided():
    """A search cut off early names nothing without evidence and lists what is still possible."""
    search = Search(5, responses(sigma=0.03), policy=SearchPolicy(most_boots=1))
    found = carry_out(search, {TTFT: {1: math.log(1.1)}}, noise=0.03)
    assert found.ended is Ended.BUDGET
    assert 0 in (*found.responsible, *found.undecided)


@pytest.mark.parametrize(
    ("items", "groups"), [(0, ()), (3, [(0, 1), (1, 2)]), (2, [(0, 5)])], ids=["none", "twice", "unknown"]
)
def test_impossible_units_are_refused(items, groups):
    """No item, an item in two groups and an unknown item are errors."""
    with pytest.raises(ValueError, match="at least one item"):
        Search(items, responses(), groups=groups)


def test_a_search_without_metric_is_refused():
    """There must be something to explain."""
    with pytest.raises(ValueError, match="at least one metric"):
        Search(2, [])


def test_every_failure_is_explained_by_a_pair_that_no_success_rules_out():
    """A subset that fails twice puts suspicion on pairs from inside to outside, less those that a good boot parted; once is chance."""
    units = Units.of(3, (), most=MOST_UNITS)
    boots = [
        Boot(applied=frozenset(), values={TTFT: 0.0}),
        Boot(applied=frozenset({0, 1, 2}), values={TTFT: 0.0}),
        Boot(applied=frozenset({0, 1}), values={TTFT: 0.0}),
        Boot(applied=frozenset({0}), failed=True),
    ]
    assert units.after_failures(boots).units == ((0,), (1,), (2,))
    boots.append(boots[-1])
    # 0 without 2 came up, so 0 needs 1.
    assert units.may_boot([0b001, 0b101, 0b010], boots) == [0.0, 0.0, 1.0]
    assert units.after_failures(boots).units == ((0, 1), (2,))


@pytest.mark.parametrize("level", [0.0, 5.4])
def test_the_forecast_is_what_such_a_search_takes(level):
    """The planned boots are near those of searches with one culprit, whatever the metric's unit, and the search is left as it was."""
    search = Search(5, responses(), confirmed=True, pairs=5)
    for applied in (frozenset(), frozenset(range(5))) * 5:
        search.add(Boot(applied=applied, values={TTFT: level + (math.log(1.1) if applied else 0.0)}))
    expected = forecast(search, 5, np.random.default_rng(3))
    assert len(search.boots) == 10
    assert 3 <= expected <= 9
    assert 0.02 <= smallest_effect(search, search.responses[0], expected) < 0.05


def searched(items, truth, *, sigma=0.02, seed=0):
    """The findings of a search in which a boot's slowdown, log units, is the truth of what is applied and noise."""
    rng = np.random.default_rng(seed)
    search = Search(items, responses(sigma=sigma))
    while (chosen := search.next()) is not None:
        search.add(Boot(applied=chosen, values={TTFT: truth(chosen) + sigma * rng.standard_normal()}))
    return search.findings()


TENTH = math.log1p(0.1)


@pytest.mark.parametrize(
    ("items", "guilty"),
    [(9, {0, 1, 2, 3, 4}), (12, {0, 3, 5, 7, 8, 11}), (20, {2, 3, 9, 10, 17}), (40, {0, 13, 39})],
)
def test_many_at_fault_among_many_are_all_found(items, guilty):
    """More settings than are told apart at once are bundled, and bundled anew, until each that is at fault is named alone."""
    found = searched(items, lambda chosen: TENTH * len(chosen & guilty))
    named = {item for unit in found.responsible for item in found.units[unit]}
    assert (found.ended, named) == (Ended.EXPLAINED, guilty)
    assert all(len(found.units[unit]) == 1 for unit in found.responsible)


@pytest.mark.parametrize(
    ("truth", "right"),
    [
        (lambda c: math.log(1.6) * (0 in c) - math.log(1.6 / 1.08) * (1 in c), {(0,)}),
        (lambda c: math.log(1.3) * bool(c & {0, 1, 2}), {(0, 1, 2)}),
        (lambda c: math.log(1.2) * ((0 in c and 1 not in c) + (2 in c)), {(2,)}),
    ],
    ids=["two that nearly cancel", "each of three is enough", "one acts only while another is off"],
)
def test_nothing_is_named_that_the_rest_explains(truth, right):
    """What is named is the smallest set: the boots themselves show each of it to be needed, also where the model fits badly."""
    named = [searched(5, truth, sigma=0.01, seed=seed).responsible for seed in range(20)]
    assert sum(one in right for one in named) >= 18, named


def test_boots_that_contradict_the_model_leave_it_undecided():
    """Where everything but what is named stays slow in as many boots as an end has, nothing is called explained."""
    search = Search(3, responses(), confirmed=True, pairs=3)
    everything, rest = frozenset({0, 1, 2}), frozenset({1, 2})
    for applied, value in ((frozenset(), 0.0), (everything, 0.3), (frozenset({0}), 0.3), (rest, 0.1)) * 3:
        search.add(Boot(applied=applied, values={TTFT: value}))
    evidence = search.evidence
    assert evidence.enough(search.responses[0], 0b001, doubt=0.1) is Direct.SHOWN
    assert evidence.needed(search.responses[0], 0b001, doubt=0.1) is Direct.REFUTED
    assert search.findings().ended is not Ended.EXPLAINED


@pytest.mark.parametrize("items", [2, 3, 5])
def test_one_boot_that_fails_by_chance_is_repeated(items):
    """A machine may fail once: no two settings are called inseparable for it, and the one at fault is named alone."""
    search = Search(items, responses(), confirmed=True, pairs=3)
    for applied in (frozenset(), frozenset(range(items))) * 3:
        search.add(Boot(applied=applied, values={TTFT: 0.5 * bool(applied)}))
    first = search.next()
    search.add(Boot(applied=first, failed=True))
    assert search.next() == first
    while (chosen := search.next()) is not None:
        search.add(Boot(applied=chosen, values={TTFT: 0.5 * (0 in chosen)}))
    found = search.findings()
    assert (found.merged, found.responsible, found.failed) == ((), (0,), 1)


def test_an_end_that_never_boots_ends_the_search():
    """Nothing is booted for ever: an end that failed more often than it is to be booted leaves the search undecided."""
    search = Search(2, responses(), confirmed=False, pairs=3)
    while (chosen := search.next()) is not None:
        search.add(Boot(applied=chosen, values={} if chosen else {TTFT: 0.0}, failed=bool(chosen)))
    assert len(search.boots) < 12
    assert search.findings().ended is Ended.BUDGET


def test_both_ends_are_booted_by_turns():
    """A B B A, whichever end is there first, so that a machine that changes on the way touches both alike."""
    everything = frozenset({0, 1})
    for first in (frozenset[int](), everything):
        search = Search(2, responses(sigma=0.01), pairs=3)
        search.add(Boot(applied=first, values={TTFT: 0.0}))
        order = [first == everything]
        while len(order) < 6:
            chosen = search.next()
            order.append(chosen == everything)
            search.add(Boot(applied=chosen, values={TTFT: 0.1 * bool(chosen)}))
        a, b = order[0], not order[0]
        assert order == [a, b, b, a, a, b]


@pytest.mark.parametrize("number", [7, 39, 61, 84, 162])
def test_no_name_rests_on_one_boot(number):
    """In machines where one slow boot would put the blame on an innocent setting that boot is repeated, and the right two are named."""
    world = World(settings=5, sigma=0.01, kind="two", size=0.10, outlier_share=0.03)
    assert search_once(world, np.random.default_rng((13, number))).right


@pytest.mark.parametrize("kind", ["none", "one", "two", "only together"])
def test_simulated_searches_are_right(kind):
    """At a noise of two per cent and effects of a tenth, ten of ten simulated searches name the right set."""
    world = World(settings=5, sigma=0.02, kind=kind, size=0.10)
    found = [search_once(world, np.random.default_rng((5, number))) for number in range(10)]
    assert sum(one.right for one in found if one.confirmed or kind == "none") >= 9


def test_the_simpler_designs_are_right_where_they_can_be():
    """One setting at a time finds single effects and never a pair that acts only together; a full factorial finds both."""
    rng = np.random.default_rng(1)
    single, pair = (World(settings=4, sigma=0.01, kind=kind, size=0.1) for kind in ("one", "only together"))
    assert one_at_a_time(single, 3, 100, rng) > 0.9
    assert one_at_a_time(pair, 10, 100, rng) == 0.0
    assert full_factorial(single, 2, 100, rng) > 0.9
    assert full_factorial(pair, 2, 100, rng) > 0.9
    assert replicates_needed("one at a time", pair, 50, rng) is None
    noisy = World(settings=4, sigma=0.03, kind="one", size=0.05)
    assert 8 < replicates_needed("one at a time", noisy, 100, rng) <= MOST_REPLICATES
    hardly = World(settings=4, sigma=0.2, kind="one", size=0.10)
    assert replicates_needed("one at a time", hardly, 50, rng) == MOST_REPLICATES + 1


def test_subset_bits_and_items_are_inverse():
    """Every subset of units is recovered from its items, and a boot that parts a unit has none."""
    units = Units.of(6, [(0, 5)], most=MOST_UNITS)
    for size in range(len(units.units) + 1):
        for chosen in itertools.combinations(range(len(units.units)), size):
            mask = sum(1 << unit for unit in chosen)
            assert units.mask(units.items_of(mask)) == mask
    assert units.mask({0}) is None

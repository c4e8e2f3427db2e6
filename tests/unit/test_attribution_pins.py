"""Moved defaults of a new version as pins: which flag sets each back, and why some are not pinned."""

import pytest

from perfgate.experiment.attribution_pins import pins
from perfgate.experiment.attribution_settings import applied
from perfgate.server import ServerSpec, SettingChange
from perfgate.server.flagnames import long_name

KNOWN = {
    "compilation_config": "VllmConfig",
    "attention_config": "VllmConfig",
    "speculative_config": "VllmConfig",
    "eplb_config": "ParallelConfig",
    "cudagraph_capture_sizes": "CompilationConfig",
    "attention_backend": "AttentionConfig",
    "enforce_eager": "ModelConfig",
    "max_model_len": "ModelConfig",
    "quantization": "ModelConfig",
    "offload_group_size": "OffloadConfig",
    "ignore_patterns": "LoadConfig",
    "moe_backend": "KernelConfig",
    "async_scheduling": "SchedulerConfig",
    "max_num_seqs": "SchedulerConfig",
    "kv_cache_dtype": "CacheConfig",
    "optimization_level": "VllmConfig",
}


def server(**args):
    return ServerSpec(name="s", args=args)


def change(key, before, after=None, asked=False):
    return SettingChange(key=key, before=before, after=after, asked=asked)


def pinned(*changes, spec=None, known=KNOWN, **more):
    return pins(changes, spec or server(), known, sections=known or {}, **more)


def test_moved_defaults_become_pins_where_a_flag_can_set_them():
    """A default that moved is pinned to its old value by the flag of the new version."""
    found, notes = pinned(
        change("scheduler_config.async_scheduling", False, True),
        change("scheduler_config.max_num_seqs", 128, 256),
        change("cache_config.cache_dtype", "auto", "fp8"),
        change("optimization_level", 1, 2),
    )
    assert [setting.args for setting in found] == [
        {"no-async-scheduling": True},
        {"max-num-seqs": 128},
        {"kv-cache-dtype": "auto"},
        {"optimization-level": 1},
    ]
    assert found[0].words == "--no-async-scheduling (async_scheduling: false → true)"
    assert notes == ()


@pytest.mark.parametrize(
    ("key", "before", "path"),
    [
        ("compilation_config.mode", 0, ("mode",)),
        ("compilation_config.pass_config.fuse_norm_quant", False, ("pass_config", "fuse_norm_quant")),
        ("compilation_config.splitting_ops", [], ("splitting_ops",)),
        ("attention_config.flash_attn_version", 2, ("flash_attn_version",)),
        ("parallel_config.eplb_config.window_size", 10, ("window_size",)),
    ],
)
def test_an_inner_default_is_pinned_by_a_key_of_its_flag(key, before, path):
    """Where a section on the way to a key is a flag that takes a table, the key of that table is pinned, and nothing else of it."""
    (pin,), notes = pinned(change(key, before, 1))
    (keys,) = pin.keys
    assert keys[1:] == path
    flags = applied(server(), [pin], like=server()).args
    (inner,) = flags.values()
    for part in path:
        (inner,) = [inner[part]]
    assert inner == before
    assert notes == ()
    assert pin.words.startswith(f"--{'.'.join(keys)} ")


def test_two_pins_of_one_table_are_applied_apart_and_together():
    """Each pin adds its key to what the server gives its table itself, in either form."""
    spec = server(**{"compilation-config.mode": 3})
    found, _ = pinned(change("compilation_config.a", 1, 2), change("compilation_config.b", 3, 4), spec=spec)
    tables = [applied(spec, chosen, like=spec).args for chosen in (found[:1], found[1:], found)]
    assert tables == [
        {"compilation-config": {"mode": 3, "a": 1}},
        {"compilation-config": {"mode": 3, "b": 3}},
        {"compilation-config": {"mode": 3, "a": 1, "b": 3}},
    ]


def test_a_list_is_pinned_whole():
    """A list is one flag with several values, and a note about one has all of it."""
    (sizes,), _ = pinned(change("compilation_config.cudagraph_capture_sizes", [1, 2], [1, 2, 4]))
    assert applied(server(), [sizes], like=server()).flags() == ["--cudagraph-capture-sizes", "1", "2"]
    assert sizes.words == "--cudagraph-capture-sizes [1, 2] (cudagraph_capture_sizes: [1, 2] → [1, 2, 4])"
    assert pinned(change("x_config.sizes", [1, 2], [1, 2, 4]))[1] == (
        "no flag sets sizes: [1, 2] → [1, 2, 4]",
    )


@pytest.mark.parametrize(
    "key",
    [
        "offload_config.prefetch.offload_group_size",
        "load_config.ignore_patterns",
        "kernel_config.moe_backend",
    ],
)
def test_a_flag_of_its_own_section_is_taken_at_any_depth(key):
    """A flag that the parser declares in a section sets the key of its name there, below an inner table too."""
    (pin,), _ = pinned(change(key, "old", "new"))
    assert pin.args == {key.rpartition(".")[2].replace("_", "-"): "old"}


@pytest.mark.parametrize("known", [KNOWN, None])
@pytest.mark.parametrize(
    "key",
    [
        "speculative_config.draft_model_config.max_model_len",
        "speculative_config.draft_model_config.attention_config.backend",
        "speculative_config.quantization",
        "speculative_config.enforce_eager",
        "x_config.draft_model_config.max_model_len",
    ],
)
def test_a_default_of_another_model_is_not_pinned_on_the_target(key, known):
    """What a draft model has under the name of a flag is never set by that flag, whether or not the flags are known."""
    found, _ = pinned(change(key, 2048, 4096), known=known)
    assert not any(setting.args for setting in found)


@pytest.mark.parametrize(
    ("moved", "args", "said"),
    [
        (change("scheduler_config.unheard_of", 1, 2), {}, "no flag sets unheard_of: 1 → 2"),
        (
            change("scheduler_config.max_num_seqs", None, 2),
            {},
            "the old value cannot be given for max_num_seqs: unset → 2",
        ),
        (
            change("load_config.ignore_patterns", [], ["a"]),
            {},
            'the old value cannot be given for ignore_patterns: [] → ["a"]',
        ),
        (
            change("scheduler_config.max_num_seqs", 1, 2),
            {"max-num-seqs": 2},
            "set by you, and not pinned: max_num_seqs: 1 → 2",
        ),
        (
            change("scheduler_config.async_scheduling", True, False),
            {"no-async-scheduling": True},
            "set by you, and not pinned: async_scheduling: true → false",
        ),
        (
            change("compilation_config.mode", 0, 3),
            {"compilation-config": {"mode": 3}},
            "set by you, and not pinned: mode: 0 → 3",
        ),
        (
            change("attention_config.backend", "A", "B"),
            {"attention-backend": "B"},
            "set by you, and not pinned: backend: A → B",
        ),
        (
            change("scheduler_config.max_num_seqs", 1, 2, asked=True),
            {},
            "set by you, and not pinned: max_num_seqs: 1 → 2",
        ),
    ],
)
def test_what_is_not_pinned_has_its_reason(moved, args, said):
    """No flag, no value that a flag takes, and a value of the user's own are three reasons."""
    assert pinned(moved, spec=server(**args)) == ((), (said,))


def test_values_are_given_as_the_new_version_takes_them():
    """The new version's parser says how a value is given; one that it does not take at all is a note."""

    def taken(asked):
        assert [(one.argument, one.path, one.value) for one in asked] == [
            ("compilation_config", ("cudagraph_mode",), [2, 1]),
            ("max_num_seqs", (), 0),
        ]
        return [("FULL_AND_PIECEWISE",), ()]

    (pin,), notes = pinned(
        change("compilation_config.cudagraph_mode", [2, 1], 0),
        change("scheduler_config.max_num_seqs", 0, 16),
        taken=taken,
    )
    assert pin.words.startswith("--compilation-config.cudagraph_mode FULL_AND_PIECEWISE (")
    assert notes == ("the old value cannot be given for max_num_seqs: 0 → 16",)


@pytest.mark.parametrize("known", [KNOWN, None])
def test_what_only_the_log_told_is_pinned_alike(known):
    """A key that the engine's log line told is pinned as the same key of the configuration page is."""
    found, _ = pinned(
        change("engine.max_seq_len", 2048, 4096), change("engine.compilation_config.mode", 0, 3), known=known
    )
    assert found[0].args == {"max-model-len": 2048}
    assert found[1].keys == {("compilation-config", "mode"): 0}


def test_unknown_arguments_leave_the_last_part_for_the_flag():
    """In a container a key's last part is taken for its flag, except below flags that are known to take a table."""
    found, _ = pinned(
        change("scheduler_config.max_num_seqs", 1, 2),
        change("compilation_config.mode", 0, 3),
        known=None,
    )
    assert found[0].args == {"max-num-seqs": 1}
    assert found[1].keys == {(long_name("cc"), "mode"): 0}

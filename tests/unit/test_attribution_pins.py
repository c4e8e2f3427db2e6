"""Moved defaults of a new version as pins."""

from perfgate.experiment.attribution_pins import pins
from perfgate.server import ServerSpec, SettingChange


def server(**fields):
    return ServerSpec.model_validate({"name": "s", "model": "m", **fields})


def change(key, before, after=None, asked=False):
    return SettingChange(key=key, before=before, after=after, asked=asked)


def test_moved_defaults_become_pins_where_a_flag_can_set_them():
    """A default that moved is pinned to its old value by the flag of the new version; what has no flag, or no value, is told apart."""
    known = {"async_scheduling", "max_num_seqs", "kv_cache_dtype", "mine"}
    changes = [
        change("scheduler_config.async_scheduling", False, True),
        change("scheduler_config.max_num_seqs", 128, 256),
        change("cache_config.cache_dtype", "auto", "fp8"),
        change("scheduler_config.unheard_of", 1, 2),
        change("scheduler_config.mine", 1, 2),
        change("model_config.max_num_seqs", None, 2),
    ]
    found, cannot = pins(changes, server(args={"mine": 3}), known)
    assert [setting.args for setting in found] == [
        {"no-async-scheduling": True},
        {"max-num-seqs": 128},
        {"kv-cache-dtype": "auto"},
    ]
    assert found[0].words == "--no-async-scheduling (async_scheduling: false → true)"
    assert [words.partition(":")[0] for words in cannot] == ["unheard_of", "mine", "max_num_seqs"]

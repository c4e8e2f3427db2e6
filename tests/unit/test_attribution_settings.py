"""Two servers as settings that differ, subsets of them as servers, and moved defaults as pins."""

import itertools

import pytest

from perfgate.errors import InputError
from perfgate.experiment.attribution_settings import applied, differences, known_arguments, pins
from perfgate.server import ServerSpec, SettingChange


def server(name="s", **fields):
    return ServerSpec.model_validate({"name": name, "model": "m", **fields})


OLD = server(args={"max-num-seqs": 16, "enforce-eager": True, "async-scheduling": True}, env={"A": "1"})
NEW = server(
    "new",
    args={"max-num-seqs": 1, "no-async-scheduling": True, "limit-mm-per-prompt": {"image": 1}},
    env={"A": "1", "B": "2"},
    boot_timeout_s=77,
)


def test_every_difference_is_one_setting_in_words():
    """A flag and its opposite are one setting; changed, added and removed flags and variables each show what becomes of them."""
    words = {setting.words for setting in differences(OLD, NEW)}
    assert words == {
        "--max-num-seqs 16 → 1",
        "--async-scheduling → --no-async-scheduling",
        '--limit-mm-per-prompt {"image": 1}',
        "without --enforce-eager",
        "B=2",
    }


def test_all_settings_make_the_new_server_and_none_the_old():
    """Applying nothing gives the old side's flags, applying everything the new side's, under the new side's name and timeout."""
    settings = differences(OLD, NEW)
    nothing, everything = (applied(OLD, chosen, like=NEW) for chosen in ((), settings))
    assert (nothing.args, nothing.env) == (OLD.args, OLD.env)
    assert (dict(sorted(everything.args.items())), everything.env) == (
        dict(sorted(NEW.args.items())),
        NEW.env,
    )
    assert (nothing.name, nothing.boot_timeout_s) == ("new", 77)


def test_every_subset_is_a_server_that_can_be_written_down():
    """No subset has a flag together with its opposite: each is accepted as an entry of its own."""
    settings = differences(OLD, NEW)
    for size in range(len(settings) + 1):
        for chosen in itertools.combinations(settings, size):
            made = applied(OLD, chosen, like=NEW)
            assert ServerSpec.model_validate(made.model_dump(mode="json"), strict=False).args == made.args


def test_keys_of_one_table_stay_together():
    """Two dotted keys of one JSON flag are one group, a lone one is free."""
    both = differences(
        server(args={}), server(args={"compilation-config.level": 0, "compilation-config.x": 1, "y.z": 1})
    )
    assert [setting.group for setting in both] == ["--compilation-config", "--compilation-config", ""]


def test_launchers_differ_by_field_or_as_a_whole():
    """Another image is a setting by itself; another kind of launcher is one setting."""
    docker = {"kind": "docker", "image": "a:1"}
    (image,) = differences(server(launcher=docker), server(launcher={**docker, "image": "a:2"}))
    assert image.words == "launcher image a:1 → a:2"
    assert applied(server(launcher=docker), [image], like=server()).launcher.image == "a:2"
    (kind,) = differences(server(), server(launcher=docker))
    assert applied(server(), [kind], like=server()).launcher.kind == "docker"


def test_secrets_are_masked_in_words():
    """The value of a secret flag or variable is in no word of a setting."""
    found = differences(server(), server(args={"api-key": "hush-hush"}, env={"HF_TOKEN": "hush-hush"}))
    assert len(found) == 2
    assert not any("hush" in setting.words for setting in found)


def test_no_difference_and_attached_servers_are_refused():
    """There is nothing to attribute between equal servers, and an attached one cannot be booted otherwise."""
    with pytest.raises(InputError, match="the same settings"):
        differences(OLD, OLD)
    attached = server("a", launcher={"kind": "attach", "url": "http://localhost:1"})
    with pytest.raises(InputError, match="is attached"):
        differences(OLD, attached)


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


def test_arguments_of_an_environment_without_vllm_are_not_known(tmp_path):
    """An interpreter that cannot import vLLM's arguments, or is none, leaves them unknown."""
    assert known_arguments(server(launcher={"kind": "local", "python": str(tmp_path / "none")})) is None

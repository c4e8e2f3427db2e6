"""Two servers as settings that differ, and subsets of them as servers."""

import itertools

import pytest

from perfgate.errors import InputError
from perfgate.experiment.attribution_settings import Setting, applied, differences
from perfgate.experiment.attribution_tables import table
from perfgate.server import ServerSpec


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
        "--limit-mm-per-prompt.image 1",
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


MODES = {"mode": 3, "cudagraph_mode": "FULL", "pass_config": {"fuse": True, "x": None}}
OTHER_MODES = {"mode": 0, "pass_config": {"fuse": False, "x": None}, "custom_ops": ["all"]}


def compiling(table, **args):
    return server(args={"compilation-config": table, **args})


def test_a_changed_table_is_split_into_its_changed_keys():
    """Each key that two tables differ in is a setting of its own, in no group; equal keys are none."""
    found = differences(compiling(MODES), compiling(OTHER_MODES))
    assert {setting.words for setting in found} == {
        "--compilation-config.mode 3 → 0",
        "--compilation-config.pass_config.fuse true → false",
        '--compilation-config.custom_ops ["all"]',
        "without --compilation-config.cudagraph_mode FULL",
    }
    assert not any(setting.group for setting in found)


def test_one_key_is_applied_without_the_others():
    """Applying one key changes just that in the old side's table, and leaves the old side's entry as it was."""
    old = compiling(MODES)
    (fuse,) = [one for one in differences(old, compiling(OTHER_MODES)) if "fuse" in one.words]
    assert applied(old, [fuse], like=old).args["compilation-config"] == {
        **MODES,
        "pass_config": {"fuse": False, "x": None},
    }
    assert old.args["compilation-config"]["pass_config"]["fuse"] is True


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"cc": MODES}, {"cc": OTHER_MODES}),
        ({}, {"cc": MODES}),
        ({"cc": MODES}, {}),
        ({}, {"cc.mode": 0, "cc.cudagraph_mode": "NONE"}),
        ({"cc.mode": 1, "cc.pass_config.fuse": "true"}, {"cc": OTHER_MODES}),
        ({"cc": '{"mode": 3}'}, {"cc.mode": 0, "cc.custom_ops": "[]"}),
        ({"cc": {"pass_config": {}}}, {"cc": {"pass_config": {"fuse": True}}}),
        ({"cc": {"pass_config": {"fuse": True}}}, {"cc": {"pass_config": 3}}),
        ({"cc": {}}, {"cc": MODES}),
    ],
)
def test_all_keys_make_the_new_table_in_any_order(old, new):
    """Whole or dotted, all settings of a table together make the new side's table, in whatever order, and none of them the old one."""
    before, after = server(args=old), server(args=new)
    settings = differences(before, after)
    for order in (settings, settings[::-1]):
        made = applied(before, order, like=after)
        assert table(made.args, "compilation-config") == table(after.args, "compilation-config")
    assert applied(before, [], like=after).args == before.args


def test_two_dotted_keys_are_two_settings():
    """Dotted keys of one flag are settings of their own, in no group."""
    found = differences(
        server(args={}), server(args={"compilation-config.level": 0, "compilation-config.x": 1, "y.z": 1})
    )
    assert [setting.words for setting in found] == [
        "--compilation-config.level 0",
        "--compilation-config.x 1",
        "--y.z 1",
    ]
    assert not any(setting.group for setting in found)


def test_a_flag_that_is_no_table_on_one_side_is_one_setting():
    """Text on one side and a table on the other are one setting, whole."""
    (one,) = differences(
        server(args={"hf-overrides": "some.module"}), server(args={"hf-overrides": {"a": 1}})
    )
    assert one.words == '--hf-overrides some.module → {"a": 1}'


def test_a_table_beside_keys_of_it_stays_together():
    """A flag that one side gives whole and by keys is one group, because vLLM then reads the keys only."""
    found = differences(server(args={}), compiling({"mode": 0}, **{"compilation-config.x": 1}))
    assert [setting.group for setting in found] == ["--compilation-config", "--compilation-config"]


def test_long_values_are_whole_in_words():
    """However long two values are, a setting's words have all of both."""
    long = ",".join(f"op_{number}" for number in range(99))
    (one,) = differences(server(args={"splitting": f"{long},a"}), server(args={"splitting": f"{long},b"}))
    assert one.words == f"--splitting {long},a → {long},b"


@pytest.mark.parametrize(
    ("setting", "problem", "blamed"),
    [
        (Setting(words="", args={"max-num-seqs": 1}), "argument --max-num-seqs: bad", True),
        (Setting(words="", args={"max-num-seqs": 1}), "argument --block-size: bad", False),
        (Setting(words="", keys={("cc", "mode"): 1}), "argument --cc: mode: bad", True),
        (Setting(words="", keys={("cc", "mode"): 1}), "argument --cc: cudagraph_mode: bad", False),
    ],
)
def test_a_failed_boot_blames_what_it_names(setting, problem, blamed):
    """A flag is blamed by its name, a key of a table by its own beside the flag's."""
    assert setting.is_blamed(problem) is blamed


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
    (inner,) = differences(server(), server(args={"kv-transfer-config": {"api_key": "hush-hush"}}))
    (text,) = differences(
        server(args={"hf-overrides": "a.b"}), server(args={"hf-overrides": {"x": {"api_key": "hush-hush"}}})
    )
    assert len(found) == 2
    assert not any("hush" in setting.words for setting in (*found, inner, text))


def test_no_difference_and_attached_servers_are_refused():
    """There is nothing to attribute between equal servers, and an attached one cannot be booted otherwise."""
    with pytest.raises(InputError, match="the same settings"):
        differences(OLD, OLD)
    attached = server("a", launcher={"kind": "attach", "url": "http://localhost:1"})
    with pytest.raises(InputError, match="is attached"):
        differences(OLD, attached)

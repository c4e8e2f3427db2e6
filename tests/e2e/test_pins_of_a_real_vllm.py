"""Moved defaults pinned with what the parser of the installed vLLM says; nothing boots."""

import pytest

from perfgate.experiment.attribution_pins import moved_pins
from perfgate.experiment.attribution_settings import applied
from perfgate.server import ServerSpec, SettingChange

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]  # of torch as it is imported

MOVED = {
    "compilation_config.mode": 0,
    "compilation_config.cudagraph_mode": [2, 1],
    "compilation_config.pass_config.fuse_norm_quant": False,
    "compilation_config.cudagraph_capture_sizes": [1, 2],
    "compilation_config.dropped_by_the_release": 1,
    "attention_config.backend": "vllm.v1.attention.backends.flash_attn.FlashAttentionBackend",
    "attention_config.flash_attn_version": 2,
    "offload_config.prefetch.offload_group_size": 4,
    "parallel_config.eplb_config.window_size": 10,
    "scheduler_config.max_num_seqs": 128,
    "scheduler_config.async_scheduling": False,
    "speculative_config.draft_model_config.max_model_len": 2048,
}
"""Key → old value."""


def test_every_default_that_a_flag_can_set_is_pinned_by_it():
    """Keys, lists and members of enumerations are pinned as vLLM takes them; a dropped key and a draft model's are not."""
    from vllm.engine.arg_utils import EngineArgs, FlexibleArgumentParser

    changes = [
        SettingChange(key=key, before=before, after=None, asked=False) for key, before in MOVED.items()
    ]
    spec = ServerSpec(name="s", args={"compilation-config.backend": "inductor"})
    pins, notes = moved_pins(changes, spec)
    flags = applied(spec, pins, like=spec).flags()
    parsed = EngineArgs.add_cli_args(FlexibleArgumentParser()).parse_args(flags)
    compilation = parsed.compilation_config
    assert (compilation.mode, compilation.cudagraph_mode.name) == (0, "FULL_AND_PIECEWISE")
    assert (compilation.pass_config.fuse_norm_quant, compilation.backend) == (False, "inductor")
    assert parsed.attention_backend == "FLASH_ATTN"
    assert parsed.attention_config.flash_attn_version == 2
    assert parsed.cudagraph_capture_sizes == [1, 2]
    assert (parsed.offload_group_size, parsed.eplb_config.window_size) == (4, 10)
    assert (parsed.max_num_seqs, parsed.async_scheduling) == (128, False)
    assert [note.partition(":")[0] for note in notes] == [
        "no flag sets max_model_len",
        "the old value cannot be given for dropped_by_the_release",
    ]

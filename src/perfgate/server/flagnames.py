"""What vLLM's flags are called: short forms, other names in the resolved configuration, and those that only the API server knows."""

from __future__ import annotations

from collections.abc import Mapping

ALIASES: Mapping[str, str] = {
    "O": "optimization-level",
    "q": "quantization",
    "tp": "tensor-parallel-size",
    "pp": "pipeline-parallel-size",
    "dp": "data-parallel-size",
    "dpn": "data-parallel-rank",
    "dpr": "data-parallel-start-rank",
    "dpl": "data-parallel-size-local",
    "dpa": "data-parallel-address",
    "dpp": "data-parallel-rpc-port",
    "dpb": "data-parallel-backend",
    "dph": "data-parallel-hybrid-lb",
    "dpe": "data-parallel-external-lb",
    "dcp": "decode-context-parallel-size",
    "pcp": "prefill-context-parallel-size",
    "ep": "enable-expert-parallel",
    "ac": "attention-config",
    "cc": "compilation-config",
    "sc": "speculative-config",
    "dc": "diffusion-config",
}
"""Short form without its dash → long flag."""

ALSO_CALLED: Mapping[str, tuple[str, ...]] = {
    "kv_cache_dtype": ("cache_dtype",),
    "max_model_len": ("max_seq_len",),
    "limit_mm_per_prompt": ("limit_per_prompt",),
    "enable_chunked_prefill": ("chunked_prefill_enabled",),
    "scheduling_policy": ("scheduler_config.policy",),
    "attention_backend": ("attention_config.backend",),
    "mamba_backend": ("mamba_config.backend",),
    "mm_encoder_tp_mode": ("multimodal_config.mm_encoder_tp_mode",),
    "cpu_offload_gb": ("uva.cpu_offload_gb",),
    "lora_target_modules": ("lora_config.target_modules",),
    "data_parallel_address": ("data_parallel_master_ip",),
    "spec_method": ("speculative_config.method",),
    "spec_model": ("speculative_config.model",),
    "spec_tokens": ("speculative_config.num_speculative_tokens",),
}
"""Argument → other names that the resolved configuration has for it; a dotted one is the end of the key."""

OF_THE_FRONT_END = frozenset(
    {
        "allow_credentials", "allowed_headers", "allowed_methods", "allowed_origins", "chat_template",
        "chat_template_content_format", "default_chat_template_kwargs", "disable_fastapi_docs", "disable_frontend_multiprocessing",
        "disable_log_requests", "disable_log_stats", "disable_uvicorn_access_log", "enable_auto_tool_choice",
        "enable_force_include_usage", "enable_log_outputs", "enable_log_requests", "enable_prompt_tokens_details",
        "enable_request_id_headers", "enable_server_load_tracking", "enable_tokenizer_info_endpoint", "exclude_tools_when_tool_choice_none",
        "h11_max_header_count", "h11_max_incomplete_event_size", "log_config_file", "lora_modules", "max_log_len", "middleware",
        "port", "response_role", "return_tokens_as_token_ids", "root_path", "ssl_ca_certs", "ssl_cert_reqs", "ssl_certfile",
        "ssl_keyfile", "tool_call_parser", "tool_parser_plugin", "tool_server", "trust_request_chat_template", "uvicorn_log_level",
    }
)  # fmt: skip
"""Arguments of the API server, which the engine's configuration never shows: being parsed is being in effect."""


def long_name(name: str) -> str:
    """The long flag behind a short form, with what follows a dot: ``cc.mode`` → ``compilation-config.mode``."""
    head, dot, tail = name.partition(".")
    return ALIASES.get(head, head) + dot + tail


def called_otherwise(key: str) -> tuple[tuple[str, int], ...]:
    """The arguments that the resolved configuration has under another name, each with how many parts of the key that name is.

    >>> called_otherwise("attention_config.backend")
    (('attention_backend', 2),)
    """
    return tuple(
        (name, end.count(".") + 1)
        for name, ends in ALSO_CALLED.items()
        for end in ends
        if f".{key}".endswith(f".{end}")
    )

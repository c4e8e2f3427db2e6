"""``perfgate coverage``: does vLLM's warm-up reach every Triton autotune key that serving can reach?"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from perfgate.autotune.batches import LONGEST_PREFILL
from perfgate.autotune.coverage import Coverage, determine
from perfgate.autotune.moe import (
    MoeAnswer,
    MoeInServer,
    in_server,
    mounted_configs,
    require_names,
    tuned_configs,
)
from perfgate.autotune.process import TIMEOUT_S
from perfgate.autotune.question import STATE_DTYPES, TP_SIZES, Question, divisible_sizes
from perfgate.autotune.tables import details, matrix, moe_lines
from perfgate.catalogue import Catalogue, load_catalogue
from perfgate.errors import CoverageError, InputError
from perfgate.selection import user_files
from perfgate.targets import GpuSpec, ModelSpec

HELP = "autotune-key coverage of vLLM's warm-up, on an emulated GPU; exit 0 covered, 1 keys missed, 2 not determined"

MATRIX_GPUS = ("gb10", "rtx5090", "h100", "a100")
MATRIX_MODELS = (
    "qwen3.5-9b",
    "qwen3.5-27b",
    "qwen3.5-35b-a3b",
    "qwen3.5-122b-a10b",
    "qwen3.5-397b-a17b",
    "qwen3-next-80b-a3b",
)
LAYER_MODELS = {"gdn": "qwen3.5-35b-a3b", "olmo": "olmo-hybrid-7b", "kda": "kimi-linear-48b-a3b"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One cell by default; several names or --matrix ask for a table of cells."""
    add = parser.add_argument
    add(
        "--vllm-source", type=Path, metavar="DIR", help="an unpacked vLLM wheel instead of the installed vLLM"
    )
    add("--python", metavar="PATH", help="the Python that has vLLM's dependencies (default: this one)")
    add("--gpu", action="append", default=[], metavar="NAME", help="GPU entry to emulate; repeatable")
    add(
        "--model",
        action="append",
        default=[],
        metavar="NAME",
        help="model entry; repeatable (default: the GPU's)",
    )
    add(
        "--tp",
        action="append",
        type=int,
        default=[],
        metavar="N",
        help="tensor-parallel size; repeatable (default: 1)",
    )
    add(
        "--state-dtype",
        action="append",
        default=[],
        choices=STATE_DTYPES,
        help="dtype of the recurrent state; repeatable (default: float32)",
    )
    add(
        "--max-tokens",
        type=int,
        default=LONGEST_PREFILL,
        metavar="N",
        help="tokens of one step, vLLM's --max-num-batched-tokens (default: %(default)s)",
    )
    add("--layer", choices=tuple(LAYER_MODELS), help="linear-attention layer (default: the model's)")
    add(
        "--matrix",
        action="store_true",
        help="whatever is not given: six models × tp 1, 2, 4, 8 × four GPUs × two state dtypes",
    )
    add("--moe", action="store_true", help="also say whether the release ships tuned MoE configurations")
    add(
        "--moe-configs",
        type=Path,
        metavar="DIR",
        help="with --moe: the folder that the server has as VLLM_TUNED_CONFIG_FOLDER",
    )
    add(
        "--server-log",
        type=Path,
        metavar="FILE",
        help="with --moe: does this server's log name the configuration that is there? exit 1 if it contradicts, 2 if it is silent",
    )
    add("--json", metavar="FILE", help="write the answer there as JSON (- for standard output)")
    add(
        "--timeout",
        type=float,
        default=TIMEOUT_S,
        metavar="SECONDS",
        help="deadline of one GPU (default: %(default)g)",
    )
    add(
        "--perfgate-config",
        action="append",
        type=Path,
        default=[],
        metavar="FILE",
        help="instead of ./perfgate.toml",
    )


def run(options: argparse.Namespace) -> int:
    """Asks, prints, and writes the JSON.

    Returns:
        0 every cell is covered, 1 keys are missed or a server's log contradicts, 2 a cell could not be determined or the log is silent.
    """
    if not options.timeout > 0:
        raise InputError(f"--timeout is {options.timeout:g}; it must be above 0")
    if options.json not in (None, "-"):
        _require_writable(Path(options.json))
    questions = ask_for(options)
    if not options.moe and (options.moe_configs or options.server_log):
        raise InputError("--moe-configs and --server-log are about MoE configurations", remedy="Add --moe.")
    if options.moe:
        require_names(questions)
    mounted = mounted_configs(options.moe_configs) if options.moe_configs else {}
    log = _log(options.server_log) if options.server_log else None
    found = determine(
        questions, vllm_source=options.vllm_source, python=options.python, timeout_s=options.timeout
    )
    moe, unnamed = _moe(options, questions) if options.moe else ([], None)
    said = [in_server(answer, log, mounted=mounted) for answer in moe] if log is not None else []
    text = details(found[0]) if len(found) == 1 else matrix(found)
    lines = [text, *moe_lines(moe, mounted, said)] if moe else [text]
    if options.json == "-":
        sys.stdout.write(_json(found, moe, said))
        sys.stderr.write("\n".join(lines) + "\n")
    else:
        try:
            if options.json:
                Path(options.json).write_text(_json(found, moe, said), encoding="utf-8")
        except OSError as error:
            raise _unwritable(options.json, error.strerror) from error
        finally:
            sys.stdout.write("\n".join(lines) + "\n")
    if unnamed is not None:
        raise unnamed
    states = {coverage.status for coverage in found} | {answer.finding for answer in said}
    return 2 if states & {"undetermined", "silent"} else 1 if states & {"missed", "contradicts"} else 0


def _require_writable(path: Path) -> None:
    """Asked before anything is examined, which takes minutes.

    Raises:
        InputError: there is no folder for the file, or it cannot be written.
    """
    folder = path.absolute().parent
    if not folder.is_dir():
        raise InputError(f"--json {path}: there is no such folder")
    if path.is_dir():
        raise _unwritable(path, "is a folder")
    if not os.access(path if path.exists() else folder, os.W_OK):
        raise _unwritable(path, "no permission to write there")


def _unwritable(path: Path | str, why: str | None) -> InputError:
    return InputError(f"--json {path}: {why}", remedy="Give a file that can be written.")


def ask_for(options: argparse.Namespace) -> list[Question]:
    """The cells that the command line asks for.

    Raises:
        InputError: no GPU was named, or a name, size or layer does not fit.
    """
    files = user_files(Path.cwd(), options.perfgate_config)
    gpus, models = load_catalogue("gpus", user_files=files), load_catalogue("models", user_files=files)
    gpu_names = options.gpu or (MATRIX_GPUS if options.matrix else ())
    if not gpu_names:
        raise InputError(
            "--gpu is missing: which GPU is to be emulated?",
            remedy=f"One of {', '.join(n for n in gpus if n != 'cpu')}.",
        )
    if any(size < 1 for size in options.tp):
        raise InputError(f"--tp is {min(options.tp)}; it must be 1 or more")
    if not 64 <= options.max_tokens <= 131072:
        raise InputError(f"--max-tokens is {options.max_tokens}; it must be between 64 and 131072")
    questions = []
    for gpu_name in gpu_names:
        gpu = gpus[resolve(gpu_name, gpus)].parse(GpuSpec)
        for model_name in options.model or _default_models(options, gpu):
            model = models[resolve(model_name, models)].parse(ModelSpec)
            divide = divisible_sizes(model, TP_SIZES, layer=options.layer) if options.matrix else (1,)
            sizes = options.tp or divide
            dtypes = options.state_dtype or (STATE_DTYPES if options.matrix else STATE_DTYPES[:1])
            questions += [
                Question(
                    gpu=gpu,
                    model=model,
                    tp=size,
                    state_dtype=dtype,
                    layer=options.layer,
                    max_tokens=options.max_tokens,
                )
                for size in sizes
                for dtype in dtypes
            ]
    return questions


def resolve(name: str, catalogue: Catalogue) -> str:
    """The entry a name means; case and punctuation of a well-known name do not matter ("RTX 5090" is rtx5090)."""
    if name in catalogue:
        return name
    same = [known for known in catalogue if _plain(known) == _plain(name)]
    return same[0] if len(same) == 1 else name


def _plain(name: str) -> str:
    return "".join(character for character in name.rsplit("/", 1)[-1].lower() if character.isalnum())


def _default_models(options: argparse.Namespace, gpu: GpuSpec) -> Sequence[str]:
    if options.layer is not None and options.layer != "gdn":
        return (LAYER_MODELS[options.layer],)
    if options.matrix:
        return MATRIX_MODELS
    return (gpu.model or LAYER_MODELS["gdn"],)


def _moe(
    options: argparse.Namespace, questions: Sequence[Question]
) -> tuple[list[MoeAnswer], CoverageError | None]:
    """The answers, or none and why: what is known of the keys is to be shown all the same."""
    try:
        return tuned_configs(
            questions, vllm_source=options.vllm_source, python=options.python, timeout_s=options.timeout
        ), None
    except CoverageError as error:
        return [], error


def _log(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise InputError(
            f"--server-log {path}: {error.strerror}", remedy="Give the log of a server that can be read."
        ) from error


def _json(found: Sequence[Coverage], moe: Sequence[MoeAnswer], said: Sequence[MoeInServer]) -> str:
    cells = [coverage.model_dump(mode="json") for coverage in found]
    if moe:
        for cell, answer in zip(cells, moe, strict=True):
            cell["moe"] = answer.model_dump(mode="json")
    if said:
        for cell, answer_in_server in zip(cells, said, strict=True):
            cell["moe"]["server_log"] = answer_in_server.model_dump(mode="json", include={"finding", "text"})
    return json.dumps(cells[0] if len(cells) == 1 else cells, indent=2, ensure_ascii=False) + "\n"

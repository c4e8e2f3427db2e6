"""Makes the folder of a tiny model on the spot, so that a real vLLM serves on any machine without a download.

The weights are vLLM's own dummies (``--load-format dummy``); the folder holds a configuration and a byte-level BPE tokenizer trained
here on words made from a fixed seed. The same configuration gives the same bytes; folders are cached by content and appear whole or not
at all, also when two suites make the same one at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import platformdirs

from perfgate.errors import InputError

_FORMAT = 1
"""Part of the cache key: raise it when the content of the folder changes."""
_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_BYTES = 256
_CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def dummy_model(name: str, config: Mapping[str, Any], *, cache_dir: Path | None = None) -> Path:
    """The folder of a dummy model, made if it is not there yet.

    Args:
        name: the model's catalogue name; the folder begins with it.
        config: the content of its ``config.json``; needs ``architectures``, ``model_type`` and ``vocab_size``.
        cache_dir: where folders are kept; the user's cache where not given.

    Returns:
        the folder, complete.

    Raises:
        InputError: the configuration lacks a key, its vocabulary is too small for a tokenizer, or ``tokenizers`` is not installed.
    """
    for key in ("architectures", "model_type", "vocab_size"):
        if key not in config:
            raise InputError(
                f"model {name!r}: its config has no {key!r}",
                remedy="A model of kind dummy needs the keys of a Hugging Face config.json.",
            )
    smallest = _BYTES + len(_SPECIAL)
    if not isinstance(config["vocab_size"], int) or config["vocab_size"] < smallest:
        raise InputError(
            f"model {name!r}: vocab_size {config['vocab_size']!r} leaves no room for a byte-level tokenizer",
            remedy=f"Give a number of at least {smallest}.",
        )
    text = json.dumps(
        {"bos_token_id": None, "eos_token_id": 0, "pad_token_id": 0, **config}, indent=2, sort_keys=True
    )
    key = hashlib.sha256(f"{_FORMAT}\n{text}".encode()).hexdigest()[:12]
    root = cache_dir or platformdirs.user_cache_path("perfgate") / "models"
    target = root / f"{name}-{key}"
    if not _complete(target):
        root.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=root))
        try:
            _fill(draft, text, config)
            _publish(draft, target)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return target


def _complete(folder: Path) -> bool:
    return all((folder / file).is_file() for file in ("config.json", "tokenizer.json"))


def _publish(draft: Path, target: Path) -> None:
    """Moves the finished folder to its place; whoever comes second finds it there, equal byte for byte."""
    draft.chmod(0o755)
    try:
        draft.rename(target)
    except OSError:
        if _complete(target):
            return
        broken = Path(tempfile.mkdtemp(prefix=".broken-", dir=target.parent))
        with contextlib.suppress(OSError):
            target.rename(broken / target.name)
        shutil.rmtree(broken, ignore_errors=True)
        with contextlib.suppress(OSError):
            draft.rename(target)
        if not _complete(target):
            raise


def _fill(folder: Path, config_text: str, config: Mapping[str, Any]) -> None:
    (folder / "config.json").write_text(config_text + "\n", encoding="utf-8")
    (folder / "tokenizer.json").write_text(_tokenizer(int(config["vocab_size"])), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "eos_token": _SPECIAL[0],
                "pad_token": _SPECIAL[0],
                "model_max_length": int(config.get("max_position_embeddings", 4096)),
                "chat_template": _CHAT_TEMPLATE,
            },
            indent=2,
            sort_keys=True,
        )
        + "\n",
        encoding="utf-8",
    )
    (folder / "generation_config.json").write_text(
        json.dumps({"eos_token_id": 0, "pad_token_id": 0}, indent=2) + "\n", encoding="utf-8"
    )


def _tokenizer(vocab_size: int) -> str:
    try:
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    except ImportError as error:
        raise InputError(
            "a dummy model needs the package tokenizers", remedy="pip install 'vllm-perfgate[cpu]'"
        ) from error
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=1,
        special_tokens=list(_SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    with _one_thread():
        tokenizer.train_from_iterator(_words(vocab_size), trainer)
    if (size := tokenizer.get_vocab_size()) != vocab_size:
        raise InputError(
            f"the trained tokenizer has {size} tokens, not {vocab_size}",
            remedy="Lower the model's vocab_size.",
        )
    return str(tokenizer.to_str())


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Ties between merges are broken by the order of counting, which threads would change."""
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ["TOKENIZERS_PARALLELISM"]
        else:
            os.environ["TOKENIZERS_PARALLELISM"] = before


def _words(vocab_size: int) -> Iterator[str]:
    """Lines of made-up words: enough different ones that every merge the vocabulary needs occurs."""
    source = random.Random(20260101)
    syllables = [
        a + b for a in "bcdfghjklmnprstvwz" for b in ("a", "e", "i", "o", "u", "an", "er", "is", "on")
    ]
    for _ in range(max(400, vocab_size)):
        yield " ".join(
            "".join(source.choices(syllables, k=source.randint(1, 4))) for _ in range(source.randint(6, 14))
        )

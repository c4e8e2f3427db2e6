"""The folder of a tiny model: complete, reproducible, and safe under two suites at once."""

import json
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from perfgate.catalogue import load_catalogue
from perfgate.errors import InputError
from perfgate.targets import ModelSpec
from perfgate.tinymodel import dummy_model

CONFIG = {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "vocab_size": 512}


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_same_configuration_gives_the_same_bytes(tmp_path):
    """Two folders made apart from one configuration are equal byte for byte."""
    one = dummy_model("m", CONFIG, cache_dir=tmp_path / "a")
    two = dummy_model("m", CONFIG, cache_dir=tmp_path / "b")
    assert one.name == two.name
    assert contents(one) == contents(two)
    assert set(contents(one)) == {
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "generation_config.json",
    }


def test_other_configuration_gives_another_folder(tmp_path):
    """A changed configuration never finds the old folder."""
    assert dummy_model("m", CONFIG, cache_dir=tmp_path) != dummy_model(
        "m", {**CONFIG, "hidden_size": 64}, cache_dir=tmp_path
    )


def test_tokenizer_has_exactly_the_vocabulary_and_round_trips(tmp_path):
    """Every id below vocab_size exists, and text comes back as it went in."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(dummy_model("m", CONFIG, cache_dir=tmp_path) / "tokenizer.json"))
    assert tokenizer.get_vocab_size() == CONFIG["vocab_size"]
    assert all(tokenizer.id_to_token(number) is not None for number in range(CONFIG["vocab_size"]))
    text = "Grüße, 世界! banana 123"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def make(cache_dir: str) -> str:
    return str(dummy_model("m", CONFIG, cache_dir=Path(cache_dir)))


def test_many_makers_at_once_leave_one_complete_folder(tmp_path):
    """Concurrent suites get the same complete folder and leave no draft behind."""
    with ProcessPoolExecutor(4) as pool:
        made = set(pool.map(make, [str(tmp_path)] * 8))
    assert len(made) == 1
    assert [entry.name for entry in tmp_path.iterdir()] == [Path(made.pop()).name]


def test_broken_folder_is_made_again(tmp_path):
    """A folder that lost a file is replaced by a complete one."""
    folder = dummy_model("m", CONFIG, cache_dir=tmp_path)
    before = contents(folder)
    (folder / "tokenizer.json").unlink()
    assert contents(dummy_model("m", CONFIG, cache_dir=tmp_path)) == before


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "its config has no 'architectures'"),
        ({**CONFIG, "vocab_size": 100}, "vocab_size 100 leaves no room"),
        ({**CONFIG, "vocab_size": "many"}, "vocab_size 'many'"),
    ],
)
def test_impossible_configurations_are_messages(tmp_path, config, message):
    """A configuration no tokenizer can be made for is an input error, and leaves no folder."""
    with pytest.raises(InputError, match=message):
        dummy_model("m", config, cache_dir=tmp_path)
    assert not list(tmp_path.iterdir())


def test_shipped_dummies_can_be_made(tmp_path):
    """Every shipped model of kind dummy becomes a folder whose config.json is its entry."""
    models = [entry.parse(ModelSpec) for entry in load_catalogue("models").values()]
    dummies = [model for model in models if model.kind == "dummy"]
    assert {"tiny-qwen3next", "tiny-qwen3"} <= {model.name for model in dummies}
    for model in dummies:
        written = json.loads(
            (dummy_model(model.name, model.config, cache_dir=tmp_path) / "config.json").read_text()
        )
        assert {key: written[key] for key in model.config} == model.config

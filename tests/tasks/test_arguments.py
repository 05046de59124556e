"""Settings on a command line: JSON or a file, and mistakes told by field."""

import argparse
import json

import pytest
from pydantic import TypeAdapter

from tasks.arguments import add_config, config_of, file_argument, json_argument
from tasks.editing.settings import DiffusersModel, EditorConfig, ModelConfig
from tasks.encode_cases import EncodeConfig
from tasks.post_training.job import PostTrainConfig
from tasks.sizes import miniature, paper

MODEL = {"kind": "diffusers", "settings": {"model": "Qwen/Qwen-Image-Edit-2509"}}
TRAIN = paper().train.model_dump(mode="json")


def told(words, default, **parts):
    """What a command with these words comes to."""
    parser = argparse.ArgumentParser()
    add_config(parser, default, parts)
    return config_of(parser, parser.parse_args(words), default, parts)


@pytest.mark.parametrize("way", ["{text}", "{file}", "@{file}"])
def test_json_and_a_file_of_it_are_one(way, tmp_path):
    file, text = tmp_path / "train.json", json.dumps(TRAIN, indent=1)
    file.write_text(text)
    assert told(["--config", way.format(text=text, file=file)], miniature().train) == paper().train


def test_without_it_is_the_default():
    assert told([], miniature().train) == miniature().train


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"gpro": {}}, "gpro: Extra inputs are not permitted"),
        ({"grpo": TRAIN["grpo"] | {"groups": 3}}, "grpo: groups 3: must be a multiple of updates_per_rollout 2"),
        ({"grpo": TRAIN["grpo"] | {"kl": 1}}, "grpo.kl: Unexpected keyword argument"),
        ({"model": {"kind": "diffusers", "settings": {}}}, "model.diffusers.settings.model: Field required"),
        ({"running": {"processes": 0}, "float8": 3}, "float8: Input should be a valid boolean"),
    ],
)
def test_what_is_wrong_is_told_by_field(changed, said, tmp_path, capsys):
    file = tmp_path / "train.json"
    file.write_text(json.dumps(TRAIN | changed))
    for word in (str(file), file.read_text()):
        with pytest.raises(SystemExit):
            told(["--config", word], PostTrainConfig())
        error = capsys.readouterr().err
        assert said in error
        assert (f"error: argument --config: {file}: " in error) == (word == str(file))


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("train.json", "'train.json' is neither JSON nor a file: No such file or directory"),
        (".", "'.' is neither JSON nor a file: Is a directory"),
        ("", "'' is neither JSON nor a file: "),
        ("{model: 3}", "Invalid JSON: key must be a string"),
    ],
)
def test_what_cannot_be_read_is_named(word, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(argparse.ArgumentTypeError) as error:
        json_argument(TypeAdapter(EditorConfig))(word)
    assert str(error.value).startswith(said)
    with pytest.raises(argparse.ArgumentTypeError, match="no such file"):
        file_argument(word)


def test_a_model_that_is_written_once_is_of_encoding_and_training(tmp_path, capsys):
    file, train = tmp_path / "model.json", tmp_path / "train.json"
    file.write_text(json.dumps(MODEL))
    train.write_text(json.dumps({name: value for name, value in TRAIN.items() if name != "model"}))
    words, parts = ["--model", str(file)], {"model": TypeAdapter(ModelConfig)}
    model = DiffusersModel.model_validate(MODEL)
    assert told(words, EncodeConfig(), **parts) == EncodeConfig(model=model)
    assert told([*words, "--config", str(train)], miniature().train, **parts).model == model
    assert told(words, miniature().train, **parts).grpo == miniature().train.grpo
    train.write_text(json.dumps(TRAIN))
    with pytest.raises(SystemExit):
        told([*words, "--config", str(train)], miniature().train, **parts)
    assert "argument --model: --config has a field model, too; name it once" in capsys.readouterr().err

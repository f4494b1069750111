"""Encoders by name: published files are converted exactly, downloads are checked, an error leaves no file."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from launch import convert_efficientat
from modeling import EfficientAtFeatureExtractor, EfficientAtForAudioClassification, EfficientAtModel
from tasks.detection.settings import EncoderSettings
from tests.conftest import REPOSITORY
from tests.helpers.efficientat import LABELS, WEIGHTS, published, served, small_encoder, write_labels
from tests.helpers.hub_server import Repository, Stored, serve_hub
from training import encoders
from training.encoders import ADDRESS, KNOWN, LABELS_SHA256, Published, is_encoder, load_encoder
from training.official_efficientat import LABELS_FILE, build_official, digest, save_encoder

SHORT = "efficientat_mn04_as"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # a server of this machine is asked
    return tmp_path / "home"


@pytest.fixture
def release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, EfficientAtForAudioClassification]:
    """A folder that is a mirror's, with a small model in mn04's place, and the model."""
    model, folder = small_encoder(labels=7), tmp_path / "release"
    folder.mkdir()
    torch.save(published(model), folder / KNOWN[SHORT].file)
    write_labels(folder / LABELS_FILE, [*model.config.id2label.values()])
    small = Published(KNOWN[SHORT].base, KNOWN[SHORT].file, digest(published(model)))
    monkeypatch.setitem(KNOWN, SHORT, small)
    labels = (folder / LABELS_FILE).read_bytes()
    monkeypatch.setattr(encoders, "LABELS_SHA256", hashlib.sha256(labels).hexdigest())
    return folder, model


def same(model: torch.nn.Module, other: torch.nn.Module) -> bool:
    """Whether two models have the same labels and say the same bits."""
    features = torch.randn(2, 101, 128)
    with torch.inference_mode():
        outputs = model(features).logits, other(features).logits
    return torch.equal(*outputs) and model.config.id2label == other.config.id2label


@pytest.mark.parametrize("width", [0.1, 0.4, 1.0])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_published_file_is_converted_to_the_same_bits(width: float, suffix: str, tmp_path: Path) -> None:
    model, file = small_encoder(width=width), tmp_path / f"mn{suffix}"
    (torch.save if suffix == ".pt" else save_file)(published(model), file)
    write_labels(tmp_path / LABELS_FILE, [*model.config.id2label.values()])
    folder = tmp_path / "converted"
    convert_efficientat.main([str(file), str(folder), "--labels", str(tmp_path / LABELS_FILE)])
    converted, straight = load_encoder(str(folder)), load_encoder(str(file))
    assert same(converted.model, model)
    assert converted.model.config.width == width
    assert converted.identity == straight.identity
    assert not converted.model.training
    assert converted.extractor.to_dict() | EfficientAtFeatureExtractor().to_dict() == converted.extractor.to_dict()
    with pytest.raises(ValueError, match="Name a new folder"):
        convert_efficientat.main([str(file), str(folder), "--labels", str(tmp_path / LABELS_FILE)])


@pytest.mark.slow
def test_weights_as_wide_as_the_largest_published_ones_are_converted() -> None:
    model = small_encoder(width=4.0)
    converted = build_official(published(model), [*model.config.id2label.values()], "mn40")
    assert same(converted, model)
    assert converted.config.hidden_size == 3840
    assert sum(weight.numel() for weight in converted.base_model.parameters()) > 40e6


def test_pins_are_those_of_the_real_files(real_data: Path) -> None:
    assert digest(load_file(real_data / WEIGHTS)) == KNOWN[SHORT].tensors_sha256
    assert hashlib.sha256((real_data / LABELS).read_bytes()).hexdigest() == LABELS_SHA256


def test_a_short_name_is_downloaded_once(home: Path, release, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, model = release
    with served(folder) as (address, asked):
        monkeypatch.setenv(ADDRESS, address)
        first, again = load_encoder(SHORT), load_encoder(SHORT)
    assert sorted(asked) == [f"/{LABELS_FILE}", f"/{KNOWN[SHORT].file}"]
    assert same(first.model, model)
    assert first.identity == again.identity
    assert [path.name for path in (home / "feltsound").iterdir()] == [SHORT]


@pytest.mark.parametrize("damage", ["weights", "labels", "cut", "missing", "code"])
def test_a_download_that_is_not_the_file_leaves_nothing(
    damage: str, home: Path, release, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = release
    weights, labels = folder / KNOWN[SHORT].file, folder / LABELS_FILE
    if damage == "weights":
        tensors = torch.load(weights, weights_only=True)
        tensors["classifier.5.bias"][0] += 1
        torch.save(tensors, weights)
    elif damage == "labels":
        labels.write_text(labels.read_text().replace("sound 1", "sound 9"))
    elif damage == "cut":
        weights.write_bytes(weights.read_bytes()[:-1000])
    elif damage == "missing":
        weights.unlink()
    else:
        torch.save({"classifier.5.bias": tmp_path.joinpath}, weights)
    with served(folder) as (address, _):
        monkeypatch.setenv(ADDRESS, address)
        with pytest.raises(ValueError, match=SHORT) as caught:
            load_encoder(SHORT)
    assert [*(home / "feltsound").iterdir()] == []
    bad = labels if damage == "labels" else weights
    assert f"{address}/{bad.name}" in str(caught.value)


def test_offline_one_line_names_addresses_and_a_command_that_works(
    home: Path, release, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, model = release
    monkeypatch.setenv(ADDRESS, "http://127.0.0.1:9")
    with pytest.raises(ValueError, match=SHORT) as caught:
        load_encoder(SHORT)
    message = str(caught.value)
    assert "\n" not in message
    assert f"http://127.0.0.1:9/{KNOWN[SHORT].file}" in message
    assert f"http://127.0.0.1:9/{LABELS_FILE}" in message
    monkeypatch.chdir(folder)
    convert_efficientat.main(message.partition("python -m launch.convert_efficientat ")[2].split())
    assert same(load_encoder(SHORT).model, model)  # the folder of that name


FROM_HUB = """
import sys
from training.encoders import is_encoder, load_encoder
encoder = load_encoder("tester/mn")
print(is_encoder("tester/mn"), is_encoder("tester/run"), encoder.identity, type(encoder.model).__module__)
for name, revision in (("tester/mn", "v2"), ("tester/none", None)):
    try:
        load_encoder(name, revision)
    except ValueError as error:
        print(error)
"""


@pytest.mark.slow
def test_a_name_on_the_hub_has_its_commit_and_runs_no_code_from_there(tmp_path: Path) -> None:
    save_encoder(small_encoder(), tmp_path / "model")
    stored = {file.name: Stored(file.read_bytes()) for file in (tmp_path / "model").iterdir()}
    stored |= {name: Stored(b"raise SystemExit('run')") for name in stored if name.endswith(".py")}
    with serve_hub() as hub:
        sha = hub.repositories.setdefault(("models", "tester/mn"), Repository()).add(stored)
        hub.repositories["models", "tester/run"] = Repository(commits={"1": {"run_config.json": Stored(b"{}")}})
        environment = os.environ | hub.environment(tmp_path / "home")
        command = [sys.executable, "-c", FROM_HUB]
        done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, other_revision, missing = done.stdout.splitlines()
    assert first == f"True False tester/mn@{sha} modeling.modeling_efficientat"
    assert other_revision.startswith("encoder=tester/mn: ")
    assert missing.startswith("encoder=tester/none: ")


@pytest.mark.parametrize(
    ("labels", "line"),
    [("index,mid,name\n", "columns"), ("index,mid,display_name\n1,/m/1,a\n", "line 2"), ("\xff", "not a csv")],
)
def test_labels_that_are_not_audiosets_are_refused(labels: str, line: str, tmp_path: Path) -> None:
    save_file(published(small_encoder(labels=1)), tmp_path / "mn.safetensors")
    (tmp_path / LABELS_FILE).write_bytes(labels.encode("latin-1"))
    with pytest.raises(ValueError, match=line):
        load_encoder(str(tmp_path / "mn.safetensors"))


def test_weights_of_another_model_or_of_other_labels_are_refused(tmp_path: Path) -> None:
    model, file = small_encoder(), tmp_path / "mn.pt"
    write_labels(tmp_path / LABELS_FILE, [*model.config.id2label.values()])
    tensors = published(model)
    cases = {
        "another shape|missing": {"a": torch.zeros(2)},
        "not the weights": {name: tensor for name, tensor in tensors.items() if "features.3" not in name},
        "5 labels": tensors | {"classifier.5.weight": torch.zeros(4, 16), "classifier.5.bias": torch.zeros(4)},
        "dictionary": [1, 2],
    }
    for match, content in cases.items():
        torch.save(content, file)
        with pytest.raises(ValueError, match=match) as caught:
            load_encoder(str(file))
        assert str(file) in str(caught.value)


@pytest.mark.parametrize("name", ["mn10_as_hop_15_mAP_463.pt", "mn10_as_mels_40_mAP_453.safetensors"])
def test_a_file_for_other_features_is_refused_by_its_name(name: str, tmp_path: Path) -> None:
    """Its shapes are those of a file for ours."""
    model, file, labels = small_encoder(), tmp_path / name, tmp_path / LABELS_FILE
    (torch.save if file.suffix == ".pt" else save_file)(published(model), file)
    write_labels(labels, [*model.config.id2label.values()])
    programs = {
        "encoder": lambda: load_encoder(str(file)),
        "encoder.name": lambda: EncoderSettings(encoder={"name": str(file)}),
        "weights": lambda: convert_efficientat.main([str(file), str(tmp_path / "new"), "--labels", str(labels)]),
    }
    for key, program in programs.items():
        with pytest.raises(ValueError, match=f"{key}={file}: .*mn10_as_mAP_471"):
            program()
    assert not (tmp_path / "new").exists()
    save_encoder(model, tmp_path / "mn10_hop_15")  # of a folder, the extractor tells
    assert same(load_encoder(str(tmp_path / "mn10_hop_15")).model, model)


def test_an_encoder_is_told_from_a_run(tmp_path: Path) -> None:
    model = small_encoder()
    save_encoder(model, tmp_path / "encoder")
    save_encoder(model, tmp_path / "run")
    (tmp_path / "run" / "run_config.json").write_text("{}")
    model.base_model.save_pretrained(tmp_path / "plain")
    EfficientAtFeatureExtractor().save_pretrained(tmp_path / "plain")
    assert [is_encoder(str(tmp_path / name)) for name in ("encoder", "run", "plain", "none")] == [
        True,
        False,
        True,
        False,
    ]
    plain = load_encoder(str(tmp_path / "plain"))
    assert isinstance(plain.model, EfficientAtModel)
    assert plain.base is plain.model
    for name, match in (("no/where/at/all", "not a folder"), ("nothing", f"Give one, or {SHORT}")):
        with pytest.raises(ValueError, match=match):
            load_encoder(name)
    with pytest.raises(ValueError, match="revision=main"):
        load_encoder(str(tmp_path / "plain"), "main")

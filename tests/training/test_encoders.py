"""Loading encoders: published files are converted exactly, downloads are verified, errors leave no files."""

import hashlib
import os
import re
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
from training.encoders import KNOWN, LABELS_SHA256, MIRROR_VARIABLE, Published, is_encoder, load_encoder
from training.official_efficientat import LABELS_FILE, build_official, digest, save_encoder

SHORT = "efficientat_mn04_as"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # the tests use a server on this machine
    return tmp_path / "home"


@pytest.fixture
def release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, EfficientAtForAudioClassification]:
    """The folder of a mirror with a small model in place of mn04, and that model."""
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
    """Return whether two models have the same labels and bit-identical outputs."""
    features = torch.randn(2, 101, 128)
    with torch.inference_mode():
        outputs = model(features).logits, other(features).logits
    return torch.equal(*outputs) and model.config.id2label == other.config.id2label


@pytest.mark.parametrize("width", [0.1, 0.4, 1.0])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_conversion_of_a_published_file_is_exact(width: float, suffix: str, tmp_path: Path) -> None:
    model, file = small_encoder(width=width), tmp_path / f"mn{suffix}"
    (torch.save if suffix == ".pt" else save_file)(published(model), file)
    write_labels(tmp_path / LABELS_FILE, [*model.config.id2label.values()])
    folder = tmp_path / "converted"
    convert_efficientat.main([str(file), str(folder), "--labels", str(tmp_path / LABELS_FILE)])
    converted, direct = load_encoder(str(folder)), load_encoder(str(file))
    assert same(converted.model, model)
    assert converted.model.config.width == width
    assert converted.identity == direct.identity
    assert not converted.model.training
    assert converted.extractor.to_dict() | EfficientAtFeatureExtractor().to_dict() == converted.extractor.to_dict()
    with pytest.raises(ValueError, match=re.escape(f"{folder}: ")):
        convert_efficientat.main([str(file), str(folder), "--labels", str(tmp_path / LABELS_FILE)])


@pytest.mark.slow
def test_weights_of_the_largest_published_width_are_converted() -> None:
    model = small_encoder(width=4.0)
    converted = build_official(published(model), [*model.config.id2label.values()], "mn40")
    assert same(converted, model)
    assert converted.config.hidden_size == 3840
    assert sum(weight.numel() for weight in converted.base_model.parameters()) > 40e6


def test_pinned_digests_match_the_real_files(real_data: Path) -> None:
    assert digest(load_file(real_data / WEIGHTS)) == KNOWN[SHORT].tensors_sha256
    assert hashlib.sha256((real_data / LABELS).read_bytes()).hexdigest() == LABELS_SHA256


def test_a_short_name_is_downloaded_once(home: Path, release, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, model = release
    with served(folder) as (address, requests):
        monkeypatch.setenv(MIRROR_VARIABLE, address)
        first, again = load_encoder(SHORT), load_encoder(SHORT)
    assert sorted(requests) == [f"/{LABELS_FILE}", f"/{KNOWN[SHORT].file}"]
    assert same(first.model, model)
    assert first.identity == again.identity
    assert [path.name for path in (home / "feltsound").iterdir()] == [SHORT]


@pytest.mark.parametrize("damage", ["weights", "labels", "cut", "missing", "code"])
def test_a_wrong_download_is_rejected_and_leaves_no_files(
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
        monkeypatch.setenv(MIRROR_VARIABLE, address)
        with pytest.raises(ValueError, match=SHORT) as caught:
            load_encoder(SHORT)
    assert [*(home / "feltsound").iterdir()] == []
    bad = labels if damage == "labels" else weights
    assert f"{address}/{bad.name}" in str(caught.value)


def test_the_offline_error_names_both_urls_and_a_working_command(
    home: Path, release, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, model = release
    monkeypatch.setenv(MIRROR_VARIABLE, "http://127.0.0.1:9")
    with pytest.raises(ValueError, match=SHORT) as caught:
        load_encoder(SHORT)
    message = str(caught.value)
    assert "\n" not in message
    assert f"http://127.0.0.1:9/{KNOWN[SHORT].file}" in message
    assert f"http://127.0.0.1:9/{LABELS_FILE}" in message
    monkeypatch.chdir(folder)
    convert_efficientat.main(message.partition("python -m launch.convert_efficientat ")[2].split())
    assert same(load_encoder(SHORT).model, model)  # the command has made a folder of this name


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
def test_a_hub_model_is_identified_by_its_commit_and_its_code_is_not_run(tmp_path: Path) -> None:
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
    ("labels", "detail"),
    [
        ("index,mid,name\n", "index,mid,name"),
        ("index,mid,display_name\n1,/m/1,a\n", "line 2: .*1,/m/1,a"),
        ("\xff", "0xff"),
    ],
)
def test_files_other_than_audiosets_labels_are_rejected(labels: str, detail: str, tmp_path: Path) -> None:
    save_file(published(small_encoder(labels=1)), tmp_path / "mn.safetensors")
    (tmp_path / LABELS_FILE).write_bytes(labels.encode("latin-1"))
    with pytest.raises(ValueError, match=f"{LABELS_FILE}: .*{detail}"):
        load_encoder(str(tmp_path / "mn.safetensors"))


def test_weights_of_another_model_or_of_other_labels_are_rejected(tmp_path: Path) -> None:
    model, file = small_encoder(), tmp_path / "mn.pt"
    write_labels(tmp_path / LABELS_FILE, [*model.config.id2label.values()])
    tensors = published(model)
    cases = {
        "features.16.0.weight": {"a": torch.zeros(2)},
        "features.3": {name: tensor for name, tensor in tensors.items() if "features.3" not in name},
        "5 labels": tensors | {"classifier.5.weight": torch.zeros(4, 16), "classifier.5.bias": torch.zeros(4)},
        "dictionary": [1, 2],
    }
    for match, content in cases.items():
        torch.save(content, file)
        with pytest.raises(ValueError, match=match) as caught:
            load_encoder(str(file))
        assert str(file) in str(caught.value)


@pytest.mark.parametrize("name", ["mn10_as_hop_15_mAP_463.pt", "mn10_as_mels_40_mAP_453.safetensors"])
def test_weights_for_other_features_are_rejected_by_file_name(name: str, tmp_path: Path) -> None:
    # Only the name differs: the shapes are those of weights for our features.
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
    save_encoder(model, tmp_path / "mn10_hop_15")  # a folder contains its own extractor, so its name does not matter
    assert same(load_encoder(str(tmp_path / "mn10_hop_15")).model, model)


def test_encoders_are_distinguished_from_runs(tmp_path: Path) -> None:
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
    for name in ("no/where/at/all", "nothing"):
        with pytest.raises(ValueError, match=f"encoder={name}: .*{SHORT}"):
            load_encoder(name)
    with pytest.raises(ValueError, match="revision=main"):
        load_encoder(str(tmp_path / "plain"), "main")

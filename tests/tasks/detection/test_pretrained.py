"""Windows by their stored embeddings: the numbers of windows that are embedded alone, computed once."""

import dataclasses
import json
from pathlib import Path

import datasets.config
import numpy as np
import pytest
import torch

from launch.run import parse_run
from modeling import EfficientAtFeatureExtractor, EncoderConfig
from modeling.modeling_encoder import EncoderForAudioClassification
from tasks.detection.augmentation import Augmentation
from tasks.detection.collator import DetectionCollator
from tasks.detection.data import DetectionData
from tasks.detection.embedded import embed_batch, embed_side, embedded_side, embedded_training
from tasks.detection.pretrained import cached, encoder_of, frozen_encoder
from tasks.detection.settings import EncoderSettings
from tasks.detection.task import TASK
from tasks.detection.windows import AudioSetWindows
from tests.conftest import REPOSITORY
from tests.helpers.configs import WITHOUT_THE_HUB
from tests.helpers.tiny_encoder import tiny_encoder
from tests.helpers.toy_clips import RATE, toy_clips, toy_side
from training.part_rates import groups_of_parts

SECONDS = 0.5
VIEWS = 2
EXTRACTOR = EfficientAtFeatureExtractor(sampling_rate=RATE, hop_length=40, max_frequency=1900.0)
VARIED = Augmentation(gain_db=6, background_probability=0.5, spec_time_mask_frames=8, spec_frequency_mask_bins=8)
CONFIG = str(REPOSITORY / "configs/baby_cry_pretrained.json")
TINY = WITHOUT_THE_HUB["baby_cry_pretrained"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path / "cache" / "embeddings"


@pytest.fixture(scope="module")
def model() -> EncoderForAudioClassification:
    encoder = tiny_encoder()
    made = EncoderForAudioClassification(EncoderConfig(encoder_config=encoder.config.to_diff_dict(), num_labels=1))
    made.encoder.load_state_dict(encoder.state_dict())
    return made.eval()


def toy_windows(augmentation: Augmentation | None = None, broken: tuple[int, ...] = ()) -> AudioSetWindows:
    rows, pools = toy_clips(broken)
    return AudioSetWindows(rows, pools.items.take(np.arange(0, len(pools.items), 4)), SECONDS, RATE, augmentation)


def heard_alone(
    model: EncoderForAudioClassification, windows: AudioSetWindows, item: int, seed: int
) -> tuple[np.ndarray, int]:
    """The embeddings of one window, and the item that was served."""
    found = windows[item, seed]
    features = EXTRACTOR(found["audio"], sampling_rate=RATE)["input_features"]
    if windows.augmentation is not None:
        features = windows.augmentation.masked(features, [seed])
    with torch.inference_mode():
        return model.embed(features)[0].numpy(), found["item"]


@pytest.mark.parametrize("augmentation", [None, VARIED], ids=["plain", "varied"])
def test_stored_is_alone_rounded_to_half_precision(model, augmentation: Augmentation | None) -> None:
    windows = toy_windows(augmentation)
    stored = embedded_training(windows, VIEWS, model, EXTRACTOR)
    seeds = np.random.default_rng(0).integers(2**63, size=(len(windows), VIEWS))
    for item in range(len(windows)):
        views = []
        for view in range(VIEWS):
            found = stored[item, VIEWS * 1000 + view]
            alone, served = heard_alone(model, windows, item, int(seeds[item, view]))
            assert found["embeddings"].dtype == np.float16
            assert np.array_equal(found["embeddings"], alone.astype(np.float16))
            assert (found["item"], found["requested"]) == (served, item)
            assert found["label"] == windows[item, 0]["label"]
            views.append(found["embeddings"])
        assert augmentation is None or not np.array_equal(*views)
    assert stored.files_of(0) == []


def test_alone_is_as_in_a_batch(model) -> None:
    windows = toy_windows()
    sounds = [windows[item]["audio"] for item in range(len(windows))]
    with torch.inference_mode():
        together = model.embed(EXTRACTOR(sounds, sampling_rate=RATE)["input_features"])
        alone = torch.cat([model.embed(EXTRACTOR(sound, sampling_rate=RATE)["input_features"]) for sound in sounds])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


def test_a_file_that_fails_is_replaced_as_it_is_without_the_store(model) -> None:
    windows = toy_windows(broken=(0,))
    stored = embedded_training(windows, 1, model, EXTRACTOR)
    seed = int(np.random.default_rng(0).integers(2**63, size=(len(windows), 1))[0, 0])
    alone, served = heard_alone(model, windows, 0, seed)
    found = stored[0, 7]
    assert served != 0
    assert (found["item"], found["requested"], found["label"]) == (served, 0, 1.0)
    assert np.array_equal(found["embeddings"], alone.astype(np.float16))


def test_windows_of_a_side_keep_their_labels(model) -> None:
    side = toy_side(broken=(0,))
    stored = embedded_side(side, model, EXTRACTOR)
    for window in range(len(side)):
        expected, found = side[window], stored[window]
        assert (found["label"], found["readable"], found["seed"]) == (expected["label"], expected["readable"], -1)
    assert not all(stored[window]["readable"] for window in range(len(side)))
    batch = DetectionCollator(EXTRACTOR)([stored[0], stored[1]])
    assert batch["embeddings"].dtype == torch.float32
    assert batch["embeddings"].shape[0] == 2
    assert batch["labels"].tolist() == [[stored[0]["label"]], [stored[1]["label"]]]


def test_what_is_stored_is_found_again_until_something_changes(model, cache: Path, monkeypatch) -> None:
    def stores() -> int:
        return len(list(cache.iterdir()))

    embedded_training(toy_windows(VARIED), VIEWS, model, EXTRACTOR)
    assert stores() == 1
    with monkeypatch.context() as patch:
        patch.setattr(type(model), "embed", lambda *given: pytest.fail("was computed again"))
        embedded_training(toy_windows(VARIED), VIEWS, model, EXTRACTOR)
    assert stores() == 1
    other = tiny_encoder(seed=1)
    changed = EncoderForAudioClassification(model.config)
    changed.encoder.load_state_dict(other.state_dict())
    for number, (windows, views, encoder) in enumerate(
        [
            (toy_windows(VARIED), VIEWS + 1, model),
            (toy_windows(dataclasses.replace(VARIED, gain_db=3.0)), VIEWS, model),
            (toy_windows(), VIEWS, model),
            (toy_windows(VARIED, broken=(0,)), VIEWS, model),
            (toy_windows(VARIED), VIEWS, changed.eval()),
        ],
        start=2,
    ):
        embedded_training(windows, views, encoder, EXTRACTOR)
        assert stores() == number


def test_a_batch_of_several_windows_is_stored_alike(model) -> None:
    side = toy_side()
    records = embed_side(side, model, EXTRACTOR)
    several = embed_batch(side.windows, [(0, 0), (1, 1), (2, 2)], model, EXTRACTOR)
    for place in range(3):
        assert records[place]["served"] == several[place]["served"]
        np.testing.assert_allclose(records[place]["embeddings"], several[place]["embeddings"], rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("key", "rest"),
    [
        ("sampling_rate=16000", ["--sampling_rate", "16000"]),
        ("feature_config", ["--feature_config.num_mel_bins", "64"]),
        ("model_type", ["--model_type", "tcn"]),
    ],
)
def test_settings_that_do_not_fit_the_encoder_are_refused(key: str, rest: list[str]) -> None:
    with pytest.raises(ValueError, match=key):
        TASK.features(parse_run([CONFIG, *TINY, *rest]))


def test_a_model_without_its_encoder_is_refused(tmp_path: Path) -> None:
    config = json.loads(Path(CONFIG).read_text())
    del config["encoder"]
    (tmp_path / "run.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="encoder"):
        TASK.features(parse_run([str(tmp_path / "run.json")]))


@pytest.mark.parametrize(
    ("key", "value"),
    [("encoder.layer", "3"), ("encoder.name", "1"), ("encoder_views", "0"), ("learning_rates.head", "0")],
)
def test_settings_of_the_encoder_are_checked_by_name(key: str, value: str) -> None:
    with pytest.raises(SystemExit, match=key):
        parse_run([CONFIG, f"--{key}", value])


def test_learning_rates_are_those_of_the_parts(model) -> None:
    run = parse_run([CONFIG, *TINY, "--learning_rates.encoder", "1e-5"])
    config = EncoderConfig(encoder_config=model.config.encoder_config.to_diff_dict(), num_labels=1, finetune="last_n")
    made = EncoderForAudioClassification(config)
    groups = groups_of_parts(made.parts(), run.settings.encoder.learning_rates, run.training)
    rates = {group["name"]: group["lr"] for group in groups}
    assert rates == {"encoder": 1e-5, "head": run.training.learning_rate}
    trained = [parameter for group in groups for parameter in group["params"]]
    assert len(trained) == sum(parameter.requires_grad for parameter in made.parameters())
    with pytest.raises(ValueError, match="encoders"):
        groups_of_parts(made.parts(), {"encoders": 1e-5}, run.training)


def test_an_encoder_is_read_once() -> None:
    settings = parse_run([CONFIG, *TINY]).settings.encoder
    assert encoder_of(settings) is encoder_of(settings)


def test_the_frozen_encoder_of_a_trained_one_is_the_published_one() -> None:
    settings = parse_run([CONFIG, *TINY]).settings.encoder
    published = encoder_of(settings)
    config = EncoderConfig(encoder_config=published.model.config.to_diff_dict(), num_labels=1, finetune="full")
    trained = EncoderForAudioClassification(config)
    frozen = frozen_encoder(trained, settings)
    for name, value in published.base.state_dict().items():
        assert torch.equal(frozen.encoder.base_model.state_dict()[name], value)
    assert any(not torch.equal(a, b) for a, b in zip(trained.parameters(), frozen.parameters(), strict=False))
    assert frozen_encoder(torch.nn.Linear(1, 1), settings) is None


def test_only_a_frozen_encoder_is_cached(model) -> None:
    rows, pools = toy_clips()
    windows = AudioSetWindows(rows, pools.items, SECONDS, RATE, Augmentation(mixup_probability=0.5))
    data = DetectionData(rows, None, pools, None, windows, {"validation": toy_side()}, EXTRACTOR, SECONDS, "f1")
    with pytest.raises(ValueError, match="mixup_probability"):
        cached(data, model)
    config = EncoderConfig(encoder_config=model.config.encoder_config.to_diff_dict(), num_labels=1, finetune="full")
    assert cached(data, EncoderForAudioClassification(config)) is data
    plain = dataclasses.replace(data, train=toy_windows(), encoder=EncoderSettings(encoder_views=VIEWS))
    found = cached(plain, model)
    assert found.train.embeddings.views == VIEWS
    assert set(found.sides["validation"][0]) == {"embeddings", "label", "readable", "seed"}

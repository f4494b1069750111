"""Stored embeddings of windows: equal to those of single windows, computed once, and recomputed after changes."""

import builtins
import dataclasses
import errno
import json
import os
from pathlib import Path
from typing import Any, cast

import datasets.config
import numpy as np
import pyarrow as pa
import pytest
import torch
from transformers import AutoConfig, TrainerCallback

from launch.run import parse_run
from modeling import EfficientAtFeatureExtractor, EncoderConfig
from modeling.modeling_encoder import EncoderForAudioClassification
from system import storage_downloads
from system.storage import S3FileManager
from tasks.detection.augmentation import Augmentation
from tasks.detection.collator import DetectionCollator
from tasks.detection.data import DetectionData
from tasks.detection.embedded import embed_batch, embed_side, embedded_side, embedded_training
from tasks.detection.items import Items
from tasks.detection.pretrained import cache_embeddings, encoder_model_settings, encoder_of, frozen_encoder
from tasks.detection.sampler import SamplerSettings, TwoTierBatchSampler
from tasks.detection.settings import EncoderSettings
from tasks.detection.task import TASK
from tasks.detection.trainer import TargetSoundTrainer
from tasks.detection.windows import AudioSetWindows
from tests.conftest import REPOSITORY
from tests.helpers.configs import WITHOUT_THE_HUB
from tests.helpers.s3_server import Rule, Status, serve_s3
from tests.helpers.tiny_encoder import tiny_encoder
from tests.helpers.toy_clips import RATE, toy_clips, toy_side
from training.parts import groups_of_parts
from training.trainer_arguments import RunTrainingArguments

SECONDS = 0.5
VIEWS = 2
EXTRACTOR = EfficientAtFeatureExtractor(sampling_rate=RATE, hop_length=40, max_frequency=1900.0)
AUGMENTED = Augmentation(gain_db=6, background_probability=0.5, spec_time_mask_frames=8, spec_frequency_mask_bins=8)
CONFIG = str(REPOSITORY / "configs/baby_cry_pretrained.json")
TINY = WITHOUT_THE_HUB["baby_cry_pretrained"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path / "cache" / "embeddings"


@pytest.fixture(scope="module")
def model() -> EncoderForAudioClassification:
    encoder = tiny_encoder()
    classifier = EncoderForAudioClassification(
        EncoderConfig(encoder_config=encoder.config.to_diff_dict(), num_labels=1)
    )
    classifier.encoder.load_state_dict(encoder.state_dict())
    return classifier.eval()


def toy_windows(augmentation: Augmentation | None = None, broken: tuple[int, ...] = ()) -> AudioSetWindows:
    rows, pools = toy_clips(broken)
    return AudioSetWindows(rows, pools.items.take(np.arange(0, len(pools.items), 4)), SECONDS, RATE, augmentation)


def embed_single(
    model: EncoderForAudioClassification, windows: AudioSetWindows, item: int, seed: int
) -> tuple[np.ndarray, int]:
    """Return the embeddings of one window, and the item that was served."""
    window = windows[item, seed]
    features = EXTRACTOR(window["audio"], sampling_rate=RATE)["input_features"]
    if windows.augmentation is not None:
        features = windows.augmentation.mask_features(features, [seed])
    with torch.inference_mode():
        return model.embed(features)[0].numpy(), window["item"]


@pytest.mark.parametrize("augmentation", [None, AUGMENTED], ids=["plain", "augmented"])
def test_stored_embeddings_are_single_window_embeddings_in_half_precision(
    model, augmentation: Augmentation | None
) -> None:
    windows = toy_windows(augmentation)
    stored = embedded_training(windows, VIEWS, model, EXTRACTOR)
    seeds = np.random.default_rng(0).integers(2**63, size=(len(windows), VIEWS))
    for item in range(len(windows)):
        views = []
        for view in range(VIEWS):
            window = stored[item, VIEWS * 1000 + view]
            alone, served = embed_single(model, windows, item, int(seeds[item, view]))
            assert window["embeddings"].dtype == np.float16
            assert np.array_equal(window["embeddings"], alone.astype(np.float16))
            assert (window["item"], window["requested"]) == (served, item)
            assert window["label"] == windows[item, 0]["label"]
            views.append(window["embeddings"])
        assert augmentation is None or not np.array_equal(*views)
    assert stored.files_of(0) == []


def test_embeddings_do_not_depend_on_the_batch(model) -> None:
    windows = toy_windows()
    sounds = [windows[item]["audio"] for item in range(len(windows))]
    with torch.inference_mode():
        together = model.embed(EXTRACTOR(sounds, sampling_rate=RATE)["input_features"])
        alone = torch.cat([model.embed(EXTRACTOR(sound, sampling_rate=RATE)["input_features"]) for sound in sounds])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


def test_bad_file_is_replaced_as_without_stored_embeddings(model) -> None:
    windows = toy_windows(broken=(0,))
    stored = embedded_training(windows, 1, model, EXTRACTOR)
    seed = int(np.random.default_rng(0).integers(2**63, size=(len(windows), 1))[0, 0])
    alone, served = embed_single(model, windows, 0, seed)
    window = stored[0, 7]
    assert served != 0
    assert (window["item"], window["requested"], window["label"]) == (served, 0, 1.0)
    assert np.array_equal(window["embeddings"], alone.astype(np.float16))


def test_embedded_split_keeps_labels(model) -> None:
    side = toy_side(broken=(0,))
    stored = embedded_side(side, model, EXTRACTOR)
    for window in range(len(side)):
        expected, actual = side[window], stored[window]
        assert (actual["label"], actual["readable"], actual["seed"]) == (expected["label"], expected["readable"], -1)
    assert not all(stored[window]["readable"] for window in range(len(side)))
    batch = DetectionCollator(EXTRACTOR)([stored[0], stored[1]])
    assert batch["embeddings"].dtype == torch.float32
    assert batch["embeddings"].shape[0] == 2
    assert batch["labels"].tolist() == [[stored[0]["label"]], [stored[1]["label"]]]


def test_stored_embeddings_are_reused_until_something_changes(model, cache: Path, monkeypatch) -> None:
    def stores() -> int:
        return len(list(cache.iterdir()))

    embedded_training(toy_windows(AUGMENTED), VIEWS, model, EXTRACTOR)
    assert stores() == 1
    with monkeypatch.context() as patch:
        patch.setattr(type(model), "embed", lambda *args: pytest.fail("computed again"))
        embedded_training(toy_windows(AUGMENTED), VIEWS, model, EXTRACTOR)
    assert stores() == 1
    other = tiny_encoder(seed=1)
    changed = EncoderForAudioClassification(model.config)
    changed.encoder.load_state_dict(other.state_dict())
    for number, (windows, views, encoder) in enumerate(
        [
            (toy_windows(AUGMENTED), VIEWS + 1, model),
            (toy_windows(dataclasses.replace(AUGMENTED, gain_db=3.0)), VIEWS, model),
            (toy_windows(), VIEWS, model),
            (toy_windows(AUGMENTED, broken=(0,)), VIEWS, model),
            (toy_windows(AUGMENTED), VIEWS, changed.eval()),
        ],
        start=2,
    ):
        embedded_training(windows, views, encoder, EXTRACTOR)
        assert stores() == number


def toy_files(folder: str) -> tuple[datasets.Dataset, Items, dict[str, bytes]]:
    """Return rows with the toy clips as files in a folder or bucket, items of them, and the files by name."""
    rows, pools = toy_clips()
    sounds = {f"{row:04d}.wav": sound["bytes"] for row, sound in enumerate(rows["audio"])}
    field = rows.features.arrow_schema.field("audio")
    paths = pa.array([f"{folder}/{name}" for name in sounds])
    audio = pa.StructArray.from_arrays([pa.nulls(len(sounds), pa.binary()), paths], fields=[*field.type])
    rows = datasets.Dataset(rows.data.table.set_column(1, field, audio))
    return rows, pools.items.take(np.arange(0, len(sounds), 4)), sounds


@pytest.fixture
def clips_on_s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Yield a store with the toy clips, and a function that makes windows as a new run would read them."""
    rows, items, sounds = toy_files("s3://clips/audio")
    monkeypatch.setattr(storage_downloads, "FIRST_PAUSE", 0.01)
    managers = []

    def windows() -> AudioSetWindows:
        managers.append(S3FileManager(min_free_bytes=0))
        S3FileManager.adopt(managers[-1])
        return AudioSetWindows(rows, items, SECONDS, RATE)

    before = S3FileManager.live()
    with serve_s3() as s3:
        for name, sound in sounds.items():
            s3.put(f"s3://clips/audio/{name}", sound)
        yield s3, windows
        for manager in managers:
            manager.close()
    S3FileManager.adopt(before)


def test_changed_remote_files_are_embedded_again(model, clips_on_s3, monkeypatch: pytest.MonkeyPatch) -> None:
    s3, windows = clips_on_s3
    first = embedded_training(windows(), 1, model, EXTRACTOR)
    count = len(first)
    local = embedded_training(toy_windows(), 1, model, EXTRACTOR)
    assert all(np.array_equal(first[item]["embeddings"], local[item]["embeddings"]) for item in range(count))
    assert (s3.proxy.count("list-type=2"), s3.proxy.count("^GET /clips/audio"), s3.proxy.count("^HEAD")) == (
        1,
        count,
        0,
    )
    s3.proxy.forget()
    with monkeypatch.context() as patch:
        patch.setattr(type(model), "embed", lambda *args: pytest.fail("computed again"))
        again = embedded_training(windows(), 1, model, EXTRACTOR)
    assert s3.proxy.count() == 1
    assert again.embeddings == first.embeddings
    running = windows()
    old_audio = running[0]["audio"]  # puts an older copy into the local cache
    s3.put("s3://clips/audio/0000.wav", s3.contents("s3://clips/audio")["0001.wav"])
    changed = embedded_training(running, 1, model, EXTRACTOR)
    fresh = embedded_training(windows(), 1, model, EXTRACTOR)
    for item in range(count):
        same = np.array_equal(changed[item]["embeddings"], first[item]["embeddings"])
        assert same == (item > 0)
        assert np.array_equal(changed[item]["embeddings"], fresh[item]["embeddings"])
    assert not np.array_equal(windows()[0]["audio"], old_audio)


def test_network_failure_does_not_store_a_substitute(model, cache: Path, clips_on_s3) -> None:
    s3, windows = clips_on_s3
    s3.proxy.rules.append(Rule("^GET /clips/audio/0000.wav", Status(503)))
    with pytest.raises(OSError, match="audio/0000.wav"):
        embedded_training(windows(), 1, model, EXTRACTOR)
    s3.proxy.rules.clear()
    stored = embedded_training(windows(), 1, model, EXTRACTOR)
    assert [stored[item]["item"] for item in range(len(stored))] == [*range(len(stored))]


def test_changed_local_files_are_embedded_again(model, tmp_path: Path) -> None:
    """Also with unchanged size and modification time, as after `rsync -t`."""
    rows, items, sounds = toy_files(str(tmp_path))
    for name, sound in sounds.items():
        (tmp_path / name).write_bytes(sound)
    first = embedded_training(AudioSetWindows(rows, items, SECONDS, RATE), 1, model, EXTRACTOR)
    before = (tmp_path / "0000.wav").stat()
    (tmp_path / "0000.wav").write_bytes(sounds["0001.wav"])
    os.utime(tmp_path / "0000.wav", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (tmp_path / "0000.wav").stat().st_size == before.st_size
    second = embedded_training(AudioSetWindows(rows, items, SECONDS, RATE), 1, model, EXTRACTOR)
    for item in range(len(items)):
        assert np.array_equal(first[item]["embeddings"], second[item]["embeddings"]) == (item > 0)


def test_unreadable_file_does_not_store_a_substitute(model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, items, sounds = toy_files(str(tmp_path))
    for name, sound in sounds.items():
        (tmp_path / name).write_bytes(sound)
    real_open = builtins.open

    def refuse(file: Any, *args: Any, **kwargs: Any) -> Any:
        if str(file).endswith("0000.wav"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return real_open(file, *args, **kwargs)

    windows = AudioSetWindows(rows, items, SECONDS, RATE)
    with monkeypatch.context() as patch:
        patch.setattr(builtins, "open", refuse)
        with pytest.raises(OSError, match="0000.wav"):
            embedded_training(windows, 1, model, EXTRACTOR)
    stored = embedded_training(windows, 1, model, EXTRACTOR)
    assert [stored[item]["item"] for item in range(len(stored))] == [*range(len(stored))]


def test_batched_embeddings_match_single_ones(model) -> None:
    side = toy_side()
    records = embed_side(side, model, EXTRACTOR)
    several = embed_batch(side.windows, [(0, 0), (1, 1), (2, 2)], model, EXTRACTOR)
    for index in range(3):
        assert records[index]["served"] == several[index]["served"]
        np.testing.assert_allclose(records[index]["embeddings"], several[index]["embeddings"], rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("key", "rest"),
    [
        ("sampling_rate=16000", ["--sampling_rate", "16000"]),
        ("feature_config", ["--feature_config.num_mel_bins", "64"]),
        ("model_type", ["--model_type", "tcn"]),
        ("bf16_full_eval", ["--bf16_full_eval", "true", "--use_cpu", "true"]),
    ],
)
def test_settings_that_do_not_fit_the_encoder_are_rejected(key: str, rest: list[str]) -> None:
    with pytest.raises(ValueError, match=key):
        TASK.features(parse_run([CONFIG, *TINY, *rest]))


@pytest.mark.parametrize("key", ["clip_seconds", "hop_seconds"])
def test_saved_model_keeps_its_windows(key: str, model, tmp_path: Path) -> None:
    config = EncoderConfig(encoder_config=model.config.encoder_config.to_dict(), num_labels=1)
    EncoderForAudioClassification(config).save_pretrained(tmp_path)
    saved = config.encoder_config.to_dict()
    same = {"clip_seconds": str(saved["window_seconds"]), "hop_seconds": str(saved["hop_seconds"])}

    def settings(values: dict[str, str]) -> dict[str, Any]:
        rest = [part for name, value in values.items() for part in (f"--{name}", value)]
        run = parse_run([CONFIG, *TINY, "--model_name_or_path", str(tmp_path), *rest])
        return encoder_model_settings(cast(Any, None), run)

    assert settings(same) == {}
    AutoConfig.for_model("tcn").save_pretrained(tmp_path / "tcn")
    with pytest.raises(ValueError, match="model_type=encoder_head"):
        encoder_model_settings(
            cast(Any, None), parse_run([CONFIG, *TINY, "--model_name_or_path", str(tmp_path / "tcn")])
        )
    with pytest.raises(ValueError, match=f"{key}=0.7"):
        settings(same | {key: "0.7"})


def test_config_without_an_encoder_is_rejected(tmp_path: Path) -> None:
    config = json.loads(Path(CONFIG).read_text())
    del config["encoder"]
    (tmp_path / "run.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="encoder"):
        TASK.features(parse_run([str(tmp_path / "run.json")]))


@pytest.mark.parametrize(
    ("key", "value"),
    [("encoder.layer", "3"), ("encoder.name", "1"), ("encoder_views", "0"), ("learning_rates.head", "0")],
)
def test_invalid_encoder_settings_are_rejected(key: str, value: str) -> None:
    with pytest.raises(SystemExit, match=key):
        parse_run([CONFIG, f"--{key}", value])


def test_parts_have_their_learning_rates(model) -> None:
    run = parse_run([CONFIG, *TINY, "--learning_rates.encoder", "1e-5"])
    config = EncoderConfig(encoder_config=model.config.encoder_config.to_diff_dict(), num_labels=1, finetune="last_n")
    model = EncoderForAudioClassification(config)
    groups = groups_of_parts(model.parts(), run.settings.encoder.learning_rates, run.training)
    rates = {group["name"]: group["lr"] for group in groups}
    assert rates == {"encoder": 1e-5, "head": run.training.learning_rate}
    trained = [parameter for group in groups for parameter in group["params"]]
    assert len(trained) == sum(parameter.requires_grad for parameter in model.parameters())
    with pytest.raises(ValueError, match="encoders"):
        groups_of_parts(model.parts(), {"encoders": 1e-5}, run.training)


class RateRecorder(TrainerCallback):
    """Records the learning rates of each step by part."""

    def __init__(self) -> None:
        self.rates: list[dict[str, float]] = []

    def on_step_end(self, *args: Any, optimizer: torch.optim.Optimizer, **kwargs: Any) -> None:
        self.rates.append({group["name"]: group["lr"] for group in optimizer.param_groups})


@pytest.mark.parametrize(("finetune", "trained"), [("none", 0), ("last_n", 2), ("full", 17)])
def test_run_trains_the_selected_parts_at_their_rates(model, finetune: str, trained: int, tmp_path: Path) -> None:
    rows, pools = toy_clips()
    config = EncoderConfig(
        encoder_config=model.config.encoder_config.to_diff_dict(), num_labels=1, finetune=finetune, finetune_layers=2
    )
    tuned = EncoderForAudioClassification(config)
    tuned.encoder.load_state_dict(model.encoder.state_dict())
    before = {name: value.clone() for name, value in tuned.state_dict().items()}
    args = RunTrainingArguments(
        output_dir=str(tmp_path), per_device_train_batch_size=8, max_steps=3, learning_rate=0.01, report_to="none",
        lr_scheduler_type="constant", eval_strategy="steps", eval_steps=1, save_strategy="no", use_cpu=True,
        load_best_model_at_end=False, disable_tqdm=True, prefetch_batches=0,
        metric_for_best_model="loss", greater_is_better=False,
    )  # fmt: skip
    recorder = RateRecorder()
    trainer = TargetSoundTrainer(
        model=tuned,
        args=args,
        train_dataset=AudioSetWindows(rows, pools.items, SECONDS, RATE),
        eval_dataset=toy_side(seconds=SECONDS),
        data_collator=DetectionCollator(EXTRACTOR),
        sampler=lambda size: TwoTierBatchSampler.from_pools(pools, SamplerSettings(min_epoch_steps=1), size, 7, 1),
        validation_metrics=lambda output: {},
        processing_class=EXTRACTOR,
        pools=pools,
        mining=None,
        learning_rates={"encoder": 1e-4} if trained else {},
        callbacks=[recorder],
    )
    trainer.train()
    assert recorder.rates == 3 * [({"encoder": 1e-4} if trained else {}) | {"head": 0.01}]
    changed = {name for name, value in tuned.state_dict().items() if not torch.equal(value, before[name])}
    layers = {int(name.split(".")[3]) for name in changed if name.startswith("encoder.efficientat.features.")}
    assert layers == set(range(17 - trained, 17))
    moved = {name for name in changed if name.endswith("running_mean")}
    assert moved == {name for name in before if name.endswith("running_mean") and int(name.split(".")[3]) in layers}
    assert all(name.startswith(("encoder.efficientat.features.", "head.")) for name in changed)


def test_encoder_is_loaded_once() -> None:
    settings = parse_run([CONFIG, *TINY]).settings.encoder
    assert encoder_of(settings) is encoder_of(settings)


def test_frozen_encoder_has_the_published_weights() -> None:
    settings = parse_run([CONFIG, *TINY]).settings.encoder
    published = encoder_of(settings)
    config = EncoderConfig(encoder_config=published.model.config.to_diff_dict(), num_labels=1, finetune="full")
    trained = EncoderForAudioClassification(config)
    frozen = frozen_encoder(trained, settings)
    for name, value in published.base.state_dict().items():
        assert torch.equal(frozen.encoder.base_model.state_dict()[name], value)
    assert any(not torch.equal(a, b) for a, b in zip(trained.parameters(), frozen.parameters(), strict=False))


def test_only_embeddings_of_a_frozen_encoder_are_cached(model) -> None:
    rows, pools = toy_clips()
    windows = AudioSetWindows(rows, pools.items, SECONDS, RATE, Augmentation(mixup_probability=0.5))
    data = DetectionData(rows, None, pools, None, windows, {"validation": toy_side()}, EXTRACTOR, SECONDS, "f1")
    with pytest.raises(ValueError, match="mixup_probability"):
        cache_embeddings(data, model)
    config = EncoderConfig(encoder_config=model.config.encoder_config.to_diff_dict(), num_labels=1, finetune="full")
    assert cache_embeddings(data, EncoderForAudioClassification(config)) is data
    plain = dataclasses.replace(data, train=toy_windows(), encoder=EncoderSettings(encoder_views=VIEWS))
    embedded = cache_embeddings(plain, model)
    assert embedded.train.embeddings.views == VIEWS
    assert set(embedded.sides["validation"][0]) == {"embeddings", "label", "readable", "seed"}

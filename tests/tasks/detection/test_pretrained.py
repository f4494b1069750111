"""Windows by their stored embeddings: the numbers of windows that are embedded alone, computed once."""

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
from tasks.detection.pretrained import cached, encoder_model_settings, encoder_of, frozen_encoder
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


def toy_files(place: str) -> tuple[datasets.Dataset, Items, dict[str, bytes]]:
    """Rows that name the files of the toy clips in a folder or bucket, items of them, and the files by name."""
    rows, pools = toy_clips()
    sounds = {f"{row:04d}.wav": sound["bytes"] for row, sound in enumerate(rows["audio"])}
    field = rows.features.arrow_schema.field("audio")
    paths = pa.array([f"{place}/{name}" for name in sounds])
    elsewhere = pa.StructArray.from_arrays([pa.nulls(len(sounds), pa.binary()), paths], fields=[*field.type])
    rows = datasets.Dataset(rows.data.table.set_column(1, field, elsewhere))
    return rows, pools.items.take(np.arange(0, len(sounds), 4)), sounds


@pytest.fixture
def clips_on_s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A store with the sound of each toy clip, and a function that gives windows of them as a new run reads them."""
    rows, items, sounds = toy_files("s3://clips/audio")
    monkeypatch.setattr(storage_downloads, "FIRST_PAUSE", 0.01)
    made = []

    def windows() -> AudioSetWindows:
        made.append(S3FileManager(min_free_bytes=0))
        S3FileManager.adopt(made[-1])
        return AudioSetWindows(rows, items, SECONDS, RATE)

    before = S3FileManager.live()
    with serve_s3() as s3:
        for name, sound in sounds.items():
            s3.put(f"s3://clips/audio/{name}", sound)
        yield s3, windows
        for manager in made:
            manager.close()
    S3FileManager.adopt(before)


def test_remote_sounds_are_embedded_again_once_they_change(
    model, clips_on_s3, monkeypatch: pytest.MonkeyPatch
) -> None:
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
        patch.setattr(type(model), "embed", lambda *given: pytest.fail("was computed again"))
        again = embedded_training(windows(), 1, model, EXTRACTOR)
    assert s3.proxy.count() == 1
    assert again.embeddings == first.embeddings
    running = windows()
    heard = running[0]["audio"]  # an older copy is at hand
    s3.put("s3://clips/audio/0000.wav", s3.contents("s3://clips/audio")["0001.wav"])
    changed = embedded_training(running, 1, model, EXTRACTOR)
    fresh = embedded_training(windows(), 1, model, EXTRACTOR)
    for item in range(count):
        same = np.array_equal(changed[item]["embeddings"], first[item]["embeddings"])
        assert same == (item > 0)
        assert np.array_equal(changed[item]["embeddings"], fresh[item]["embeddings"])
    assert not np.array_equal(windows()[0]["audio"], heard)


def test_an_outage_is_not_stored_as_another_sound(model, cache: Path, clips_on_s3) -> None:
    s3, windows = clips_on_s3
    s3.proxy.rules.append(Rule("^GET /clips/audio/0000.wav", Status(503)))
    with pytest.raises(OSError, match="audio/0000.wav"):
        embedded_training(windows(), 1, model, EXTRACTOR)
    s3.proxy.rules.clear()
    stored = embedded_training(windows(), 1, model, EXTRACTOR)
    assert [stored[item]["item"] for item in range(len(stored))] == [*range(len(stored))]


def test_local_sounds_are_embedded_again_once_they_change(model, tmp_path: Path) -> None:
    """Also if size and time of change are those of before, as after `rsync -t`."""
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


def test_a_file_that_cannot_be_opened_is_not_stored_as_another_sound(
    model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, items, sounds = toy_files(str(tmp_path))
    for name, sound in sounds.items():
        (tmp_path / name).write_bytes(sound)
    whole = builtins.open

    def refuse(file: Any, *given: Any, **named: Any) -> Any:
        if str(file).endswith("0000.wav"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return whole(file, *given, **named)

    windows = AudioSetWindows(rows, items, SECONDS, RATE)
    with monkeypatch.context() as patch:
        patch.setattr(builtins, "open", refuse)
        with pytest.raises(OSError, match="0000.wav"):
            embedded_training(windows, 1, model, EXTRACTOR)
    stored = embedded_training(windows, 1, model, EXTRACTOR)
    assert [stored[item]["item"] for item in range(len(stored))] == [*range(len(stored))]


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
        ("bf16_full_eval", ["--bf16_full_eval", "true", "--use_cpu", "true"]),
    ],
)
def test_settings_that_do_not_fit_the_encoder_are_refused(key: str, rest: list[str]) -> None:
    with pytest.raises(ValueError, match=key):
        TASK.features(parse_run([CONFIG, *TINY, *rest]))


@pytest.mark.parametrize("key", ["clip_seconds", "hop_seconds"])
def test_a_saved_model_keeps_its_windows(key: str, model, tmp_path: Path) -> None:
    config = EncoderConfig(encoder_config=model.config.encoder_config.to_dict(), num_labels=1)
    EncoderForAudioClassification(config).save_pretrained(tmp_path)
    kept = config.encoder_config.to_dict()
    same = {"clip_seconds": str(kept["window_seconds"]), "hop_seconds": str(kept["hop_seconds"])}

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


class NotesRates(TrainerCallback):
    """The learning rates of each step by the name of the part."""

    def __init__(self) -> None:
        self.rates: list[dict[str, float]] = []

    def on_step_end(self, *args: Any, optimizer: torch.optim.Optimizer, **kwargs: Any) -> None:
        self.rates.append({group["name"]: group["lr"] for group in optimizer.param_groups})


@pytest.mark.parametrize(("finetune", "trained"), [("none", 0), ("last_n", 2), ("full", 17)])
def test_a_run_trains_the_parts_that_it_is_to_train_at_their_rates(
    model, finetune: str, trained: int, tmp_path: Path
) -> None:
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
    notes = NotesRates()
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
        callbacks=[notes],
    )
    trainer.train()
    assert notes.rates == 3 * [({"encoder": 1e-4} if trained else {}) | {"head": 0.01}]
    changed = {name for name, value in tuned.state_dict().items() if not torch.equal(value, before[name])}
    layers = {int(name.split(".")[3]) for name in changed if name.startswith("encoder.efficientat.features.")}
    assert layers == set(range(17 - trained, 17))
    moved = {name for name in changed if name.endswith("running_mean")}
    assert moved == {name for name in before if name.endswith("running_mean") and int(name.split(".")[3]) in layers}
    assert all(name.startswith(("encoder.efficientat.features.", "head.")) for name in changed)


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

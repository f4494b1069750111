"""Test the data of the attention task: the split by hashed ids, items with masks, checks, and baselines."""

import datasets
import numpy as np
import pytest
import torch

from evaluation.splits import SIDES, id_hash
from launch.run import parse_run
from modeling import FusionConfig, FusionForRegression
from tasks.attention.data import AttentionData, prepare
from tasks.attention.evaluate import baselines
from tasks.attention.items import CreativeDataset, embedding_sizes
from tasks.attention.split import CreativeSplit, CreativeSplitSettings
from tasks.attention.task import TASK
from tests.conftest import REPOSITORY
from tests.helpers.attention_rows import SIZES, changed, make_rows, without
from training.collators import PaddingCollator
from training.fusion_trainer import ablations_of
from training.task import Run

CONFIG = "configs/tunein_attention.json"


def prepare_data(rows: datasets.Dataset, *settings: str) -> tuple[Run, AttentionData]:
    """Return a run of the config, and its data."""
    run = parse_run([CONFIG, *settings])
    return run, prepare(rows, run)


@pytest.fixture(scope="module")
def rows() -> datasets.Dataset:
    return make_rows()


# Split


def test_new_ids_do_not_move_other_ids_to_another_split() -> None:
    ids = [f"{number}" for number in range(500)]
    half, full = (CreativeSplit.of(part, CreativeSplitSettings()) for part in (ids[::2], ids))
    for side in SIDES:
        assert set(half.members[side]) == set(full.members[side]) & set(ids[::2])
    assert sorted(sum(full.members.values(), [])) == sorted(ids)


def test_splits_have_the_requested_fractions_and_the_lowest_hashes_form_the_test_split() -> None:
    ids = [f"{number}" for number in range(4000)]
    split = CreativeSplit.of(ids, CreativeSplitSettings(validation_fraction=0.2, test_fraction=0.1))
    shares = {side: len(split.indices[side]) / len(ids) for side in SIDES}
    assert shares == pytest.approx({"train": 0.7, "validation": 0.2, "test": 0.1}, abs=0.02)
    assert all(id_hash(name, 0) < 0.1 for name in split.members["test"])
    assert [ids[row] for row in split.indices["test"]] == sorted(split.members["test"], key=ids.index)
    larger = CreativeSplit.of(ids, CreativeSplitSettings(validation_fraction=0.2, test_fraction=0.2))
    assert set(split.members["test"]) < set(larger.members["test"])


def test_the_digest_depends_on_the_split_but_not_on_the_order() -> None:
    ids = [f"{number}" for number in range(50)]
    split = CreativeSplit.of(ids, CreativeSplitSettings())
    assert CreativeSplit.of(ids[::-1], CreativeSplitSettings()).sha256 == split.sha256 == split.record()["sha256"]
    assert CreativeSplit.of(ids, CreativeSplitSettings(split_seed=1)).sha256 != split.sha256
    assert CreativeSplit.of(ids[1:], CreativeSplitSettings()).sha256 != split.sha256
    record = split.record()
    assert record["counts"] == {side: len(split.indices[side]) for side in SIDES}
    assert record["trials"] == split.members


@pytest.mark.parametrize(("validation", "test"), [(0, 0.1), (0.1, 0), (0.5, 0.5), (-0.1, 0.2)])
def test_fractions_that_leave_a_split_empty_are_rejected(validation: float, test: float) -> None:
    with pytest.raises(ValueError, match=f"validation_fraction={validation}, test_fraction={test}: "):
        CreativeSplitSettings(validation_fraction=validation, test_fraction=test)


def test_a_split_with_fewer_than_two_creatives_is_rejected_only_for_training(rows: datasets.Dataset) -> None:
    four_rows = rows.select(range(4))
    with pytest.raises(ValueError, match="split_seed=0: .* 2 of 4 creatives"):
        prepare_data(four_rows)
    data = prepare(four_rows, parse_run([CONFIG]), saved={})
    assert len(data.sides["all"]) == 4


# Items and batches


def test_an_item_holds_every_embedding_and_masks_missing_modalities(rows: datasets.Dataset) -> None:
    lacking = without(without(rows, "audio", [2]), "text", [3])
    dataset = CreativeDataset(lacking, SIZES)
    assert len(dataset) == 60
    for index in range(6):
        row, item = lacking[index], dataset[index]
        assert item.keys() == {"labels", *(f"{name}_{part}" for name in SIZES for part in ("embeddings", "mask"))}
        assert item["labels"].item() == pytest.approx(row["target"])
        assert item["labels"].shape == ()
        for name, size in SIZES.items():
            embeddings, mask = item[f"{name}_embeddings"], item[f"{name}_mask"]
            assert embeddings.shape == (len(mask), size)
            assert embeddings.dtype == torch.float32
            if row[f"has_{name}"]:
                assert len(mask) == row.get(f"{name}_frames", 1)
                assert mask.all()
                assert embeddings.flatten().tolist() == pytest.approx(row[name])
            else:
                assert (name, index) in (("audio", 2), ("text", 3))
                assert not mask.any()
                assert not embeddings.any()


def test_the_seed_of_an_index_has_no_effect(rows: datasets.Dataset) -> None:
    dataset = CreativeDataset(rows, SIZES)
    for name, value in dataset[3, 12345].items():
        assert torch.equal(value, dataset[3][name]), name


def test_batches_are_padded_and_padding_does_not_change_predictions(rows: datasets.Dataset) -> None:
    items = [CreativeDataset(without(rows, "audio", [1]), SIZES)[index] for index in range(8)]
    batch = PaddingCollator()(items)
    assert batch["labels"].tolist() == [item["labels"].item() for item in items]
    for name, size in SIZES.items():
        frames = [len(item[f"{name}_mask"]) for item in items]
        assert batch[f"{name}_embeddings"].shape == (8, max(frames), size)
        for index, count in enumerate(frames):
            assert torch.equal(batch[f"{name}_embeddings"][index, :count], items[index][f"{name}_embeddings"])
            assert not batch[f"{name}_embeddings"][index, count:].any()
            assert not batch[f"{name}_mask"][index, count:].any()
    # The items differ in length, so there is padding to test.
    assert len({len(item["audio_mask"]) for item in items}) > 1
    assert not batch["audio_mask"][1].any()
    config = FusionConfig(modalities=list(SIZES), embedding_sizes=SIZES, embedding_pooling="attention")
    model = FusionForRegression(config).eval()
    with torch.inference_mode():
        alone = torch.cat([model(**PaddingCollator()([item])).predictions for item in items])
        torch.testing.assert_close(model(**batch).predictions, alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("hidden", SIZES)
def test_a_hidden_modality_equals_a_missing_one(rows: datasets.Dataset, hidden: str) -> None:
    item = CreativeDataset(rows, SIZES, hidden=frozenset({hidden}))[0]
    lacking = CreativeDataset(without(rows, hidden, [0]), SIZES)[0]
    assert item.keys() == lacking.keys()
    assert not item[f"{hidden}_mask"].any()
    assert all(torch.equal(item[name], lacking[name]) for name in item)
    assert all(item[f"{name}_mask"].all() for name in set(SIZES) - {hidden})


def test_ablations_hide_all_but_one_modality_or_just_one() -> None:
    ablations = ablations_of(("text", "audio", "video"))
    assert ablations["text alone"] == {"audio", "video"}
    assert ablations["without text"] == {"text"}
    assert len(ablations) == 6
    # With two modalities, "without text" would equal "audio alone".
    assert set(ablations_of(("text", "audio"))) == {"text alone", "audio alone"}


# Data, model settings and checks


def test_creatives_without_a_target_are_excluded_and_counted(rows: datasets.Dataset) -> None:
    _, data = prepare_data(changed(changed(rows, [4, 9], target=None), [11], target=float("nan")))
    assert data.left_out == {"no target": 3}
    assert data.record()["left_out"] == {"no target": 3}
    ids = sum(data.split.members.values(), [])
    assert len(ids) == 57
    assert not {"c4", "c9", "c11"} & set(ids)
    assert np.isfinite(data.train.targets()).all()
    assert prepare_data(rows)[1].left_out == {}


def test_missing_modalities_are_counted_by_split(rows: datasets.Dataset) -> None:
    _, complete = prepare_data(rows)
    index = int(rows["creative_id"][:].index(complete.split.members["test"][0]))
    _, data = prepare_data(without(rows, "audio", [index]))
    missing = {side: counts["without"]["audio"] for side, counts in data.record()["sides"].items()}
    assert missing == {"train": 0, "validation": 0, "test": 1}
    assert data.split.sha256 == complete.split.sha256


def test_model_settings_follow_from_the_data(rows: datasets.Dataset) -> None:
    lacking = without(rows, "audio", [0, 1, 2])  # the first creatives lack audio
    assert embedding_sizes(lacking, list(SIZES)) == SIZES
    run, data = prepare_data(lacking)
    settings = TASK.model_settings(data, None, run)
    assert settings["embedding_sizes"] == SIZES
    assert settings["target_unit"] == "attention"
    assert settings["target_mean"] == pytest.approx(data.train.targets().mean())
    assert settings["target_std"] == pytest.approx(data.train.targets().std())


def test_the_input_scaling_comes_from_present_embeddings_of_the_training_split(rows: datasets.Dataset) -> None:
    # The first dimension of video is constant: it must be centred but not scaled.
    constant = [dict(row) | {"video": [7.0, *row["video"][1:]]} for row in without(rows, "audio", [5, 6])]
    run, data = prepare_data(datasets.Dataset.from_list(constant, features=rows.features))
    model = FusionForRegression(FusionConfig(modalities=list(SIZES), embedding_sizes=SIZES))
    TASK.initialise(model, data, new=True, resumed=False)
    members = [row for row in constant if row["creative_id"] in data.split.members["train"]]
    frames = np.concatenate([np.reshape(row["audio"], (-1, 4)) for row in members if row["has_audio"]])
    audio, video = (model.fusion.branches[name] for name in ("audio", "video"))
    np.testing.assert_allclose(audio.input_mean, frames.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(audio.input_std, frames.std(0), rtol=1e-5)
    assert video.input_mean[0] == 7
    assert video.input_std[0] == 1
    before = audio.input_mean.clone()
    other = prepare_data(make_rows(seed=1))[1]
    TASK.initialise(model, other, new=False, resumed=False)  # a saved model keeps its scaling
    assert torch.equal(audio.input_mean, before)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["--model_config.modalities", '["text", "smell"]'], "^modalities='smell': .*back_audio"),
        (["--model_config.modalities", '["back_audio"]'], "^modalities='back_audio': .*model_config.modalities"),
        (["--learning_rates.text", "0"], "learning_rates.text=0: "),
        (["--metric_for_best_model", "ccc"], "metric_for_best_model ?= ?'ccc'.*spearman, pearson, r2"),
        (["--test_fraction", "1"], "validation_fraction=0.15, test_fraction=1.0: "),
        (["--split_by", "song"], "'split_by'.*'split_seed'"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_an_invalid_setting_is_named_in_one_line(rows: datasets.Dataset, settings: list[str], message: str) -> None:
    with pytest.raises((ValueError, SystemExit), match=message) as error:
        prepare_data(without(rows, "back_audio", list(range(60))), *settings)
    assert "\n" not in str(error.value)


def test_equal_targets_and_batches_of_one_are_rejected(rows: datasets.Dataset) -> None:
    run, data = prepare_data(changed(rows, list(range(60)), target=2.5))
    with pytest.raises(ValueError, match=r"target=2\.5: "):
        TASK.model_settings(data, None, run)
    run, data = prepare_data(rows, "--per_device_train_batch_size", "1")
    with pytest.raises(ValueError, match="per_device_train_batch_size ?= ?1: "):
        TASK.sampler(data, run)


def test_a_saved_model_keeps_its_sizes_and_masks_modalities_that_are_missing_everywhere(
    rows: datasets.Dataset,
) -> None:
    lacking = without(rows, "back_audio", list(range(60)))
    sizes = embedding_sizes(lacking, list(SIZES), SIZES)
    assert sizes == SIZES
    assert not CreativeDataset(lacking, sizes)[0]["back_audio_mask"].any()
    with pytest.raises(ValueError, match="^text: .* 6, .* 8"):
        embedding_sizes(rows, list(SIZES), SIZES | {"text": 8})


# Baselines


def test_baselines_depend_on_training_and_validation_targets_but_not_on_test_targets(rows: datasets.Dataset) -> None:
    _, data = prepare_data(rows)
    predictions = baselines(data, data.sides["test"])
    names = [f"ridge on {name}" for name in SIZES]
    assert list(predictions) == ["mean", *names, "ridge on all"]
    assert predictions["mean"] == pytest.approx(np.full(len(data.sides["test"]), data.train.targets().mean()))
    target = data.sides["test"].targets()
    errors = {name: ((values - target) ** 2).mean() for name, values in predictions.items()}
    assert errors["ridge on text"] < 0.1 * errors["mean"]  # the target is the first dimension of text

    def predict_with_other_targets(side: str) -> dict[str, np.ndarray]:
        members = set(data.split.members[side])
        table = [dict(row) | ({"target": -3 * row["target"]} if row["creative_id"] in members else {}) for row in rows]
        _, other = prepare_data(datasets.Dataset.from_list(table, features=rows.features))
        return baselines(other, other.sides["test"])

    assert all(
        np.array_equal(values, predictions[name]) for name, values in predict_with_other_targets("test").items()
    )
    assert not np.allclose(predict_with_other_targets("train")["ridge on all"], predictions["ridge on all"])
    assert not np.allclose(predict_with_other_targets("validation")["ridge on text"], predictions["ridge on text"])


def test_the_sample_has_missing_targets_and_all_modalities() -> None:
    sample = datasets.load_dataset(str(REPOSITORY / "hf_datasets/tunein"), "sample", split="train")
    _, data = prepare_data(sample)
    without_target = sum(target is None for target in sample["target"][:])
    assert data.left_out == {"no target": without_target}
    assert without_target > 0
    assert data.train.sizes == {"text": 384, "video": 512, "audio": 64, "back_audio": 64}
    assert all(data.train.present(name).mean() > 0.8 for name in data.train.modalities)

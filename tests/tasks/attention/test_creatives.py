"""Creatives as training items: sides by a hash of the ids, ragged embeddings with masks, and what is left out."""

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


def prepared(rows: datasets.Dataset, *settings: str) -> tuple[Run, AttentionData]:
    """Return a run of the config and its data."""
    run = parse_run([CONFIG, *settings])
    return run, prepare(rows, run)


@pytest.fixture(scope="module")
def rows() -> datasets.Dataset:
    """Sixty creatives."""
    return make_rows()


# Sides


def test_an_id_that_is_added_moves_no_other() -> None:
    ids = [f"{number}" for number in range(500)]
    some, all_of_them = (CreativeSplit.of(part, CreativeSplitSettings()) for part in (ids[::2], ids))
    for side in SIDES:
        assert set(some.members[side]) == set(all_of_them.members[side]) & set(ids[::2])
    assert sorted(sum(all_of_them.members.values(), [])) == sorted(ids)


def test_sides_have_the_fractions_that_were_asked_for_and_the_lowest_hashes_are_the_test() -> None:
    ids = [f"{number}" for number in range(4000)]
    split = CreativeSplit.of(ids, CreativeSplitSettings(validation_fraction=0.2, test_fraction=0.1))
    shares = {side: len(split.places[side]) / len(ids) for side in SIDES}
    assert shares == pytest.approx({"train": 0.7, "validation": 0.2, "test": 0.1}, abs=0.02)
    assert all(id_hash(name, 0) < 0.1 for name in split.members["test"])
    assert [ids[place] for place in split.places["test"]] == sorted(split.members["test"], key=ids.index)
    larger = CreativeSplit.of(ids, CreativeSplitSettings(validation_fraction=0.2, test_fraction=0.2))
    assert set(split.members["test"]) < set(larger.members["test"])


def test_the_digest_is_of_who_is_where_and_not_of_the_order() -> None:
    ids = [f"{number}" for number in range(50)]
    split = CreativeSplit.of(ids, CreativeSplitSettings())
    assert CreativeSplit.of(ids[::-1], CreativeSplitSettings()).sha256 == split.sha256 == split.record()["sha256"]
    assert CreativeSplit.of(ids, CreativeSplitSettings(split_seed=1)).sha256 != split.sha256
    assert CreativeSplit.of(ids[1:], CreativeSplitSettings()).sha256 != split.sha256
    record = split.record()
    assert record["counts"] == {side: len(split.places[side]) for side in SIDES}
    assert record["trials"] == split.members


@pytest.mark.parametrize(("validation", "test"), [(0, 0.1), (0.1, 0), (0.5, 0.5), (-0.1, 0.2)])
def test_fractions_that_leave_a_side_empty_are_refused(validation: float, test: float) -> None:
    with pytest.raises(ValueError, match="must be above 0 and leave something to train on"):
        CreativeSplitSettings(validation_fraction=validation, test_fraction=test)


def test_a_side_with_fewer_than_two_creatives_is_refused_for_training_alone(rows: datasets.Dataset) -> None:
    few = rows.select(range(4))
    with pytest.raises(ValueError, match="fewer than 2 of 4 creatives; change the fractions, or split_seed"):
        prepared(few)
    data = prepare(few, parse_run([CONFIG]), saved={})
    assert len(data.sides["all"]) == 4


# Items and batches


def test_an_item_is_as_long_as_its_creative_and_what_is_missing_is_masked(rows: datasets.Dataset) -> None:
    lacking = without(without(rows, "audio", [2]), "text", [3])
    dataset = CreativeDataset(lacking, SIZES)
    assert len(dataset) == 60
    for place in range(6):
        row, item = lacking[place], dataset[place]
        assert item.keys() == {"labels", *(f"{name}_{kind}" for name in SIZES for kind in ("embeddings", "mask"))}
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
                assert (name, place) in (("audio", 2), ("text", 3))
                assert not mask.any()
                assert not embeddings.any()


def test_a_seed_beside_the_index_changes_nothing(rows: datasets.Dataset) -> None:
    dataset = CreativeDataset(rows, SIZES)
    for name, value in dataset[3, 12345].items():
        assert torch.equal(value, dataset[3][name]), name


def test_a_batch_is_padded_to_its_longest_and_padding_changes_no_prediction(rows: datasets.Dataset) -> None:
    items = [CreativeDataset(without(rows, "audio", [1]), SIZES)[place] for place in range(8)]
    batch = PaddingCollator()(items)
    assert batch["labels"].tolist() == [item["labels"].item() for item in items]
    for name, size in SIZES.items():
        frames = [len(item[f"{name}_mask"]) for item in items]
        assert batch[f"{name}_embeddings"].shape == (8, max(frames), size)
        for place, count in enumerate(frames):
            assert torch.equal(batch[f"{name}_embeddings"][place, :count], items[place][f"{name}_embeddings"])
            assert not batch[f"{name}_embeddings"][place, count:].any()
            assert not batch[f"{name}_mask"][place, count:].any()
    assert len({len(item["audio_mask"]) for item in items}) > 1
    assert not batch["audio_mask"][1].any()
    config = FusionConfig(modalities=list(SIZES), embedding_sizes=SIZES, embedding_pooling="attention")
    model = FusionForRegression(config).eval()
    with torch.inference_mode():
        alone = torch.cat([model(**PaddingCollator()([item])).predictions for item in items])
        torch.testing.assert_close(model(**batch).predictions, alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("hidden", SIZES)
def test_a_hidden_modality_is_as_if_it_were_not_there(rows: datasets.Dataset, hidden: str) -> None:
    item = CreativeDataset(rows, SIZES, hidden=frozenset({hidden}))[0]
    lacking = CreativeDataset(without(rows, hidden, [0]), SIZES)[0]
    assert item.keys() == lacking.keys()
    assert not item[f"{hidden}_mask"].any()
    assert all(torch.equal(item[name], lacking[name]) for name in item)
    assert all(item[f"{name}_mask"].all() for name in set(SIZES) - {hidden})


def test_what_is_hidden_tells_each_modality_alone_and_all_but_each() -> None:
    found = ablations_of(("text", "audio", "video"))
    assert found["text alone"] == {"audio", "video"}
    assert found["without text"] == {"text"}
    assert len(found) == 6
    assert set(ablations_of(("text", "audio"))) == {"text alone", "audio alone"}  # the others are the same


# What the data decide


def test_creatives_without_a_target_are_left_out_and_counted(rows: datasets.Dataset) -> None:
    _, data = prepared(changed(changed(rows, [4, 9], target=None), [11], target=float("nan")))
    assert data.left_out == {"no target": 3}
    assert data.record()["left_out"] == {"no target": 3}
    ids = sum(data.split.members.values(), [])
    assert len(ids) == 57
    assert not {"c4", "c9", "c11"} & set(ids)
    assert np.isfinite(data.train.targets()).all()
    assert prepared(rows)[1].left_out == {}


def test_what_each_side_lacks_is_counted(rows: datasets.Dataset) -> None:
    _, whole = prepared(rows)
    place = int(rows["creative_id"][:].index(whole.split.members["test"][0]))
    _, data = prepared(without(rows, "audio", [place]))
    lacks = {side: found["without"]["audio"] for side, found in data.record()["sides"].items()}
    assert lacks == {"train": 0, "validation": 0, "test": 1}
    assert data.split.sha256 == whole.split.sha256


def test_sizes_are_those_of_the_data(rows: datasets.Dataset) -> None:
    lacking = without(rows, "audio", [0, 1, 2])  # those that come first have none
    assert embedding_sizes(lacking, list(SIZES)) == SIZES
    run, data = prepared(lacking)
    settings = TASK.model_settings(data, None, run)
    assert settings["embedding_sizes"] == SIZES
    assert settings["target_unit"] == "attention"
    assert settings["target_mean"] == pytest.approx(data.train.targets().mean())
    assert settings["target_std"] == pytest.approx(data.train.targets().std())


def test_a_new_model_gets_the_scaling_of_the_embeddings_that_it_is_trained_on(rows: datasets.Dataset) -> None:
    """Of frames that are there, of training alone; a number that never changes is centred and not blown up."""
    constant = [dict(row) | {"video": [7.0, *row["video"][1:]]} for row in without(rows, "audio", [5, 6])]
    run, data = prepared(datasets.Dataset.from_list(constant, features=rows.features))
    model = FusionForRegression(FusionConfig(modalities=list(SIZES), embedding_sizes=SIZES))
    TASK.initialise(model, data, new=True, resumed=False)
    members = [row for row in constant if row["creative_id"] in data.split.members["train"]]
    heard = np.concatenate([np.reshape(row["audio"], (-1, 4)) for row in members if row["has_audio"]])
    audio, video = (model.fusion.branches[name] for name in ("audio", "video"))
    np.testing.assert_allclose(audio.input_mean, heard.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(audio.input_std, heard.std(0), rtol=1e-5)
    assert video.input_mean[0] == 7
    assert video.input_std[0] == 1
    before = audio.input_mean.clone()
    other = prepared(make_rows(seed=1))[1]
    TASK.initialise(model, other, new=False, resumed=False)  # a saved model keeps its own
    assert torch.equal(audio.input_mean, before)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["--model_config.modalities", '["text", "smell"]'], "modalities: the data set has no 'smell'; it has "),
        (
            ["--model_config.modalities", '["back_audio"]'],
            "no creative has 'back_audio'; leave it out of model_config",
        ),
        (["--learning_rates.text", "0"], "learning_rates.text=0: .* Give a number above 0"),
        (["--metric_for_best_model", "ccc"], "metric_for_best_model = 'ccc' is not known; .*spearman, pearson, r2"),
        (["--test_fraction", "1"], "must be above 0 and leave something to train on"),
        (["--split_by", "song"], "unknown key 'split_by'; did you mean 'split_seed'"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_setting_that_cannot_be_is_named_in_one_line(rows: datasets.Dataset, settings: list[str], said: str) -> None:
    with pytest.raises((ValueError, SystemExit), match=said) as caught:
        prepared(without(rows, "back_audio", list(range(60))), *settings)
    assert "\n" not in str(caught.value)


def test_targets_that_are_all_equal_and_batches_of_one_are_refused(rows: datasets.Dataset) -> None:
    run, data = prepared(changed(rows, list(range(60)), target=2.5))
    with pytest.raises(ValueError, match=r"training targets are 2.5: there is nothing to learn"):
        TASK.model_settings(data, None, run)
    run, data = prepared(rows, "--per_device_train_batch_size", "1")
    with pytest.raises(ValueError, match="per_device_train_batch_size = 1: BatchNorm has no variance of one item"):
        TASK.sampler(data, run)


def test_a_saved_model_takes_its_own_sizes_and_masks_what_nobody_has(rows: datasets.Dataset) -> None:
    lacking = without(rows, "back_audio", list(range(60)))
    sizes = embedding_sizes(lacking, list(SIZES), SIZES)
    assert sizes == SIZES
    assert not CreativeDataset(lacking, sizes)[0]["back_audio_mask"].any()
    with pytest.raises(ValueError, match="text: an embedding of the data set has 6 numbers and the model takes 8"):
        embedding_sizes(rows, list(SIZES), SIZES | {"text": 8})


# Baselines


def test_baselines_are_fitted_on_training_and_chosen_on_validation_alone(rows: datasets.Dataset) -> None:
    """Whatever the targets of the test are, they say the same; those of the other sides change them."""
    _, data = prepared(rows)
    found = baselines(data, data.sides["test"])
    names = [f"ridge on {name}" for name in SIZES]
    assert list(found) == ["mean", *names, "ridge on all"]
    assert found["mean"] == pytest.approx(np.full(len(data.sides["test"]), data.train.targets().mean()))
    target = data.sides["test"].targets()
    errors = {name: ((values - target) ** 2).mean() for name, values in found.items()}
    assert errors["ridge on text"] < 0.1 * errors["mean"]  # the target is a number of the text's

    def after(side: str) -> dict[str, np.ndarray]:
        places = [place for place, name in enumerate(rows["creative_id"][:]) if name in data.split.members[side]]
        table = [
            dict(row) | ({"target": -3 * row["target"]} if place in places else {}) for place, row in enumerate(rows)
        ]
        _, other = prepared(datasets.Dataset.from_list(table, features=rows.features))
        return baselines(other, other.sides["test"])

    assert all(np.array_equal(values, found[name]) for name, values in after("test").items())
    assert not np.allclose(after("train")["ridge on all"], found["ridge on all"])
    assert not np.allclose(after("validation")["ridge on text"], found["ridge on text"])


def test_the_sample_has_sides_and_lacks_what_its_card_says() -> None:
    found = datasets.load_dataset(str(REPOSITORY / "hf_datasets/tunein"), "sample", split="train")
    _, data = prepared(found)
    lacking = sum(target is None for target in found["target"][:])
    assert data.left_out == {"no target": lacking}
    assert lacking > 0
    assert data.train.sizes == {"text": 384, "video": 512, "audio": 64, "back_audio": 64}
    assert all(data.train.present(name).mean() > 0.8 for name in data.train.modalities)

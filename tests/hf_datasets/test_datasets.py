"""Requirements on every data set in hf_datasets/. A new folder with a builder.py is tested automatically."""

import importlib
import re
import shutil
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from hf_datasets.builders import builder_class
from hf_datasets.defects import KINDS, make_defect
from hf_datasets.names import HERE, data_set_names
from hf_datasets.samples import build_sample
from hf_datasets.song_rows import FEATURES as SIGNAL_FEATURES
from media.audio import read_audio

NAMES = data_set_names()
SAMPLE_LIMIT = 5_000_000  # bytes, all configs of a data set together
ONE_STEP = 0.0016  # uS, quantisation step of the synthetic EDA; the last bit of a sine may change its rounding


def card(name: str) -> tuple[dict, str]:
    _, front, body = (HERE / name / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(front), body


def sample_paths(name: str, config: str) -> dict[str, Path]:
    """Return the file of each split."""
    (entry,) = [entry for entry in card(name)[0]["configs"] if entry["config_name"] == config]
    return {file["split"]: HERE / name / file["path"] for file in entry["data_files"]}


CONFIGS = [(name, entry["config_name"]) for name in NAMES for entry in card(name)[0]["configs"]]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory) -> dict[tuple[str, str], datasets.Dataset]:
    """Load the rows of every committed config, from a copy of the folder without the output of a local `prepare`."""
    cache, folder = str(tmp_path_factory.mktemp("cache")), tmp_path_factory.mktemp("fresh")
    for name in NAMES:
        shutil.copytree(HERE / name, folder / name, ignore=shutil.ignore_patterns("data", ".huggingface.yaml"))
    rows = {}
    for name, config in CONFIGS:
        splits = datasets.load_dataset(str(folder / name), config, cache_dir=cache)
        assert list(splits) == list(sample_paths(name, config))
        rows[name, config] = datasets.concatenate_datasets(list(splits.values()))
    return rows


def test_the_list_of_data_sets_is_not_empty():
    assert "pmemo" in NAMES


@pytest.mark.parametrize("name", NAMES)
def test_the_builder_is_arrow_based_and_its_file_is_not_named_like_its_folder(name):
    builder = builder_class(name)
    assert issubclass(builder, datasets.ArrowBasedBuilder)
    assert builder.SHARD_INPUTS > 0
    assert str(builder.VERSION) != "0.0.0"
    assert not (HERE / name / f"{name}.py").exists()  # `load_dataset` refuses folders with such a script


@pytest.mark.parametrize("name", NAMES)
def test_the_first_config_of_the_card_is_the_default(name):
    configs = card(name)[0]["configs"]
    assert [entry["config_name"] for entry in configs if entry.get("default")] == [configs[0]["config_name"]]
    assert {entry["config_name"] for entry in configs} == set(
        importlib.import_module(f"hf_datasets.{name}.synthesize").SAMPLES
    )


@pytest.mark.parametrize("name", NAMES)
def test_the_card_has_licence_source_and_prepare_command(name):
    front, body = card(name)
    assert front["license"]
    assert "## Licence" in body
    assert "```bibtex" in body
    assert f"python -m hf_datasets.prepare {name} --raw_dir" in body
    assert "synthetic" in body


@pytest.mark.parametrize("name, config", CONFIGS)
def test_the_card_lists_the_columns(name, config, loaded):
    columns = card(name)[1].split("## Columns")[1].split("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", columns, re.MULTILINE) == loaded[name, config].column_names


@pytest.mark.parametrize("name", NAMES)
def test_the_card_lists_the_kinds_of_defects_of_the_builder_with_their_units(name):
    table = card(name)[1].split("## Defects")[1].split("\n## ")[0]
    listed = re.findall(r"^\| `(\w+)`(\*?) \| ([^|]*) \| [^|]+ \|$", table, re.MULTILINE)
    kinds = [KINDS[what] for what in builder_class(name).DEFECTS]
    expected = [(kind.name, "*" * kind.refused, kind.unit) for kind in kinds]
    assert [(what, star, unit.strip()) for what, star, unit in listed] == expected


@pytest.mark.parametrize("name", NAMES)
def test_the_committed_samples_are_small_and_listed_in_the_card(name):
    files = set((HERE / name / "sample").glob("*.parquet"))
    assert sum(path.stat().st_size for path in files) < SAMPLE_LIMIT
    assert files == {
        path for other, config in CONFIGS if other == name for path in sample_paths(name, config).values()
    }
    # Without the hash in the name, the cache of `datasets` would serve stale rows.
    assert all(re.search(r"-[0-9a-f]{16}\.parquet$", path.name) for path in files)


@pytest.mark.parametrize("name, config", CONFIGS)
def test_every_row_of_a_sample_is_marked_synthetic_and_has_a_unique_id(name, config, loaded):
    rows = loaded[name, config]
    assert len(rows) > 0
    assert all(rows["synthetic"])
    assert len(set(rows[rows.column_names[0]])) == len(rows)


@pytest.mark.parametrize("name, config", CONFIGS)
def test_defects_in_samples_are_documented_and_none_is_refused(name, config, loaded):
    all_defects = [defect for defects in loaded[name, config]["defects"] for defect in defects]
    assert all(defect["unit"] == make_defect(defect["what"])["unit"] for defect in all_defects)
    assert {defect["what"] for defect in all_defects} <= set(builder_class(name).DEFECTS)
    assert not any(KINDS[defect["what"]].refused for defect in all_defects)


@pytest.mark.parametrize("name, config", CONFIGS)
def test_signal_rows_have_sound_and_eda_in_range(name, config, loaded):
    rows = loaded[name, config]
    if not set(SIGNAL_FEATURES) <= set(rows.features):
        pytest.skip(f"{name} is not a data set of sounds and EDA")
    for row in rows:
        audio, rate = read_audio(row["audio"]["bytes"], name=row["audio"]["path"])
        assert len(audio) / rate == row["audio_seconds"]
        assert np.abs(audio).max() > 0.05
        assert 1 < row["eda_rate"] < 1100
        for trial in row["trials"]:
            eda = np.array(trial["eda"])
            assert np.nanmin(eda) > -10
            assert np.nanmax(eda) < 60
            assert np.isfinite(eda).mean() > 0.5
            # HKU956's listeners may stop a song early.
            listened = min(trial.get("play_duration") or row["audio_seconds"], row["audio_seconds"])
            assert abs(trial["offset_seconds"] + len(eda) / row["eda_rate"] - listened) < 1
        ratings = [row["arousal_mean"], row["valence_mean"], *(each["arousal_mean"] for each in row["dynamic"])]
        assert all(rating is None or 0 <= rating <= 1 for rating in ratings)
        times = [rating["time_seconds"] for rating in row["dynamic"]]
        assert times == sorted(set(times))
        assert len({trial["trial"] for trial in row["trials"]}) == len(row["trials"])


@pytest.mark.slow
@pytest.mark.parametrize("name, config", CONFIGS)
def test_the_committed_samples_can_be_rebuilt(name, config, tmp_path):
    """Sounds are compared as bytes if the same libsndfile encoded them, else after decoding."""
    committed = sample_paths(name, config)
    rebuilt = build_sample(name, config, tmp_path)
    assert [path.name.split("-")[1] for path in rebuilt] == list(committed)
    for new, old in zip(rebuilt, committed.values(), strict=True):
        assert_same_rows(pq.ParquetFile(new), pq.ParquetFile(old))
    companions = {path.name: path.read_text() for path in tmp_path.iterdir() if path.suffix != ".parquet"}
    assert {file: (HERE / name / "sample" / file).read_text() for file in companions} == companions


def assert_same_rows(rebuilt: pq.ParquetFile, committed: pq.ParquetFile) -> None:
    assert rebuilt.schema_arrow.equals(committed.schema_arrow)
    origins = [file.schema_arrow.metadata[b"synthesized_by"] for file in (rebuilt, committed)]
    for new, old in zip(rebuilt.read().to_pylist(), committed.read().to_pylist(), strict=True):
        if "audio_frames" in new:  # embeddings, without an encoder
            assert new == old
            continue
        media, seconds = ("clip", "clip_seconds") if "clip" in new else ("audio", "audio_seconds")
        sound, trials = (new.pop(media), old.pop(media)), (new.pop("trials", []), old.pop("trials", []))
        if origins[0] == origins[1]:
            assert sound[0] == sound[1]
        else:  # another encoder pads a clip differently, which changes its length
            lengths = new.pop(seconds), old.pop(seconds)
            assert lengths[0] == lengths[1] or lengths[0] == pytest.approx(lengths[1], abs=0.1)
            del new["defects"], old["defects"]
        assert new == old
        if media == "audio" and (sound[0] is not None or sound[1] is not None):
            np.testing.assert_allclose(*(read_audio(s["bytes"])[0][:150_000] for s in sound), atol=0.02)
        for a, b in zip(*trials, strict=True):
            np.testing.assert_allclose(a.pop("eda"), b.pop("eda"), atol=ONE_STEP, equal_nan=True)
            assert a == b

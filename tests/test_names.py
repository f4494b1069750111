"""The table of names: every name on our side exists, and every name that people search for is in it."""

import contextlib
import dataclasses
import importlib.util
import io
import pydoc
import re
from pathlib import Path

import pytest

from hf_datasets.prepare import parse
from launch.settings import setting_groups, settings_of
from tasks import TASKS
from tests.conftest import REPOSITORY
from training.settings import RunArguments, training_keys

# The rows after the header: other name, our names, difference.
TABLE = [
    [cell.strip() for cell in line.strip().strip("|").split(" | ")]
    for line in (REPOSITORY / "docs/names.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("| ")
][1:]
OUR_NAMES = sorted({name for row in TABLE for name in re.findall(r"`([^`]+)`", row[1])})
KEYS = {
    item.name
    for group in (RunArguments, training_keys(), *(g for t in TASKS for g in setting_groups(settings_of(t)).values()))
    for item in dataclasses.fields(group)
}
OTHER_NAMES = """
    train_audio2eda.py, configs/example1.yml, src/, ModelConfig.architecture, ModelConfig.params, OptimizerBuilder
    loading script, DatasetTypes, HKU956Dataset, PMEmo2019, self.eda_files, self.audio_files, _load_audio_file
    _load_eda_file, DataLoaderBuilder, __getitem__, S3FileManager, singleton, ThreadPoolExecutor, s3_download
    TCN, TCNBlock, Wavenet, WavenetStack, tanh(x) * sigmoid(x), dropout after
    AudioSetDataProcessor, process_and_save, configs/baby_cry.yaml, audio_root, pos_strong_paths, neg_strong_paths
    weak_paths, processed_data_dir, metadata.parquet, label_mappings.pkl, AudioSetDataset, exact crop
    TwoTierBatchSampler, hard negatives, run_all_tests.py
    text_input, video_frames, padding="max_length", _load_video_frames, _extract_audio_features, raw spectrogram
    98,432, train_sagemaker.py, PyTorch Estimator, ml.g5.large
    TuneInDataset, num_samples, sound_embedding_dim, s3_bucket, audio_pickle_paths, URLs of audio, aws_access_key_id
    Flatten, ReshapeTo256, projection to 256, current_segment, process_segment, has_next_segment, prepare_batches
    save_batch, pickles, traceback
"""


def options_of_prepare() -> str:
    with contextlib.redirect_stdout(io.StringIO()) as help_text, contextlib.suppress(SystemExit):
        parse(["--help"])
    return help_text.getvalue()


def exists(name: str) -> bool:
    """Return whether a command, an option of prepare, a path, a name in a module or a key of a config exists."""
    words = name.split()
    if words[0] == "python":
        paths = [word for word in words[3:] if "/" in word]
        return importlib.util.find_spec(words[2]) is not None and all((REPOSITORY / path).exists() for path in paths)
    if name.startswith("--"):
        return f"{name} " in options_of_prepare()
    if "/" in name or name.endswith(".py"):
        return Path(REPOSITORY, name).exists()
    if "." in name:
        return pydoc.locate(name) is not None
    return name in KEYS


@pytest.mark.parametrize("name", OUR_NAMES)
def test_each_of_our_names_exists(name: str) -> None:
    assert exists(name)


def test_a_wrong_name_is_noticed() -> None:
    wrong = ("training.trainer.Optimizers", "learning_rat", "configs/none.json", "python -m launch.none", "--no_such")
    assert not any(exists(name) for name in wrong)


def test_other_names_are_in_the_table() -> None:
    column = " ".join(row[0] for row in TABLE)
    names = re.split(r", |\n", OTHER_NAMES)
    assert [name for name in map(str.strip, names) if name not in column] == []

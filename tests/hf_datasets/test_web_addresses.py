"""An http(s):// URL instead of a folder is an error in one line, without its password and before any request."""

import pytest

from hf_datasets.audioset.synthesize import synthesize
from hf_datasets.names import data_set_names
from hf_datasets.prepare import main
from hf_datasets.tunein.write_batches import main as write_batches
from launch.run import parse_run
from tests.helpers.prepared_data import complaint
from training.rows import load_rows

ADDRESS = "https://ada:PASSWORD@host.invalid:8080/data?X-Amz-Signature=SIGNED"
SHOWN = "=https://host.invalid:8080/...: "


def check_message(message: str, key: str) -> None:
    assert f"{key}{SHOWN}" in message
    assert "PASSWORD" not in message
    assert "SIGNED" not in message


@pytest.mark.parametrize("name", data_set_names())
@pytest.mark.parametrize("address", [ADDRESS, ADDRESS.replace("https", "HTTPS")])
def test_raw_folders(name, address, tmp_path):
    message = complaint(main, name, "--raw_dir", address, "--output_dir", tmp_path / "out")
    check_message(message.replace("HTTPS", "https"), "--raw_dir")
    check_message(complaint(main, name, "--raw_dir", ADDRESS, "--check_only"), "--raw_dir")


def test_folders_of_sounds(tmp_path):
    synthesize(tmp_path, 10, 5, defects="none", suffix=".wav")
    metadata = tmp_path / "AudioSet" / "metadata"
    message = complaint(
        main, "audioset", "--raw_dir", metadata, "--audio_root", ADDRESS, "--output_dir", tmp_path / "out"
    )
    check_message(message, "--audio_root")


def test_folders_of_prepared_data(tmp_path):
    check_message(complaint(main, "pmemo", "--raw_dir", tmp_path, "--output_dir", ADDRESS), "--output_dir")
    check_message(complaint(write_batches, "--data_dir", ADDRESS, "--output_dir", tmp_path), "--data_dir")
    run = parse_run(["configs/tunein_attention.json", "--dataset", ADDRESS])
    with pytest.raises(ValueError) as error:
        load_rows(run.arguments, ["creative_id"])
    check_message(str(error.value), "dataset")

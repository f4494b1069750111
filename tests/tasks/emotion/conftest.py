import datasets
import pytest

from modeling import FusionProcessor
from tests.conftest import REPOSITORY
from tests.helpers.tiny_fusion import tiny_processor


@pytest.fixture(scope="package")
def rows(tmp_path_factory: pytest.TempPathFactory) -> datasets.Dataset:
    """Return the first 8 utterances of the sample, from a separate cache."""
    folder, cache = str(REPOSITORY / "hf_datasets/meld"), str(tmp_path_factory.mktemp("cache"))
    return datasets.load_dataset(folder, "sample", split="train", cache_dir=cache).select(range(8))


@pytest.fixture(scope="package")
def processor() -> FusionProcessor:
    return tiny_processor()

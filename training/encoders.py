"""Pretrained encoders by name: a folder, a name on the Hub, a published file, or a short name that is downloaded."""

import functools
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from huggingface_hub import constants, get_session, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, OfflineModeIsEnabled
from safetensors import SafetensorError
from tqdm import tqdm
from transformers import AutoConfig, AutoFeatureExtractor

from modeling import (
    EfficientAtConfig,
    EfficientAtFeatureExtractor,
    EfficientAtForAudioClassification,
    EfficientAtModel,
)
from system.hub import HTTP_ERROR
from training.checkpoints import sha256_of
from training.official_efficientat import LABELS_FILE, build_official, digest, read_labels, read_tensors, save_encoder
from training.settings import WEIGHTS_SUFFIXES, check_front_end

ADDRESS = "FELTSOUND_ENCODERS"  # the environment's variable with an address that has all files, such as a mirror's
LABELS_BASE = "http://storage.googleapis.com/us_audioset/youtube_corpus/v1/csv"
LABELS_SHA256 = "cdd1049833c4b86127c2773ac0d14a2754b6a6d0d1798002ed5c66e699708429"


@dataclass(frozen=True)
class Published:
    """A file of weights that has a short name."""

    base: str
    file: str
    tensors_sha256: str  # see `digest`


KNOWN = {
    "efficientat_mn04_as": Published(
        "https://github.com/fschmid56/EfficientAT/releases/download/v0.0.1",
        "mn04_as_mAP_432.pt",
        "b956682f1adbeff8a905697987e93906e0797bd8ce7968fe86480cfc3275195f",
    )
}


@dataclass(frozen=True)
class Encoder:
    """A pretrained encoder, ready to be used."""

    model: EfficientAtModel | EfficientAtForAudioClassification  # in eval mode, on the CPU
    extractor: EfficientAtFeatureExtractor
    identity: str  # of its weights: name@commit on the Hub, else their SHA-256

    @property
    def base(self) -> EfficientAtModel:
        """The model without a classifier."""
        return cast(EfficientAtModel, self.model.base_model)


def is_encoder(name: str) -> bool:
    """Whether a model is a pretrained encoder, and not one that a run wrote."""
    path = Path(name)
    if path.is_dir():
        config = path / "config.json"
        if (path / "run_config.json").exists() or not config.is_file():
            return False
        return json.loads(config.read_text(encoding="utf-8")).get("model_type") == EfficientAtConfig.model_type
    if path.is_file():
        return path.suffix in WEIGHTS_SUFFIXES
    if name in KNOWN or name.count("/") != 1 or path.parent.is_dir():
        return name in KNOWN
    return is_encoder_of_hub(name)


@functools.cache
def is_encoder_of_hub(name: str) -> bool:
    """Whether a model on the Hub is a pretrained encoder; the Hub is asked once in a process."""
    try:
        hf_hub_download(name, "run_config.json")
    except LocalEntryNotFoundError:  # offline
        return False
    except EntryNotFoundError:
        return True
    return False


def load_encoder(name: str, revision: str | None = None) -> Encoder:
    """Load an encoder from a folder, a published `.pt` or `.safetensors`, a short name, or the Hub.

    Code that comes with a model is not run. A `revision` is for the Hub alone.
    """
    path = Path(name)
    on_hub = name not in KNOWN and not path.exists() and name.count("/") == 1 and path.suffix not in WEIGHTS_SUFFIXES
    if revision is not None and not on_hub:
        raise ValueError(f"revision={revision}: encoder={name} is not on the Hub. Leave the revision out.")
    check_front_end("encoder", name)
    if path.is_file():
        labels = path.parent / LABELS_FILE
        if not labels.is_file():
            raise ValueError(f"encoder={name}: no {LABELS_FILE} next to it. Put AudioSet's file of that name there.")
        model = build_official(read_tensors(path), read_labels(labels), path)
        extractor = EfficientAtFeatureExtractor(num_mel_bins=model.config.num_mel_bins)
        return Encoder(model, extractor, f"sha256:{digest(model.state_dict())}")
    if not path.exists() and not on_hub and name not in KNOWN:
        raise ValueError(
            f"encoder={name}: not a folder or file, nor a name on the Hub (user/model). Give one, or "
            f"{' or '.join(KNOWN)}."
        )
    if on_hub:
        commit = find_commit(name, revision)
        return Encoder(*load_saved(name, name, commit), f"{name}@{commit}")
    model, extractor = load_saved(name if path.is_dir() else str(download_known(name)), name)
    return Encoder(model, extractor, f"sha256:{digest(model.state_dict())}")


@functools.lru_cache(maxsize=1)
def encoder_once(name: str, revision: str | None = None) -> Encoder:
    """As `load_encoder`; the same one when it is asked for again."""
    return load_encoder(name, revision)


def find_commit(name: str, revision: str | None) -> str:
    """The commit on the Hub that a revision names, which the cache's folders are called after."""
    try:
        return Path(hf_hub_download(name, "config.json", revision=revision)).parent.name
    except (HTTP_ERROR, OSError, ValueError) as error:
        raise ValueError(f"encoder={name}: {' '.join(str(error).split())}") from error


def load_saved(
    place: str, name: str, revision: str = "main"
) -> tuple[EfficientAtModel | EfficientAtForAudioClassification, EfficientAtFeatureExtractor]:
    """A saved model and its extractor, from a folder or the Hub. `name` is for messages."""
    options = {"revision": revision, "trust_remote_code": False}
    try:
        config = AutoConfig.from_pretrained(place, **options)
        if not isinstance(config, EfficientAtConfig):
            raise ValueError(f"a model of type {config.model_type!r}. Give one of {EfficientAtConfig.model_type!r}.")
        plain = (config.architectures or [""])[0] == EfficientAtModel.__name__
        kind = EfficientAtModel if plain else EfficientAtForAudioClassification
        model = kind.from_pretrained(place, config=config, revision=revision)
        extractor = AutoFeatureExtractor.from_pretrained(place, **options)
    except (OSError, RuntimeError, SafetensorError, ValueError) as error:
        raise ValueError(f"encoder={name}: {' '.join(str(error).split())}") from error
    return model.eval(), extractor


def download_known(name: str) -> Path:
    """The folder of an encoder with a short name; its files are downloaded once, checked and converted."""
    folder = Path(constants.HF_HOME) / "feltsound" / name
    if folder.is_dir():
        return folder
    published = KNOWN[name]
    weights = f"{os.environ.get(ADDRESS) or published.base}/{published.file}"
    labels = f"{os.environ.get(ADDRESS) or LABELS_BASE}/{LABELS_FILE}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".downloading-") as draft:
        try:
            tensors = read_tensors(download(weights, Path(draft) / published.file))
            found = digest(tensors)
            if found != published.tensors_sha256:
                raise ValueError(f"{weights}: SHA-256 of its tensors is {found}, not {published.tensors_sha256}")
            names = download(labels, Path(draft) / LABELS_FILE)
            found = sha256_of(names)
            if found != LABELS_SHA256:
                raise ValueError(f"{labels}: SHA-256 is {found}, not {LABELS_SHA256}")
        except ValueError as error:
            raise ValueError(
                f"encoder={name}: {error}. Fetch {weights} and {labels} by hand, then run: python -m "
                f"launch.convert_efficientat {published.file} {name} --labels {LABELS_FILE}"
            ) from error
        try:
            save_encoder(build_official(tensors, read_labels(names), weights), folder)
        except OSError:
            if not folder.is_dir():  # else another process has just done the same
                raise
    return folder


def download(address: str, path: Path) -> Path:
    """Download a file, with a progress bar."""
    request = {
        "headers": {"Accept-Encoding": "identity"},
        "follow_redirects": True,
        "timeout": constants.HF_HUB_DOWNLOAD_TIMEOUT,
    }
    try:
        with get_session().stream("GET", address, **request) as response, open(path, "wb") as file:
            response.raise_for_status()
            size = int(response.headers.get("content-length", 0)) or None
            with tqdm(desc=path.name, total=size, unit="B", unit_scale=True) as bar:
                for chunk in response.iter_bytes():
                    bar.update(file.write(chunk))
    except (HTTP_ERROR, OfflineModeIsEnabled, OSError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ValueError(f"{address}: {reason.rstrip('.')}") from error
    return path

"""Load pretrained encoders from a folder, the Hub, a published weights file, or a short name that is downloaded."""

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

# Environment variable: the base URL of a mirror that has the weights and the labels file.
MIRROR_VARIABLE = "FELTSOUND_ENCODERS"
# The published address of the labels has no https. That is safe, because the SHA-256 below is verified.
LABELS_BASE = "http://storage.googleapis.com/us_audioset/youtube_corpus/v1/csv"
LABELS_SHA256 = "cdd1049833c4b86127c2773ac0d14a2754b6a6d0d1798002ed5c66e699708429"


@dataclass(frozen=True)
class Published:
    """A published weights file that can be loaded by a short name."""

    base: str  # URL of the folder
    file: str
    tensors_sha256: str  # of the tensors, not the file: see `digest`


KNOWN = {
    "efficientat_mn04_as": Published(
        "https://github.com/fschmid56/EfficientAT/releases/download/v0.0.1",
        "mn04_as_mAP_432.pt",
        "b956682f1adbeff8a905697987e93906e0797bd8ce7968fe86480cfc3275195f",
    )
}


@dataclass(frozen=True)
class Encoder:
    """A loaded encoder with its feature extractor."""

    model: EfficientAtModel | EfficientAtForAudioClassification  # in eval mode, on the CPU
    extractor: EfficientAtFeatureExtractor
    identity: str  # of the weights: name@commit for a Hub model, otherwise sha256:<digest of the tensors>

    @property
    def base(self) -> EfficientAtModel:
        """The model without its classification head."""
        return cast(EfficientAtModel, self.model.base_model)


def is_encoder(name: str) -> bool:
    """Return whether this is a pretrained encoder, as opposed to a model trained by run_train.py."""
    path = Path(name)
    if path.is_dir():
        config = path / "config.json"
        if (path / "run_config.json").exists() or not config.is_file():
            return False
        return json.loads(config.read_text(encoding="utf-8")).get("model_type") == EfficientAtConfig.model_type
    if path.is_file():
        return path.suffix in WEIGHTS_SUFFIXES
    # Ask the Hub only for names that can be Hub names, because a request is slow.
    if name in KNOWN or name.count("/") != 1 or path.parent.is_dir():
        return name in KNOWN
    return is_encoder_of_hub(name)


@functools.cache
def is_encoder_of_hub(name: str) -> bool:
    """Return whether a model on the Hub is a pretrained encoder: it has no run_config.json."""
    try:
        hf_hub_download(name, "run_config.json")
    except (
        LocalEntryNotFoundError
    ):  # offline, and not in the cache; a subclass of EntryNotFoundError, so it comes first
        return False
    except EntryNotFoundError:
        return True
    return False


def load_encoder(name: str, revision: str | None = None) -> Encoder:
    """Load an encoder from a folder, a published `.pt` or `.safetensors` file, a short name, or the Hub.

    Code that comes with a Hub model is never executed.

    Args:
        revision: commit or tag, for Hub models only.
    """
    path = Path(name)
    on_hub = name not in KNOWN and not path.exists() and name.count("/") == 1 and path.suffix not in WEIGHTS_SUFFIXES
    if revision is not None and not on_hub:
        raise ValueError(f"revision={revision}: encoder={name} is not on the Hub. Remove the revision.")
    check_front_end("encoder", name)
    if path.is_file():
        labels = path.parent / LABELS_FILE
        if not labels.is_file():
            raise ValueError(f"encoder={name}: {LABELS_FILE} is missing next to it. Put AudioSet's label file there.")
        model = build_official(read_tensors(path), read_labels(labels), path)
        extractor = EfficientAtFeatureExtractor(num_mel_bins=model.config.num_mel_bins)
        return Encoder(model, extractor, f"sha256:{digest(model.state_dict())}")
    if not path.exists() and not on_hub and name not in KNOWN:
        raise ValueError(
            f"encoder={name}: neither a folder, a file nor a Hub name (user/model). Give one of these, or "
            f"{' or '.join(KNOWN)}."
        )
    if on_hub:
        commit = find_commit(name, revision)
        return Encoder(*load_saved(name, name, commit), f"{name}@{commit}")
    model, extractor = load_saved(name if path.is_dir() else str(download_known(name)), name)
    return Encoder(model, extractor, f"sha256:{digest(model.state_dict())}")


@functools.lru_cache(maxsize=1)
def encoder_once(name: str, revision: str | None = None) -> Encoder:
    """Like `load_encoder`, but keep the last encoder in memory."""
    return load_encoder(name, revision)


def find_commit(name: str, revision: str | None) -> str:
    """Return the commit hash that a revision of a Hub model points to."""
    try:
        # The Hub cache stores a file as snapshots/<commit>/<file>. A branch can move, so results are recorded with
        # the commit.
        return Path(hf_hub_download(name, "config.json", revision=revision)).parent.name
    except (HTTP_ERROR, OSError, ValueError) as error:
        raise ValueError(f"encoder={name}: {' '.join(str(error).split())}") from error


def load_saved(
    source: str, name: str, revision: str = "main"
) -> tuple[EfficientAtModel | EfficientAtForAudioClassification, EfficientAtFeatureExtractor]:
    """Load a saved model and its feature extractor from a folder or the Hub; error messages call it `name`."""
    options = {"revision": revision, "trust_remote_code": False}
    try:
        config = AutoConfig.from_pretrained(source, **options)
        if not isinstance(config, EfficientAtConfig):
            raise ValueError(
                f"model_type is {config.model_type!r}. Give a model of type {EfficientAtConfig.model_type!r}."
            )
        plain = (config.architectures or [""])[0] == EfficientAtModel.__name__
        model_class = EfficientAtModel if plain else EfficientAtForAudioClassification
        model = model_class.from_pretrained(source, config=config, revision=revision)
        extractor = AutoFeatureExtractor.from_pretrained(source, **options)
    except (OSError, RuntimeError, SafetensorError, ValueError) as error:
        raise ValueError(f"encoder={name}: {' '.join(str(error).split())}") from error
    return model.eval(), extractor


def download_known(name: str) -> Path:
    """Download, verify and convert the encoder with this short name once; return its folder."""
    folder = Path(constants.HF_HOME) / "feltsound" / name
    if folder.is_dir():
        return folder
    published = KNOWN[name]
    # One mirror has to have both files, because it is given as one address.
    weights = f"{os.environ.get(MIRROR_VARIABLE) or published.base}/{published.file}"
    labels = f"{os.environ.get(MIRROR_VARIABLE) or LABELS_BASE}/{LABELS_FILE}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    # A temporary folder next to the final one, so that a killed download leaves nothing that looks complete.
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".downloading-") as draft:
        try:
            tensors = read_tensors(download(weights, Path(draft) / published.file))
            actual = digest(tensors)
            if actual != published.tensors_sha256:
                raise ValueError(f"{weights}: SHA-256 of its tensors is {actual}, not {published.tensors_sha256}")
            names = download(labels, Path(draft) / LABELS_FILE)
            actual = sha256_of(names)
            if actual != LABELS_SHA256:
                raise ValueError(f"{labels}: SHA-256 is {actual}, not {LABELS_SHA256}")
        except ValueError as error:
            raise ValueError(
                f"encoder={name}: {error}. Download {weights} and {labels} by hand, then run: python -m "
                f"launch.convert_efficientat {published.file} {name} --labels {LABELS_FILE}"
            ) from error
        try:
            save_encoder(build_official(tensors, read_labels(names), weights), folder)
        except OSError:
            # Renaming fails if another process has saved the same encoder in the meantime. That one is just as good.
            if not folder.is_dir():
                raise
    return folder


def download(address: str, path: Path) -> Path:
    """Download a file with a progress bar; return `path`."""
    request = {
        "headers": {"Accept-Encoding": "identity"},  # a compressed answer has no usable content-length
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

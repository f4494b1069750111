"""EfficientAT for tests: small models with useful random weights, and the format of the published files."""

import csv
import functools
import http.server
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from modeling import EfficientAtConfig, EfficientAtForAudioClassification

WEIGHTS = Path("models/efficientat_mn04_as.safetensors")  # in the folder of real data
LABELS = Path("audioset/meta/class_labels_indices.csv")


def small_encoder(
    labels: int | Sequence[str] = 5, width: float = 0.1, **settings: object
) -> EfficientAtForAudioClassification:
    """Return a random model whose output depends on its input."""
    # The usual initialisation shrinks signals from layer to layer, so that all inputs give the same output. Fitting
    # the batch norms to one batch prevents that.
    names = [f"sound {code}, of some kind" for code in range(labels)] if isinstance(labels, int) else labels
    mapped = {"id2label": dict(enumerate(names)), "label2id": {name: code for code, name in enumerate(names)}}
    config = EfficientAtConfig(width=width, classifier_size=16, **mapped, **settings)
    model = EfficientAtForAudioClassification(config)
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    with torch.no_grad():
        for layer in model.classifier[::3]:
            torch.nn.init.normal_(layer.weight, 0, 0.5)
        for norm in norms:
            norm.momentum = None  # statistics of this one batch, not a running mean
        model.train().efficientat(torch.randn(8, 100, config.num_mel_bins))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return model.eval()


def published(model: EfficientAtForAudioClassification) -> dict[str, torch.Tensor]:
    """Return the weights with the names and shapes of the published files of EfficientAT."""
    tensors = {}
    for name, tensor in model.state_dict().items():
        name = name.removeprefix("efficientat.").replace("classifier.0.", "classifier.2.")
        name = name.replace("classifier.3.", "classifier.5.")
        layer, has_fc, fc = name.partition(".fc")
        if has_fc:
            name = f"{layer}.conc_se_layers.0.fc{fc}"
            tensor = tensor[:, :, 0, 0] if tensor.ndim == 4 else tensor
        tensors[name] = tensor.contiguous()
    return tensors


def write_labels(path: Path, names: list[str]) -> None:
    """Write a file like AudioSet's class_labels_indices.csv."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        rows = [(code, f"/m/{code}", name) for code, name in enumerate(names)]
        csv.writer(file).writerows([("index", "mid", "display_name"), *rows])


@contextmanager
def served(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Serve a folder over HTTP on this machine; yield its address, and the paths of the requests."""
    requests: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            requests.append(self.path)

    handler = functools.partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", requests
        finally:
            server.shutdown()

"""A saved model can be loaded without this repository."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from modeling import CLASSIFICATION_MODELS, SIGNAL_MODELS

LOAD = """
import sys
import numpy as np
import torch
import transformers

assert not any(name == "modeling" or name.startswith("modeling.") for name in sys.modules)
torch.set_num_threads(int(sys.argv[2]))
config = transformers.AutoConfig.from_pretrained(sys.argv[1], trust_remote_code=True)
model = getattr(transformers, sys.argv[3]).from_pretrained(sys.argv[1], trust_remote_code=True).eval()
x, mask, labels = (torch.from_numpy(np.load(f"{sys.argv[1]}/{name}.npy")) for name in ("x", "mask", "labels"))
output = model(x, attention_mask=mask, labels=labels)
output.loss.backward()
for name in sys.argv[4:]:
    np.save(f"{sys.argv[1]}/{name}.npy", output[name].detach().numpy())
assert config.receptive_field == model.config.receptive_field
"""


def same_bits_elsewhere(
    model: torch.nn.Module, labels: torch.Tensor, auto_class: str, outputs: tuple[str, ...], tmp_path: Path
) -> None:
    """Save the model, load it in a process without this repository, and compare outputs."""
    folder, elsewhere = tmp_path / "model", tmp_path / "elsewhere"
    elsewhere.mkdir()
    model.eval().set_input_scaling(torch.randn(7), torch.rand(7) + 0.5)
    model.save_pretrained(folder)
    x, mask = torch.randn(2, 50, 7), torch.arange(50) < torch.tensor([[50], [30]])
    for name, array in (("x", x), ("mask", mask), ("labels", labels)):
        np.save(folder / f"{name}.npy", array.numpy())

    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", LOAD, str(folder), str(torch.get_num_threads()), auto_class, *outputs]
    done = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    expected = model(x, attention_mask=mask)
    for name in outputs:
        assert np.array_equal(np.load(folder / f"{name}.npy"), expected[name].detach().numpy())


@pytest.mark.slow
@pytest.mark.parametrize(("config_class", "model_class"), SIGNAL_MODELS, ids=[c.model_type for c, _ in SIGNAL_MODELS])
def test_a_process_without_the_repository_predicts_the_same_bits(config_class, model_class, tmp_path) -> None:
    model = model_class(config_class(input_size=7, gaussian_head=True))
    same_bits_elsewhere(model, torch.randn(2, 50), "AutoModel", ("predictions", "log_variance"), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config_class", "model_class"), CLASSIFICATION_MODELS, ids=[c.model_type for c, _ in CLASSIFICATION_MODELS]
)
def test_a_process_without_the_repository_classifies_the_same(config_class, model_class, tmp_path) -> None:
    config = config_class(input_size=7, num_labels=3, problem_type="multi_label_classification")
    model = model_class(config)
    torch.nn.init.normal_(model.head.attention.weight)
    outputs = ("logits", "frame_logits")
    same_bits_elsewhere(model, torch.rand(2, 3), "AutoModelForAudioClassification", outputs, tmp_path)

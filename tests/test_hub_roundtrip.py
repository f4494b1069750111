"""What `save_pretrained` writes is enough for somebody who has nothing of ours installed."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from modeling import SIGNAL_MODELS

LOAD = """
import sys
import numpy as np
import torch
from transformers import AutoConfig, AutoModel

assert not any(name == "modeling" or name.startswith("modeling.") for name in sys.modules)
torch.set_num_threads(int(sys.argv[2]))
config = AutoConfig.from_pretrained(sys.argv[1], trust_remote_code=True)
model = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True).eval()
x, mask = (torch.from_numpy(np.load(f"{sys.argv[1]}/{name}.npy")) for name in ("x", "mask"))
output = model(x, attention_mask=mask, labels=x[..., 0])
output.loss.backward()
np.save(f"{sys.argv[1]}/predictions.npy", output.predictions.detach().numpy())
assert config.receptive_field == model.config.receptive_field
"""


@pytest.mark.slow
@pytest.mark.parametrize(("config_class", "model_class"), SIGNAL_MODELS, ids=[c.model_type for c, _ in SIGNAL_MODELS])
def test_a_process_elsewhere_loads_the_model_and_predicts_the_same_bits(config_class, model_class, tmp_path) -> None:
    folder, elsewhere = tmp_path / "model", tmp_path / "elsewhere"
    elsewhere.mkdir()
    model = model_class(config_class(input_size=7, gaussian_head=True)).eval()
    model.set_input_scaling(torch.randn(7), torch.rand(7) + 0.5)
    model.save_pretrained(folder)
    x, mask = torch.randn(2, 50, 7), torch.arange(50) < torch.tensor([[50], [30]])
    np.save(folder / "x.npy", x.numpy())
    np.save(folder / "mask.npy", mask.numpy())

    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", LOAD, str(folder), str(torch.get_num_threads())]
    done = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    expected = model(x, attention_mask=mask).predictions.detach().numpy()
    assert np.array_equal(np.load(Path(folder) / "predictions.npy"), expected)

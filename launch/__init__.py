"""From a command line to a run, and everything around runs: studies, pages, sharing, SageMaker."""

import training  # noqa: F401  (checks that torch, torchvision and torchaudio fit, before Trainer is imported)

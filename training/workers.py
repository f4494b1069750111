"""Processes that read items for this one, however they start."""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch.utils.data import DataLoader

from system.storage import S3FileManager


def sharing_files(loader: DataLoader) -> Any:
    """Return the loader, whose workers will use this process's local copies of remote files.

    A forked worker has them anyway. One that `spawn` or `forkserver` starts knows nothing of its parent but what it is
    given.
    """
    if loader.num_workers:
        inner: Any = getattr(loader, "base_dataloader", loader)  # Accelerate wraps loaders
        inner.worker_init_fn = partial(_start, S3FileManager.shared(), inner.worker_init_fn)
    return loader


def _start(files: S3FileManager, then: Callable[[int], None] | None, worker: int) -> None:
    S3FileManager.adopt(files)
    if then is not None:
        then(worker)

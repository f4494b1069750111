"""Give loader workers access to the files that the main process has downloaded."""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch.utils.data import DataLoader

from system.storage import S3FileManager


def sharing_files(loader: DataLoader) -> Any:
    """Make the workers of a loader use this process's local copies of remote files; return the loader."""
    if loader.num_workers:
        # A forked worker inherits the file manager. One started by `spawn` or `forkserver` must be given it.
        inner: Any = getattr(loader, "base_dataloader", loader)  # Accelerate wraps loaders
        inner.worker_init_fn = partial(_start, S3FileManager.shared(), inner.worker_init_fn)
    return loader


def _start(files: S3FileManager, then: Callable[[int], None] | None, worker: int) -> None:
    S3FileManager.adopt(files)
    if then is not None:
        then(worker)

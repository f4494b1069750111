"""A SageMaker host to test against: it does with a request what AWS and the image's training toolkit do, in a folder.

It fetches the code that the request names, lays out channels and checkpoints below a base folder as `/opt/ml` has
them, sets the toolkit's variables, starts the entry script, and puts the model where DescribeTrainingJob says it is.
"""

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

from system.storage import parse_s3_url


def start(
    request: dict[str, Any], boto: Any, base: Path, keep_checkpoints: bool = False
) -> subprocess.CompletedProcess:
    """Run a job's container once; `keep_checkpoints` is what a restart after an interruption finds."""
    for folder in base.iterdir() if base.exists() else ():
        if not (keep_checkpoints and folder.name == "checkpoints"):
            shutil.rmtree(folder)
    for folder in ("code", "model", "output/data", "input/config", "input/data", "checkpoints"):
        (base / folder).mkdir(parents=True, exist_ok=True)
    settings = {key: json.loads(value) for key, value in request["HyperParameters"].items()}
    (base / "input/config/hyperparameters.json").write_text(json.dumps(request["HyperParameters"]))
    bucket, key = parse_s3_url(settings["sagemaker_submit_directory"])
    packed = boto.get_object(Bucket=bucket, Key=key)["Body"].read()
    with tarfile.open(fileobj=io.BytesIO(packed), mode="r:gz") as archive:
        archive.extractall(base / "code", filter="data")
    variables = {
        "SAGEMAKER_BASE_DIR": str(base),
        "SM_MODEL_DIR": str(base / "model"),
        "SM_OUTPUT_DATA_DIR": str(base / "output/data"),
        "SM_HPS": json.dumps({k: v for k, v in settings.items() if not k.startswith("sagemaker_")}),
        "SM_HOSTS": '["algo-1"]',
        "SM_CURRENT_HOST": "algo-1",
        "SM_NUM_GPUS": "0",
        **request["Environment"],
    }
    for channel in request.get("InputDataConfig", []):
        folder = base / "input/data" / channel["ChannelName"]
        fetch_prefix(boto, channel["DataSource"]["S3DataSource"]["S3Uri"], folder)
        variables[f"SM_CHANNEL_{channel['ChannelName'].upper()}"] = str(folder)
    # The variables of this process that Python and the caches need; none that leads back into the checkout.
    own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, settings["sagemaker_program"], "--ignored", "by our script"],
        cwd=base / "code", env=own | variables, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    if done.returncode == 0:
        upload_model(boto, request, base / "model")
    return done


def fetch_prefix(boto: Any, url: str, folder: Path) -> None:
    """Copy all objects whose keys begin with a prefix, as File mode does."""
    bucket, prefix = parse_s3_url(url)
    for page in boto.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for found in page["Contents"]:
            path = folder / found["Key"].removeprefix(prefix).lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            boto.download_file(bucket, found["Key"], str(path))


def upload_model(boto: Any, request: dict[str, Any], folder: Path) -> None:
    """Pack what the container left for the model, and put it where the job's description says it is."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        archive.add(folder, arcname=".")
    bucket, key = parse_s3_url(f"{request['OutputDataConfig']['S3OutputPath']}/{request['TrainingJobName']}")
    boto.put_object(Bucket=bucket, Key=f"{key}/output/model.tar.gz", Body=packed.getvalue())

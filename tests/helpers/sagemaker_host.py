"""A local SageMaker host for tests: it handles a request in a folder, like AWS and the training toolkit of the image.

It fetches the code of the request, creates channels and checkpoints below a base folder in the layout of `/opt/ml`,
sets the variables of the toolkit, starts the entry script, and uploads the model to the place that DescribeTrainingJob
reports.
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
    """Run the container of a job once; keep the checkpoints to simulate a restart after an interruption."""
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
    # Without PYTHONPATH, so that the container cannot import from the checkout.
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, settings["sagemaker_program"], "--ignored", "by our script"],
        cwd=base / "code", env=inherited | variables, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    if done.returncode == 0:
        upload_model(boto, request, base / "model")
    return done


def fetch_prefix(boto: Any, url: str, folder: Path) -> None:
    """Copy all objects with a prefix, as File mode does."""
    bucket, prefix = parse_s3_url(url)
    for page in boto.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for entry in page["Contents"]:
            path = folder / entry["Key"].removeprefix(prefix).lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            boto.download_file(bucket, entry["Key"], str(path))


def upload_model(boto: Any, request: dict[str, Any], folder: Path) -> None:
    """Pack the model folder of the container and upload it to the output path of the job."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        archive.add(folder, arcname=".")
    bucket, key = parse_s3_url(f"{request['OutputDataConfig']['S3OutputPath']}/{request['TrainingJobName']}")
    boto.put_object(Bucket=bucket, Key=f"{key}/output/model.tar.gz", Body=packed.getvalue())

"""Train a config on SageMaker as run_train.py does locally. Everything is checked before the upload.

python run_sagemaker.py configs/eda_tcn.json --role arn:aws:iam::123456789012:role/feltsound --bucket lab \
    --instance_type ml.g5.xlarge --image_uri <image> --channel training=s3://lab/prepared/pmemo --learning_rate 3e-4
Add --dry_run to print the request, --spot to use spot instances, --wait to follow the job and download the model.
"""

import json
import sys

from launch.sagemaker.options import REPOSITORY, read_job
from launch.start import begin
from system.process import one_line_errors

# Check the command line before the imports below, which take seconds.
if __name__ == "__main__":
    begin(read_job)

from launch.sagemaker.archive import pack_code
from launch.sagemaker.follow import connect, fetch_model, follow, submit
from launch.sagemaker.job import build_request, check_reaches_container, data_of, parse_job
from launch.sagemaker.limits import check_request


def main(argv: list[str]) -> None:
    """Check and start a job; follow it if --wait is given."""
    job = parse_job(argv)
    code = pack_code(REPOSITORY)
    check_reaches_container(job, code)
    request = build_request(job, code)
    check_request(request)
    # On stderr, so that the output of --dry_run is valid JSON.
    print(f"data: {data_of(job)}", file=sys.stderr)
    if job.options.dry_run:
        print(json.dumps(request, indent=2))
        return
    clients = connect(job.region)
    print(f"started: {submit(clients, job, code, request)}")
    if job.options.wait:
        print(f"model and scores: {fetch_model(clients, job, follow(clients, job.name))}")


if __name__ == "__main__":
    with one_line_errors():
        main(sys.argv[1:])

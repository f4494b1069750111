"""The machine below: files on S3 with a local cache, errors of the Hub, settings of the process."""

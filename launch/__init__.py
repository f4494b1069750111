"""From a command line to a run, and everything around runs: studies, pages, sharing, SageMaker."""

"""Training on SageMaker."""

"""Train on Amazon SageMaker."""

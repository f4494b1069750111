"""The engine: from rows to a trained model, whatever the task."""

"""Predict attention to advertisements from stored embeddings."""

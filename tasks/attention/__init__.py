"""Attention to advertisements, from stored embeddings."""

"""Metrics, splits, baselines and controls."""

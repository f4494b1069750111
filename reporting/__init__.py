"""Plots, reports and model cards."""

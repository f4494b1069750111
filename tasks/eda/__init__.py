"""Skin conductance evoked by sound."""

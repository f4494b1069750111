"""Predict the skin conductance that sound evokes."""

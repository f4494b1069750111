"""Bytes to arrays: audio, video and biosignals."""

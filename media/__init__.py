"""Bytes to arrays: audio, video, biosignals and the storage they come from."""

"""Your own recordings: a folder of sounds, csv signals and a metadata.csv. See README.md."""

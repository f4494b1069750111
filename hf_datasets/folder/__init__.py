"""Your own recordings: a folder of sounds, csv signals and a metadata.csv. Start with README.md."""

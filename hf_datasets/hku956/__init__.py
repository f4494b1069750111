"""HKU956: songs heard by 30 people with a wristband. See README.md."""

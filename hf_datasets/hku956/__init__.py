"""HKU956: songs heard by 30 people who wore a wristband. Start with README.md."""

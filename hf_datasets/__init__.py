"""Convert raw corpora into data sets, and publish them."""

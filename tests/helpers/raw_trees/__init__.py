"""Small raw trees, one module per data set, and the rows built from them."""

"""Small raw trees of data sets, one module per data set, and the rows that are made from them."""

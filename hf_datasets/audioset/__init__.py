"""AudioSet: two million clips of ten seconds with the sounds that are heard in them."""

"""AudioSet: two million ten-second clips and the sounds that occur in them."""

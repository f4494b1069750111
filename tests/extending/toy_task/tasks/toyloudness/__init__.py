"""A toy task: predict how loud a tone is."""

"""Tables of methods and seeds, and times of training steps."""

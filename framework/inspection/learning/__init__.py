"""One step of training, seen."""

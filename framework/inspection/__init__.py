"""Tools that show what happens inside: of data, of training, of inference."""

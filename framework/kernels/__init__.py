"""Small C++ kernels for inference on a CPU with few rows, compiled at first use; torch does what they cannot."""

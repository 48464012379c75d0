"""Fine-tuning by others: each module runs in a Python of its own, which has the library that it names."""

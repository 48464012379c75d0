"""A language model's whole life on PyTorch Lightning: tokenizer, corpus, pretraining, fine-tuning, RLHF, generation, serving."""

__version__ = "0.1.0"

"""The peers that run without torch, one function each: CTranslate2 and llama.cpp (through llama-cpp-python's low-level calls)."""

from __future__ import annotations

import ctypes
import time
from pathlib import Path
from typing import Any

from generate_contenders import MB, perplexity
from generate_rounds import Prompts, Stamp, Task, decode_rounds


def ctranslate2(rounds: Any, name: str, task: dict[str, int], directory: str, precision: str, text: bool = False) -> None:
    """CTranslate2's Generator; its fp32 file is quantised when it is loaded. A token's time comes from its callback."""
    import ctranslate2 as library

    kind, size = {"fp32": ("float32", 4), "int8": ("int8", 1)}[precision]
    loaded: list[Any] = []

    def set_threads(count: int) -> None:
        loaded.clear()
        loaded.append(library.Generator(str(Path(directory) / "ctranslate2"), compute_type=kind, intra_threads=count))
        decode(Task(**{**task, "batch_size": 1}).prompts(0), 2)

    def decode(prompts: Prompts, length: int) -> list[Stamp]:
        stamps: list[Stamp] = []
        count = 0

        def stamp(step: Any) -> bool:
            nonlocal count
            count += 1
            if count % len(prompts) == 0:
                stamps.append((time.perf_counter(), range(len(prompts))))
            return False

        loaded[0].generate_batch(
            [[str(token) for token in prompt] for prompt in prompts],
            min_length=length,
            max_length=length,
            include_prompt_in_result=False,
            callback=stamp,
        )
        return stamps

    def nats(window: list[int]) -> float:
        return -sum(loaded[0].score_batch([[str(token) for token in window]])[0].log_probs)

    set_threads(1)
    columns = perplexity(directory, nats) if text else {}
    weights = (Path(directory) / "model" / "model.safetensors").stat().st_size / 4 * size
    decode_rounds(rounds, name, task, decode, set_threads, {"weights MB": f"{weights / MB:.0f}", **columns})


class Llama:
    """llama.cpp driven by its batch API: one `llama_decode` takes the prompts of all sequences, or the next token of each.

    Each sequence has a cache of its own (its default); the weights are repacked for the processor when loaded (its default). The
    likeliest token is found by numpy in the logits where llama.cpp left them.

    Args:
        path: a GGUF file.
        num_sequences, tokens_each: room for them.
    """

    def __init__(self, path: Path, num_sequences: int, tokens_each: int) -> None:
        import llama_cpp

        self._library = llama_cpp
        llama_cpp.llama_backend_init()
        self._model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
        assert self._model, f"llama.cpp cannot load {path}"
        settings = llama_cpp.llama_context_default_params()
        settings.n_seq_max = num_sequences
        settings.n_ctx = num_sequences * -(-tokens_each // 256) * 256  # it gives each sequence a multiple of 256
        settings.n_batch = settings.n_ctx
        settings.no_perf = True
        self._context = llama_cpp.llama_init_from_model(self._model, settings)
        assert self._context, "llama.cpp makes no context"
        self._batch = llama_cpp.llama_batch_init(settings.n_batch, 0, 1)
        self._vocab_size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model))

    def set_threads(self, count: int) -> None:
        """For prompts and for single tokens."""
        self._library.llama_set_n_threads(self._context, count, count)

    def num_bytes(self) -> int:
        """Of all tensors."""
        return self._library.llama_model_size(self._model)

    def clear(self) -> None:
        """Forget all sequences."""
        self._library.llama_memory_clear(self._library.llama_get_memory(self._context), False)

    def run(self, tokens: list[tuple[int, int, int, bool]]) -> Any:
        """Read (id, position, sequence, whether its logits are wanted) for each token; the logits wanted, [wanted, V]."""
        import numpy as np

        batch = self._batch
        batch.n_tokens = len(tokens)
        for place, (token, position, sequence, wanted) in enumerate(tokens):
            batch.token[place], batch.pos[place] = token, position
            batch.n_seq_id[place], batch.seq_id[place][0] = 1, sequence
            batch.logits[place] = wanted
        status = self._library.llama_decode(self._context, batch)
        assert status == 0, f"llama_decode says {status}"
        shape = (sum(token[3] for token in tokens), self._vocab_size)
        pointer = ctypes.cast(self._library.llama_get_logits(self._context), ctypes.POINTER(ctypes.c_float))
        return np.ctypeslib.as_array(pointer, shape)


def llama(rounds: Any, name: str, task: dict[str, int], directory: str, precision: str, text: bool = False) -> None:
    """llama.cpp on a file of the given type."""
    import numpy as np

    path = Path(directory) / f"model.{precision}.gguf"
    model = Llama(path, task["batch_size"], task["prompt_length"] + task["reply_length"])

    def decode(prompts: Prompts, length: int) -> list[Stamp]:
        model.clear()
        stamps: list[Stamp] = []
        prompt_length = len(prompts[0])
        last = prompt_length - 1
        tokens = [(token, place, sequence, place == last) for sequence, prompt in enumerate(prompts) for place, token in enumerate(prompt)]
        for step in range(length):
            chosen = model.run(tokens).argmax(axis=1).tolist()
            stamps.append((time.perf_counter(), range(len(prompts))))
            tokens = [(token, prompt_length + step, sequence, True) for sequence, token in enumerate(chosen)]
        return stamps

    columns = {}
    if text:
        reader = Llama(path, 1, 512)

        def nats(window: list[int]) -> float:
            reader.clear()
            logits = reader.run([(token, place, 0, True) for place, token in enumerate(window)])[:-1].astype(np.float64)
            logits -= logits.max(axis=1, keepdims=True)
            chosen = logits[np.arange(len(logits)), window[1:]]
            return float((np.log(np.exp(logits).sum(axis=1)) - chosen).sum())

        columns = perplexity(directory, nats)
    decode_rounds(rounds, name, task, decode, model.set_threads, {"weights MB": f"{model.num_bytes() / MB:.0f}", **columns})

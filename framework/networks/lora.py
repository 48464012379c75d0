"""LoRA: a frozen network with thin trained matrices beside its linear layers (Hu et al. 2021). No recipe and no network knows it.

Shape legend: B batch, T time, D model width, V vocabulary, I inputs, O outputs, R rank.
Ids flow in, hidden states flow out, as the base has them and the adapter in use changes them. Must not know files, losses or optimizers.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from framework.errors import CheckpointError
from framework.networks.base import Network, Role
from framework.networks.linear import Linear
from framework.networks.low_rank import AdaptedLinear, Adapter
from framework.networks.parts import as_part
from framework.networks.wrapper import Wrapper

Targets = list[str] | Literal["all-linear"]


class LoRA(Wrapper):
    """A network that is frozen, and one or more adapters, of which at most one is in use: it computes and is trained.

    An adapter begins as nothing: B is zero, and the first output is the base's to the bit. The state (`state_dict`) holds the adapters
    and the base's SHA-256, not the base; a state from another base is refused.

    Args:
        base: the network, usually Pretrained; --init_from is its base.
        rank: rows of A and columns of B: 8 to 64 are usual.
        alpha: an adapter's share is scaled with alpha / rank.
        dropout: probability with which an adapter's input is left out while training.
        targets: linear layers that get an adapter, by their names or ends of them (qkv, feedforward.down); all-linear: every linear layer
            but the output matrix.
        rank_stabilised: scale with alpha / sqrt(rank) instead, so that high ranks learn as fast (arXiv 2312.03732).
        adapter: the first adapter's name.
        vocab_size: of the base; null: the tokenizer's.
        context_length: of the base; null: the data's.
    """

    base_sha256: Tensor
    switches: Tensor

    def __init__(
        self,
        base: Callable[[], Network],
        rank: int = 8,
        alpha: float = 16.0,
        dropout: float = 0.0,
        targets: Targets = "all-linear",
        rank_stabilised: bool = False,
        adapter: str = "default",
        vocab_size: int | None = None,
        context_length: int | None = None,
    ) -> None:
        super().__init__()
        self._take(base(vocab_size=vocab_size, context_length=context_length))  # type: ignore[call-arg]
        self.add(adapter, rank, alpha, dropout, targets, rank_stabilised)
        self.use(adapter)

    @classmethod
    def around(cls, base: Network) -> LoRA:
        """A network with no adapter yet; the base becomes its own, and is frozen."""
        network = cls.__new__(cls)
        Network.__init__(network)
        network._take(base)
        return network

    def _take(self, base: Network) -> None:
        self.base = base.requires_grad_(False)
        self.vocab_size, self.context_length = base.vocab_size, base.context_length
        self.in_use: str | None = None
        device = base.head_weight_VD.device
        self.register_buffer("base_sha256", _sha256(base).to(device))
        # what was computed with one adapter must not serve another: an engine sees a buffer change as it sees weights change
        self.register_buffer("switches", torch.zeros((), dtype=torch.int64, device=device), persistent=False)
        self.register_state_dict_post_hook(_leave_base_out)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_check_base)  # type: ignore[no-untyped-call]
        self.train(base.training)

    # adapters

    @property
    def base_digest(self) -> str:
        """The base's SHA-256 as it was when it was taken, in hexadecimal digits: zeros for one without values."""
        return _hex(self.base_sha256)

    @property
    def layers(self) -> dict[str, AdaptedLinear]:
        """The base's layers that have adapters, by the names they have in the base."""
        return {name: module for name, module in self.base.named_modules() if isinstance(module, AdaptedLinear)}

    @property
    def names(self) -> list[str]:
        """The adapters."""
        return list(dict.fromkeys(name for layer in self.layers.values() for name in layer.adapters))

    def adapters(self, name: str) -> dict[str, Adapter]:
        """An adapter's matrices by the base's layers. Raises ValueError for a name that there is not."""
        found = {at: adapter for at, layer in self.layers.items() if (adapter := layer.named(name)) is not None}
        if not found:
            raise ValueError(f"there is no adapter {name!r}; there are: {', '.join(self.names) or 'none'}")
        return found

    def add(
        self,
        name: str,
        rank: int = 8,
        alpha: float = 16.0,
        dropout: float = 0.0,
        targets: Targets = "all-linear",
        rank_stabilised: bool = False,
    ) -> None:
        """A new adapter, which changes nothing yet: A as `nn.Linear` begins, B zero. Its arguments are those of the class.

        Raises:
            ValueError: a value outside its range, a name that is taken, or a target that no linear layer answers to.
        """
        if rank < 1 or alpha <= 0 or not 0 <= dropout < 1:
            raise ValueError(f"rank ({rank}) must be at least 1, alpha ({alpha}) over 0, and dropout ({dropout}) in [0, 1)")
        made: dict[str, Adapter] = {}
        for at, layer in self._targeted(targets).items():
            dtype = torch.promote_types(layer.weight.dtype, torch.float32)  # in bf16 small steps would be lost
            A_RI = torch.empty(rank, layer.in_features, dtype=dtype, device=layer.weight.device)
            nn.init.kaiming_uniform_(A_RI, a=math.sqrt(5))
            made[at] = Adapter(A_RI, A_RI.new_zeros(layer.out_features, rank), alpha, dropout, rank_stabilised)
        self.put(name, made)

    def put(self, name: str, adapters: Mapping[str, Adapter]) -> None:
        """Enter an adapter by the base's layers. Raises ValueError for a name that is taken, or a layer or shape that does not fit."""
        if not name.isidentifier() or hasattr(nn.ModuleDict, name):
            raise ValueError(f"an adapter cannot be called {name!r}: take another word of letters, digits and underscores")
        if name in self.names:
            raise ValueError(f"there is an adapter {name!r} already; take another name")
        linears = self._linears()
        for at, adapter in adapters.items():
            layer, shape = linears.get(at), (adapter.B_OR.shape[0], adapter.A_RI.shape[1])
            if layer is None or layer.weight.shape != shape:
                raise ValueError(f"an adapter of {list(shape)} does not fit {at}: {'no linear layer' if layer is None else layer}")
        for at, adapter in adapters.items():
            layer = linears[at]
            if not isinstance(layer, AdaptedLinear):
                layer = AdaptedLinear(layer)
                layer.in_use = self.in_use
                parent, _, last = at.rpartition(".")
                setattr(self.base.get_submodule(parent), last, layer)
            layer.adapters[name] = adapter.requires_grad_(False).train(layer.training)

    def use(self, name: str) -> None:
        """Compute with this adapter and train it; the others keep their values. Raises ValueError for a name that there is not."""
        chosen = self.adapters(name)
        for at, layer in self.layers.items():
            for adapter in layer.adapters.values():
                adapter.requires_grad_(adapter is chosen.get(at))
        self._switch(name)

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Compute as the base does, inside the block."""
        before = self.in_use
        self._switch(None)
        try:
            yield
        finally:
            self._switch(before)

    def _switch(self, name: str | None) -> None:
        self.in_use = name
        for layer in self.layers.values():
            layer.in_use = name
        self.switches.add_(1)

    def _linears(self) -> dict[str, nn.Linear]:
        """The base's linear layers, the output matrix left out: it is used without its module."""
        roles = self.base.roles()
        linears = {name: module for name, module in self.base.named_modules() if isinstance(module, nn.Linear)}
        return {name: module for name, module in linears.items() if roles.get(f"{name}.weight") == "matrix"}

    def _targeted(self, targets: Targets) -> dict[str, nn.Linear]:
        linears = self._linears()
        known = ", ".join(dict.fromkeys(".".join(word for word in name.split(".") if not word.isdigit()) for name in linears)) or "none"
        if targets == "all-linear" and linears:
            return linears
        chosen: dict[str, nn.Linear] = {}
        for target in targets or [""]:
            found = {name: module for name, module in linears.items() if f".{name}".endswith(f".{target}")}
            if not found:
                raise ValueError(f"the target {target!r} is the end of no linear layer's name; there are: {known}")
            chosen |= found
        return {name: module for name, module in linears.items() if name in chosen}

    # merging

    def merge(self) -> None:
        """Compute with W + scaling B A from now on, kept beside each W, wherever no gradient is asked for; followed when an adapter changes."""
        self._keep_merged(True)

    def unmerge(self) -> None:
        """Free what `merge` made; the base's bits were never touched."""
        self._keep_merged(False)

    def _keep_merged(self, keep: bool) -> None:
        for layer in self.layers.values():
            layer.keeps_merged = keep
            layer.drop_merged()

    @torch.no_grad()
    def merged(self) -> Network:
        """A new network of the base's class with the adapter in use worked into its weights; it can be trained."""
        network = copy.deepcopy(self.base)
        for at, layer in [(name, module) for name, module in network.named_modules() if isinstance(module, AdaptedLinear)]:
            plain = Linear(layer.in_features, layer.out_features, bias=False, device="meta")
            adapter = layer.adapter
            plain.weight = layer.weight if adapter is None else nn.Parameter(layer.merged_weight(adapter))
            plain.bias = layer.bias
            parent, _, last = at.rpartition(".")
            setattr(network.get_submodule(parent), last, plain.train(layer.training))
        return network.requires_grad_(True)

    # what every network is

    @property
    def inner(self) -> Network:
        return self.base

    @property
    def init_args(self) -> dict[str, Any]:
        """Of the base, and of an adapter like the one in use; a model directory keeps the merged network's instead."""
        sizes = {"vocab_size": self.vocab_size, "context_length": self.context_length}
        if self.in_use is None:
            return {"base": as_part(self.base), **sizes}
        adapters = self.adapters(self.in_use)
        one = next(iter(adapters.values()))
        settings = {"rank": one.rank, "alpha": one.alpha, "dropout": one.dropout, "rank_stabilised": one.rank_stabilised}
        return {"base": as_part(self.base), **settings, "targets": list(adapters), "adapter": self.in_use, **sizes}

    def roles(self) -> dict[str, Role]:
        matrices: dict[str, Role] = {name: "matrix" for name, _ in self.base.named_parameters()}
        return {f"base.{name}": role for name, role in (matrices | self.base.roles()).items()}

    def num_parameters(self) -> int:
        return self.base.num_parameters()

    def flops_per_token(self, length: int) -> int:
        """The base's, less the gradients of its frozen matrices (2 of 6 operations), and the adapters'."""
        roles = self.base.roles()
        frozen = sum(parameter.numel() for name, parameter in self.frozen().items() if roles.get(name) == "matrix")
        return self.base.flops_per_token(length) - 2 * (frozen + self.head_weight_VD.numel())

    def frozen(self) -> dict[str, nn.Parameter]:
        """The base's parameters that are not trained, by their names in the base, a tied one under each of its names; no adapter's."""
        adapters = {id(parameter) for layer in self.layers.values() for parameter in layer.adapters.parameters()}
        named = self.base.named_parameters(remove_duplicate=False)
        return {name: parameter for name, parameter in named if id(parameter) not in adapters and not parameter.requires_grad}


def without_adapters(network: Network) -> Network:
    """The network with every LoRA in it, itself included, replaced by what it has merged; itself where there is none."""
    if isinstance(network, LoRA):
        return network.merged()
    if not any(isinstance(module, LoRA) for module in network.modules()):
        return network
    network = copy.deepcopy(network)
    for name, module in [(name, module) for name, module in network.named_modules() if isinstance(module, LoRA)]:
        parent, _, last = name.rpartition(".")
        setattr(network.get_submodule(parent), last, module.merged())
    return network


def _sha256(network: Network) -> Tensor:
    """Of every tensor of a network with its name, type and shape, uint8 [32]; zeros for a network without values (on meta)."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        if tensor.is_meta:
            return torch.zeros(32, dtype=torch.uint8)
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return torch.tensor(list(digest.digest()), dtype=torch.uint8)


def _hex(sha256: Tensor) -> str:
    return bytes(sha256.tolist()).hex()


def _leave_base_out(network: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    assert isinstance(network, LoRA)
    for name in network.frozen():
        state.pop(f"{prefix}base.{name}", None)


def _check_base(network: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Refuse a state from another base; give the frozen parameters as they are, which the state leaves out."""
    assert isinstance(network, LoRA)
    given = state.get(f"{prefix}base_sha256")
    if given is not None and not torch.equal(given.cpu(), network.base_sha256.cpu()):
        raise CheckpointError(
            f"the adapter was trained on another base (its SHA-256 begins {_hex(given)[:12]}, that of this one {network.base_digest[:12]}): "
            "give the base that it was trained on."
        )
    for name, parameter in network.frozen().items():
        state.setdefault(f"{prefix}base.{name}", parameter)

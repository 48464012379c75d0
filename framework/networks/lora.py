"""LoRA: a frozen network with thin trained matrices beside its linear layers (Hu et al. 2021). No recipe and no network knows it.

Shape legend: B batch, T time, N some of the tokens, D model width, V vocabulary, I inputs, O outputs, R rank.
Ids flow in, hidden states flow out, as the base has them and the adapter in use changes them. Must not know files, losses or optimizers.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from framework.errors import CheckpointError
from framework.networks import new_rows
from framework.networks.base import Network, Places, Role
from framework.networks.digest import NO_IDS, hexadecimal, sha256
from framework.networks.dot_product import soft_capped
from framework.networks.linear import Linear, linear
from framework.networks.low_rank import AdaptedLinear, Adapter, first_adapter
from framework.networks.new_rows import AdaptedEmbedding, NewRows
from framework.networks.parts import as_part
from framework.networks.quantized import Kind
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
        new_ids: how many of the last ids have rows of the adapter's own in the tables, trained with it: those of tokens that are new.
        quantize: keep the base's matrices in int8 or int4 while training; merging takes the exact ones, from where they came.
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
        new_ids: int = 0,
        quantize: Kind | None = None,
        vocab_size: int | None = None,
        context_length: int | None = None,
    ) -> None:
        super().__init__()
        exact = functools.partial(base, vocab_size=vocab_size, context_length=context_length)  # type: ignore[call-arg]
        network = exact()
        last = network.vocab_size if vocab_size is None else vocab_size
        self._take(network, range(last - new_ids, last), exact, quantize)
        self.add(adapter, rank, alpha, dropout, targets, rank_stabilised)
        self.use(adapter)

    @classmethod
    def around(cls, base: Network, new_ids: range = NO_IDS) -> LoRA:
        """A network with no adapter yet; the base becomes its own, and is frozen. Of `new_ids` each adapter will have rows of its own."""
        network = cls.__new__(cls)
        Network.__init__(network)
        network._take(base, new_ids)
        return network

    def _take(self, base: Network, new_ids: range, exact: Callable[[], Network] | None = None, quantize: Kind | None = None) -> None:
        digest = sha256(base, new_ids)
        if new_ids:
            new_rows.make_room(base, new_ids)
        self.base = base.requires_grad_(False)
        self.vocab_size, self.context_length = base.vocab_size, base.context_length
        self.new_ids, self.quantize = new_ids, quantize
        self.in_use: str | None = None
        device = base.head_weight_VD.device
        self._exact = exact
        if quantize is not None:
            for at in self.linears():
                self._adapted(at).quantize(8 if quantize == "int8" else 4)
        self.register_buffer("base_sha256", digest.to(device))
        # what was computed with one adapter must not serve another: an engine sees a buffer change as it sees weights change
        self.register_buffer("switches", torch.zeros((), dtype=torch.int64, device=device), persistent=False)
        self.register_state_dict_post_hook(_leave_base_out)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_check_base)  # type: ignore[no-untyped-call]
        self.train(base.training)

    # adapters

    @property
    def base_digest(self) -> str:
        """The base's SHA-256 as it was when it was taken, in hexadecimal digits: zeros for one without values."""
        return hexadecimal(self.base_sha256)

    @property
    def layers(self) -> dict[str, AdaptedLinear]:
        """The base's layers that have adapters or are quantised, by the names they have in the base."""
        return {name: module for name, module in self.base.named_modules() if isinstance(module, AdaptedLinear)}

    @property
    def rows(self) -> dict[str, NewRows]:
        """The adapters' rows of the tables, by the adapters' names; none where no ids are new."""
        return new_rows.adapters(self.base)

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
        chosen = self._targeted(targets).items()
        made = {at: first_adapter(layer, rank, alpha, dropout, rank_stabilised) for at, layer in chosen}
        self.put(name, made, new_rows.first(self.base, self.new_ids) if self.new_ids else None)

    def put(self, name: str, adapters: Mapping[str, Adapter], rows: NewRows | None = None) -> None:
        """Enter an adapter.

        Args:
            name: what it is called.
            adapters: its matrices, by the base's layers.
            rows: its rows of the tables, for `new_ids`.

        Raises:
            ValueError: a name that is taken, or a layer, shape or ids that do not fit.
        """
        if not name.isidentifier() or hasattr(nn.ModuleDict, name):
            raise ValueError(f"an adapter cannot be called {name!r}: take another word of letters, digits and underscores")
        if name in self.names:
            raise ValueError(f"there is an adapter {name!r} already; take another name")
        linears = self.linears()
        for at, adapter in adapters.items():
            layer, shape = linears.get(at), (adapter.B_OR.shape[0], adapter.A_RI.shape[1])
            if layer is None or (layer.out_features, layer.in_features) != shape:
                raise ValueError(f"an adapter of {list(shape)} does not fit {at}: {'no linear layer' if layer is None else layer}")
        if (NO_IDS if rows is None else rows.ids) != self.new_ids:
            raise ValueError(f"the adapter must have rows for {self.new_ids or 'no ids'}, and has them for {rows and rows.ids}")
        for at, adapter in adapters.items():
            layer = self._adapted(at)
            layer.adapters[name] = adapter.requires_grad_(False).train(layer.training)
        if rows is not None:
            new_rows.put(self.base, name, rows.requires_grad_(False))

    def use(self, name: str) -> None:
        """Compute with this adapter and train it; the others keep their values. Raises ValueError for a name that there is not."""
        chosen = {id(adapter) for adapter in self.adapters(name).values()} | {id(self.rows.get(name))}
        for adapter in self._every_adapter():
            adapter.requires_grad_(id(adapter) in chosen)
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
        for module in self.base.modules():
            if isinstance(module, AdaptedLinear | AdaptedEmbedding):
                module.in_use = name
        self.switches.add_(1)

    def _every_adapter(self) -> Iterator[Adapter | NewRows]:
        for layer in self.layers.values():
            yield from layer.adapters.values()  # type: ignore[misc]
        yield from self.rows.values()

    def _adapted(self, at: str) -> AdaptedLinear:
        """A linear layer of the base, made to take adapters."""
        layer = self.base.get_submodule(at)
        if not isinstance(layer, AdaptedLinear):
            assert isinstance(layer, nn.Linear)
            layer = AdaptedLinear(layer)
            layer.in_use = self.in_use
            _replace(self.base, at, layer)
        return layer

    def linears(self) -> dict[str, nn.Linear]:
        """The base's linear layers, the output matrix left out: it is used without its module."""
        roles = self.base.roles()
        linears = {name: module for name, module in self.base.named_modules() if isinstance(module, nn.Linear)}
        return {
            name: module for name, module in linears.items() if isinstance(module, AdaptedLinear) or roles.get(f"{name}.weight") == "matrix"
        }

    def _targeted(self, targets: Targets) -> dict[str, nn.Linear]:
        linears = self.linears()
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
        """A new network of the base's class with the adapter in use worked into its weights; it can be trained.

        Of a quantised base the exact weights are taken, from where they came.

        Raises:
            CheckpointError: they are no longer what they were.
        """
        network = copy.deepcopy(self.base) if self.quantize is None else self._made_anew()
        for at, layer in self.layers.items():
            given, adapter = network.get_submodule(at), layer.adapter
            assert isinstance(given, nn.Linear)
            plain = Linear(given.in_features, given.out_features, bias=False, device="meta")
            plain.weight = given.weight if adapter is None else nn.Parameter(adapter.merged_into(given.weight))
            plain.bias = given.bias
            _replace(network, at, plain.train(given.training))
        if self.new_ids:
            new_rows.work_in(network, self.rows.get(self.in_use or ""))
        return network.requires_grad_(True)

    def _made_anew(self) -> Network:
        assert self._exact is not None, "what was quantised came from somewhere"
        network = self._exact()
        if not torch.equal(sha256(network, self.new_ids), self.base_sha256.cpu()):
            raise CheckpointError("the base is no longer what the adapter was trained on, and merging needs its exact weights: put it back")
        return network.train(self.training)

    # what every network is

    @property
    def inner(self) -> Network:
        return self.base

    def hidden_at(self, places: Places, ids_BT: Tensor, positions_BT: Tensor | None = None, documents_BT: Tensor | None = None) -> Tensor:
        if self.training and self.in_use is not None and any(adapter.dropout for adapter in self.adapters(self.in_use).values()):
            return Network.hidden_at(self, places, ids_BT, positions_BT, documents_BT)  # dropout draws as it does for all tokens
        return super().hidden_at(places, ids_BT, positions_BT, documents_BT)

    @property
    def head_weight_VD(self) -> Tensor:
        weight_VD, rows = self.base.head_weight_VD, self.rows.get(self.in_use or "")
        return weight_VD if rows is None else rows.output_matrix(weight_VD)

    def logits(self, hidden_BTD: Tensor) -> Tensor:
        if not self.new_ids:
            return self.base.logits(hidden_BTD)
        return soft_capped(linear(hidden_BTD, self.head_weight_VD), self.logit_softcap)

    @property
    def init_args(self) -> dict[str, Any]:
        """Of the base, and of an adapter like the one in use; a model directory keeps the merged network's instead."""
        sizes = {"vocab_size": self.vocab_size, "context_length": self.context_length}
        if self.in_use is None:
            return {"base": as_part(self.base), **sizes}
        adapters = self.adapters(self.in_use)
        one = next(iter(adapters.values()))
        settings = {"rank": one.rank, "alpha": one.alpha, "dropout": one.dropout, "rank_stabilised": one.rank_stabilised}
        ours = {"new_ids": len(self.new_ids), "quantize": self.quantize}
        return {"base": as_part(self.base), **settings, "targets": list(adapters), "adapter": self.in_use, **ours, **sizes}

    def roles(self) -> dict[str, Role]:
        roles: dict[str, Role] = {name: "matrix" for name, _ in self.base.named_parameters()}
        roles |= self.base.roles()
        rows = {id(parameter) for rows in self.rows.values() for parameter in rows.parameters()}
        roles |= {name: "embedding" for name, parameter in self.base.named_parameters() if id(parameter) in rows}
        return {f"base.{name}": role for name, role in roles.items()}

    def num_parameters(self) -> int:
        return self.base.num_parameters() + self._num_quantised()

    def flops_per_token(self, length: int) -> int:
        """The base's, less the gradients of its frozen matrices (2 of 6 operations), and the adapters'."""
        roles, quantised = self.base.roles(), self._num_quantised()
        frozen = sum(parameter.numel() for name, parameter in self.frozen().items() if roles.get(name) == "matrix")
        if not self.new_ids:  # rows of it that are trained need the gradient of the whole
            frozen += self.base.head_weight_VD.numel()
        return self.base.flops_per_token(length) + 4 * quantised - 2 * frozen

    def _num_quantised(self) -> int:
        """Numbers in the quantised matrices, which are no parameters."""
        matrices = (layer.matrix for layer in self.layers.values())
        return sum(matrix.num_outputs * matrix.num_inputs for matrix in matrices if matrix is not None)

    def left_out(self) -> dict[str, Tensor]:
        """What the state leaves out, because it is the base's, by its names there: frozen parameters and quantised matrices."""
        matrices = {at: layer.matrix for at, layer in self.layers.items() if layer.matrix is not None}
        quantised = {f"{at}.matrix.{name}": buffer for at, matrix in matrices.items() for name, buffer in matrix.named_buffers()}
        return {**self.frozen(), **quantised}

    def frozen(self) -> dict[str, nn.Parameter]:
        """The base's parameters that are not trained, by their names in the base, a tied one under each of its names; no adapter's."""
        adapters = {id(parameter) for adapter in self._every_adapter() for parameter in adapter.parameters()}
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
        _replace(network, name, module.merged())
    return network


def _replace(network: Network, at: str, module: nn.Module) -> None:
    parent, _, last = at.rpartition(".")
    setattr(network.get_submodule(parent), last, module)


def _leave_base_out(network: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    assert isinstance(network, LoRA)
    for name in network.left_out():
        state.pop(f"{prefix}base.{name}", None)


def _check_base(network: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Refuse a state from another base; give what the state leaves out as it is."""
    assert isinstance(network, LoRA)
    given = state.get(f"{prefix}base_sha256")
    if given is not None and not torch.equal(given.cpu(), network.base_sha256.cpu()):
        raise CheckpointError(
            f"the adapter was trained on another base (its SHA-256 begins {hexadecimal(given)[:12]}, that of this one {network.base_digest[:12]}): "
            "give the base that it was trained on."
        )
    for name, tensor in network.left_out().items():
        state.setdefault(f"{prefix}base.{name}", tensor)

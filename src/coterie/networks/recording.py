"""Records a network's forward as a graph, and rejects what a graph would freeze: Python's random numbers and counters.

A graph repeats one run of ``forward``. Tensors that ``forward`` creates are stored as constants, or created at every call if their size, device or values
depend on the input or on random numbers. Decisions that Python makes at every call would be lost silently, so ``forward`` is run twice and must leave all
generators and attributes unchanged.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import pickle
import random
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from coterie.networks.unchanged import generator_states, state_of, unchanged

# Called every time if an argument depends on the input; random ones always.
FACTORIES = (
    "arange",
    "as_tensor",
    "empty",
    "eye",
    "full",
    "linspace",
    "logspace",
    "ones",
    "scalar_tensor",
    "tensor",
    "zeros",
)
RANDOM_FACTORIES = ("normal", "rand", "randint", "randn", "randperm")
CONSTANT = "_constant"  # name of a tensor that forward creates, followed by its number
MAIN_OUTPUTS = ("logits", "out", "output", "main", "predictions")


class FrozenStateError(Exception):
    """Raised for a forward whose decisions in Python a graph would freeze."""


class Constant(nn.Module):
    """A tensor that a network's forward creates: moves with the network, but is not part of its state."""

    value: Tensor

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.register_buffer("value", value, persistent=False)

    def forward(self) -> Tensor:
        return self.value


class AncestorTracer(fx.Tracer):
    """A tracer that treats every module as a leaf except those at the given paths; ``path`` is its current position."""

    def __init__(self, through: set[str]) -> None:
        super().__init__()
        self.through = through
        self.path = ""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name not in self.through

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> tuple[Any, list[Any]]:
        """Traces one input; other arguments keep their defaults, so that ``if mask is not None`` takes its usual path."""
        root: Any = self.root
        name = next(iter(inspect.signature(root.forward).parameters))
        return root_fn, [self.root, self.create_proxy("placeholder", name, (), {})]

    def call_module(self, m: nn.Module, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        outer, self.path = self.path, self.path_of_module(m)
        result = super().call_module(m, forward, args, kwargs)
        self.path = outer
        return result


def record(
    network: nn.Module, tracer: AncestorTracer, classifier: str, training: bool
) -> tuple[fx.Graph, dict[str, Tensor], tuple[str, ...], bool]:
    """Records the graph of a network's forward in train or eval mode, with one output.

    Returns:
        The graph; the constants that it reads, by name; the modules whose mode differs from the network's because of an overridden ``train``; whether other
        outputs (auxiliary heads) were omitted.

    Raises:
        FrozenStateError: the forward draws random numbers in Python or changes state that its next call reads.
    """
    traced = {path: network.get_submodule(path) for path in ["", *sorted(tracer.through)] if _has(network, path)}
    with unchanged(network, traced):
        network.train(training)
        exceptions = tuple(name for name, module in network.named_modules() if module.training != training)
        graph, constants, several = _once(network, tracer, classifier)
        before = state_of(traced)
        try:
            again, constants_again, _ = _once(network, tracer, classifier)
        except FrozenStateError:
            raise
        except Exception:
            raise FrozenStateError("keeps values of one call for the next") from None
        after = state_of(traced)
        changed = [name for name in before.keys() | after.keys() if before.get(name) != after.get(name)]
        if changed:
            raise FrozenStateError(f"changes self.{min(changed)} at every call")
        if not same_graph(graph, constants, again, constants_again):
            raise FrozenStateError("does something else at every call")
    return graph, constants, exceptions, several


def same_graph(graph: fx.Graph, constants: dict[str, Tensor], other: fx.Graph, others: dict[str, Tensor]) -> bool:
    """Whether two graphs perform the same operations with the same constants."""
    if _structure(graph) != _structure(other) or constants.keys() != others.keys():
        return False
    return all(
        value.shape == others[name].shape
        and value.dtype == others[name].dtype
        and bool(torch.equal(value.nan_to_num(), others[name].nan_to_num()))
        for name, value in constants.items()
    )


def _structure(graph: fx.Graph) -> list[str]:
    """Returns every node's operation and arguments; nodes are identified by position, not by name."""
    places = {node: position for position, node in enumerate(graph.nodes)}
    return [
        repr((node.op, node.target, fx.node.map_arg((node.args, node.kwargs), lambda each: f"%{places[each]}")))
        for node in graph.nodes
    ]


@contextlib.contextmanager
def attached(network: nn.Module, values: Mapping[str, Any]) -> Iterator[None]:
    """Sets values as attributes of a network while a graph module is built from it."""
    network.__dict__.update(values)
    try:
        yield
    finally:
        for name in values:
            del network.__dict__[name]


def main_output(result: Any) -> Any:
    """Returns the logits among a network's outputs: a tensor itself; ``logits`` or ``out`` of a mapping or named tuple; else the first [B, K]."""
    if isinstance(result, Tensor):
        return result
    named = result if isinstance(result, Mapping) else getattr(result, "_asdict", dict)()
    for name in MAIN_OUTPUTS:
        if isinstance(named.get(name), Tensor):
            return named[name]
    values = (
        list(result.values())
        if isinstance(result, Mapping)
        else list(result)
        if isinstance(result, tuple | list)
        else []
    )
    return next((value for value in values if isinstance(value, Tensor) and value.ndim == 2), result)


def _has(network: nn.Module, path: str) -> bool:
    try:
        network.get_submodule(path)
    except AttributeError:
        return False
    return True


def _once(network: nn.Module, tracer: AncestorTracer, classifier: str) -> tuple[fx.Graph, dict[str, Tensor], bool]:
    generators = generator_states()
    try:
        with _recorded_factories(tracer):
            graph = tracer.trace(network)
        drawn = [name for name, state in generator_states().items() if state != generators[name]]
    finally:
        random.setstate(pickle.loads(generators["Python's random"]))
        np.random.set_state(pickle.loads(generators["numpy.random"]))
        torch.set_rng_state(torch.frombuffer(bytearray(generators["torch"]), dtype=torch.uint8))
    if drawn:
        raise FrozenStateError(f"draws numbers from {drawn[0]} and decides by them")
    several = _keep_main(graph, classifier)
    owner = fx.GraphModule(network, graph)  # before its constants are removed
    graph.eliminate_dead_code()
    constants: dict[str, Tensor] = {}
    names: dict[str, str] = {}
    stateful = {
        name
        for name, _ in [
            *network.named_parameters(remove_duplicate=False),
            *network.named_buffers(remove_duplicate=False),
        ]
    }
    for node in graph.nodes:
        target = str(node.target)
        if node.op != "get_attr" or target in stateful or target in constants:
            continue
        path, _, field = target.rpartition(".")
        value = getattr(network.get_submodule(path), field)
        if isinstance(value, Tensor):
            node.target = names.setdefault(target, f"{CONSTANT}{len(names)}")
            constants[node.target] = value.detach()
    del owner
    for target in names:
        if target.startswith("_tensor_constant"):  # added by the tracer
            del network.__dict__[target]
    return graph, constants, several


def _keep_main(graph: fx.Graph, classifier: str) -> bool:
    """Makes a graph of several outputs return the classifier's only. Returns whether there were others."""
    output = next(node for node in reversed(graph.nodes) if node.op == "output")
    (result,) = output.args
    if isinstance(result, fx.Node):
        literal = isinstance(result.target, type) and issubclass(result.target, tuple)
        if not literal:
            return False
        values: list[Any] = [*result.args, *result.kwargs.values()]
    elif isinstance(result, Mapping):
        values = list(result.values())
    else:
        values = list(result) if isinstance(result, tuple | list) else []
    nodes = [value for value in values if isinstance(value, fx.Node)]
    from_classifier = [node for node in nodes if _comes_from(node, classifier)]
    direct = [node for node in from_classifier if node.op == "call_module" and node.target == classifier]
    if from_classifier:
        output.args = ((direct or from_classifier)[0],)
    return len(nodes) > 1


def _comes_from(node: fx.Node, classifier: str) -> bool:
    seen, stack = set(), [node]
    while stack:
        each = stack.pop()
        if each.op == "call_module" and each.target == classifier:
            return True
        if each not in seen:
            seen.add(each)
            stack += each.all_input_nodes
    return False


@contextlib.contextmanager
def _recorded_factories(tracer: AncestorTracer) -> Iterator[None]:
    originals = {name: getattr(torch, name) for name in (*FACTORIES, *RANDOM_FACTORIES)}

    def recorded(name: str, original: Any) -> Any:
        @functools.wraps(original)
        def call(*args: Any, **kwargs: Any) -> Any:
            found: list[fx.Proxy] = []
            fx.node.map_aggregate(
                (args, kwargs), lambda each: found.append(each) if isinstance(each, fx.Proxy) else None
            )
            if found or name in RANDOM_FACTORIES:
                return tracer.create_proxy("call_function", original, args, kwargs)
            return original(*args, **kwargs)

        return call

    for name, original in originals.items():
        setattr(torch, name, recorded(name, original))
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(torch, name, original)

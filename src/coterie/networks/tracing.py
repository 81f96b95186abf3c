"""Traces a network to a graph: which modules run in which order, and where its classifier, embedding and feature map are.

Only the ancestors of the split point and of the classifier are traced; every other module is a leaf. So the inside of blocks need not be traceable, and buffers
stay where they are.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from coterie.errors import CoterieError
from coterie.networks.recording import AncestorTracer, FrozenStateError, attached, main_output, record, same_graph

MANUAL = "split it by hand: StudentGroup(trunk, branches), each branch returning (logits, embedding, feature_map)"


@dataclass(frozen=True)
class TracedNetwork:
    """A network's graphs and their relevant nodes, by name.

    Attributes:
        graphs: one graph each for train mode and eval mode; the same object if they do not differ.
        classifier: module path of the last layer.
        shapes: shape of each tensor-valued node of the eval graph, measured on the example.
        taps: module paths whose outputs are also requested.
        constants: tensors that the forward creates and the graphs read by name.
        exceptions: for train mode and eval mode, the modules that stay in the other mode (a ``train`` that keeps BatchNorm frozen).
        several_outputs: whether the network returns more than its logits in either mode; the rest is omitted.
    """

    network: nn.Module
    train_graph: fx.Graph
    eval_graph: fx.Graph
    classifier: str
    shapes: dict[str, tuple[int, ...]]
    taps: tuple[str, ...] = ()
    constants: dict[str, Tensor] = field(default_factory=dict)
    exceptions: dict[bool, tuple[str, ...]] = field(default_factory=dict)
    several_outputs: bool = False


def ancestors(path: str) -> set[str]:
    """Returns every proper prefix of a module path, except the root's empty one."""
    parts = path.split(".")
    return {".".join(parts[:count]) for count in range(1, len(parts))}


def find_classifier(network: nn.Module, example: Tensor | None = None) -> str:
    """Returns the path of the last layer: what timm's ``get_classifier`` returns, otherwise the linear layer that computes the output.

    Args:
        network: the network.
        example: a batch to run if several linear layers are candidates; None: the last one is taken.

    Raises:
        CoterieError: there is none.
    """
    names = {id(module): name for name, module in network.named_modules()}
    get_classifier: Any = getattr(network, "get_classifier", None)
    if callable(get_classifier):
        classifier = get_classifier()
        if isinstance(classifier, (tuple, list, nn.ModuleList, nn.ModuleDict)):
            raise CoterieError(f"{type(network).__name__} has several classifiers; {MANUAL}")
        if id(classifier) in names and getattr(classifier, "weight", None) is not None:
            return names[id(classifier)]
    linear = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise CoterieError(f"{type(network).__name__} has no linear layer to be its classifier; {MANUAL}")
    found = _output_layer(network, linear, example) if example is not None and len(linear) > 1 else None
    return found or linear[-1]


def _output_layer(network: nn.Module, layers: Sequence[str], example: Tensor) -> str | None:
    """Returns the layer whose output is the network's logits; None if there is none."""
    given: dict[str, Tensor] = {}

    def note(name: str) -> Any:
        def hook(module: nn.Module, arguments: Any, output: Any) -> None:
            given[name] = output

        return hook

    hooks = [network.get_submodule(name).register_forward_hook(note(name)) for name in layers]
    try:
        with quiet_eval(network):
            logits = main_output(network(example))
    except Exception:  # wrong inputs are reported where shapes are measured
        return None
    finally:
        for each in hooks:
            each.remove()
    return next((name for name, output in given.items() if output is logits), None)


def _trace(
    network: nn.Module, through: set[str], classifier: str, training: bool
) -> tuple[fx.Graph, dict[str, Tensor], tuple[str, ...], bool]:
    tracer = AncestorTracer(through)
    name = type(network).__name__
    try:
        return record(network, tracer, classifier, training)
    except FrozenStateError as error:
        raise CoterieError(
            f"the forward of {name} {error}, which a traced branch would repeat for ever the same\n"
            f"move that into a sub-module of its own, which is not traced, or {MANUAL}"
        ) from None
    except Exception as error:
        place = f"module {tracer.path!r}" if tracer.path else "its own forward"
        reason = " ".join(str(error).split())[:140]
        raise CoterieError(f"{name} cannot be traced in {place}: {reason}\n{MANUAL}") from error


def trace(network: nn.Module, at: str | None, example: Tensor, taps: Sequence[str] = ()) -> TracedNetwork:
    """Traces a network through the ancestors of ``at``, of its classifier and of the taps, in train mode and in eval mode.

    If there are several outputs (auxiliary heads), the classifier's is kept.

    Raises:
        CoterieError: it cannot be traced (the message names the place), or no output comes from its classifier.
    """
    classifier = find_classifier(network, example)
    through = ancestors(classifier) | (ancestors(at) if at else set()).union(*(ancestors(tap) for tap in taps))
    eval_graph, constants, in_eval, several = _trace(network, through, classifier, False)
    train_graph, train_constants, in_train, train_several = _trace(network, through, classifier, True)
    if same_graph(eval_graph, constants, train_graph, train_constants):
        train_graph = eval_graph
    else:
        for node in train_graph.nodes:
            if node.op == "get_attr" and node.target in train_constants:
                node.target = f"_train{node.target}"
        constants = {**constants, **{f"_train{name}": value for name, value in train_constants.items()}}
    for graph in (eval_graph, train_graph):
        if not any(node.op == "call_module" and node.target == classifier for node in graph.nodes):
            raise CoterieError(f"the classifier {classifier!r} of {type(network).__name__} is never called; {MANUAL}")
        if not isinstance(output_node(graph).args[0], fx.Node):
            raise CoterieError(f"{type(network).__name__} returns no tensor that comes from {classifier!r}; {MANUAL}")
    with attached(network, constants):
        shapes = measure_shapes(network, eval_graph, example)
    return TracedNetwork(
        network,
        train_graph,
        eval_graph,
        classifier,
        shapes,
        tuple(taps),
        constants,
        {True: in_train, False: in_eval},
        several or train_several,
    )


def output_node(graph: fx.Graph) -> fx.Node:
    return next(node for node in reversed(graph.nodes) if node.op == "output")


class _Shapes(fx.Interpreter):
    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.shapes: dict[str, tuple[int, ...]] = {}

    def fetch_args_kwargs_from_env(self, n: fx.Node) -> Any:
        """Passes copies of lists, as the generated code does, since a module may change them (HRNet's stages do)."""
        args, kwargs = super().fetch_args_kwargs_from_env(n)
        return tuple(list(each) if isinstance(each, list) else each for each in args), kwargs

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, Tensor):
            self.shapes[n.name] = tuple(value.shape)
        return value


@contextlib.contextmanager
def quiet_eval(module: nn.Module) -> Iterator[None]:
    """Eval mode without gradients; each submodule's mode is restored, and BatchNorm statistics do not change."""
    modes = [(each, each.training) for each in module.modules()]
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for each, mode in modes:
            each.training = mode


def measure_shapes(network: nn.Module, graph: fx.Graph, example: Tensor) -> dict[str, tuple[int, ...]]:
    """Runs the graph once in eval mode and returns every tensor's shape.

    Raises:
        CoterieError: the network does not accept the example.
    """
    interpreter = _Shapes(fx.GraphModule(network, graph))
    with quiet_eval(network):
        try:
            interpreter.run(example)
        except Exception as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
            size = "x".join(map(str, example.shape[1:]))
            raise CoterieError(f"{type(network).__name__} does not take images of {size}: {reason}") from error
    return interpreter.shapes


def embedding_node(graph: fx.Graph, classifier: str) -> fx.Node:
    """Returns the classifier's input."""
    call = next(node for node in reversed(graph.nodes) if node.op == "call_module" and node.target == classifier)
    return call.all_input_nodes[0]


def feature_map_node(graph: fx.Graph, classifier: str, shapes: dict[str, tuple[int, ...]]) -> fx.Node:
    """Returns the last value before the classifier that is not pooled: tokens [B, N, C], or a map of more than one position.

    If every map is a single position (a small image), it is the last value with axes for positions; if there is none (a multi-layer perceptron), the embedding.
    """
    seen, stack = set(), [embedding_node(graph, classifier)]
    while stack:
        node = stack.pop()
        if node not in seen:
            seen.add(node)
            stack += node.all_input_nodes
    behind = [node for node in reversed(graph.nodes) if node in seen and node.op != "placeholder"]
    mapped = [node for node in behind if len(shapes.get(node.name, ())) in (3, 4)]
    if not mapped:
        return embedding_node(graph, classifier)
    wide = (node for node in mapped if len(shapes[node.name]) == 3 or _positions(shapes[node.name]) > 1)
    return next(wide, mapped[0])


def _positions(shape: tuple[int, ...]) -> int:
    """Number of positions of a 4-d map whose channel axis is not known yet: the product of its two smallest axes."""
    smallest = sorted(shape[1:])
    return smallest[0] * smallest[1]


def canonical_axes(shape: tuple[int, ...], width: int, channels_last: bool) -> tuple[int, ...] | None:
    """Returns the permutation that brings a map to [B, C, H, W] or [B, N, C]; None if it is in that order already.

    Args:
        shape: shape of the map.
        width: width of the embedding, which identifies the channel axis if the map has as many channels.
        channels_last: what the network declares for its own maps (timm's ``output_fmt``).
    """
    if len(shape) == 4:
        last = channels_last or (shape[-1] == width and shape[1] != width)
        return (0, 3, 1, 2) if last else None
    return (0, 2, 1) if shape[1] == width and shape[2] != width else None

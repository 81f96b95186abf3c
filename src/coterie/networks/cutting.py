"""Cuts a traced network into the graphs of a trunk and a branch, and builds modules from them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, fx, nn

from coterie.errors import CoterieError, did_you_mean
from coterie.networks.pieces import TwoModeModule
from coterie.networks.tracing import (
    TracedNetwork,
    canonical_axes,
    embedding_node,
    feature_map_node,
    output_node,
    trace,
)


def whole(network: nn.Module, example: Tensor, taps: Sequence[str] = ()) -> nn.Module:
    """Wraps a network's own modules in one module that returns (logits, embedding, feature map, taps).

    Raises:
        CoterieError: it cannot be traced, or does not accept the example.
    """
    return Parts(trace(network, None, example, taps), None).branch(network)


def say_left_out(traced: TracedNetwork) -> None:
    """Warns about outputs that get no loss."""
    if traced.several_outputs:
        warnings.warn(
            f"{type(traced.network).__name__} has auxiliary outputs: only that of {traced.classifier!r} is trained; the others get no loss",
            stacklevel=3,
        )


def has_channels_last(network: nn.Module) -> bool:
    """Whether the network's maps are [B, H, W, C], according to timm."""
    return str(getattr(network, "output_fmt", "")).upper().endswith("NHWC")


def input_size(network: nn.Module) -> tuple[int, ...]:
    """Channels, height and width of a network's input according to timm; else ImageNet's."""
    config = getattr(network, "pretrained_cfg", None) or {}
    return tuple(config.get("input_size") or (3, 224, 224))


class Parts:
    """The graphs of trunk and branch, cut from a traced network. They build modules for any network of the same architecture."""

    def __init__(self, traced: TracedNetwork, at: str | None) -> None:
        self.traced = traced
        self.at = at
        graphs = (traced.eval_graph, traced.train_graph)
        self.same = graphs[0] is graphs[1]
        cuts = [_cut(graph, traced, at) for graph in (graphs[:1] if self.same else graphs)]
        self.trunk_graphs = [trunk for trunk, _ in cuts]
        self.branch_graphs = [body for _, body in cuts]
        if at is not None:
            _require_separate(traced, self.trunk_graphs[0], self.branch_graphs[0], at)

    def trunk(self, network: nn.Module) -> nn.Module:
        return self._build(network, self.trunk_graphs, "Trunk")

    def branch(self, network: nn.Module) -> nn.Module:
        return self._build(network, self.branch_graphs, "Branch")

    def _build(self, network: nn.Module, graphs: list[fx.Graph], name: str) -> nn.Module:
        called = {str(node.target) for graph in graphs for node in graph.nodes if node.op == "call_module"}
        constants = {name: value for name, value in self.traced.constants.items() if name in called}
        return TwoModeModule.build(network, graphs, name, constants, self.traced.exceptions)


def _is_within(node: fx.Node, at: str) -> bool:
    return node.op == "call_module" and (node.target == at or str(node.target).startswith(f"{at}."))


def _cut(graph: fx.Graph, traced: TracedNetwork, at: str | None) -> tuple[fx.Graph, fx.Graph]:
    """Returns copies of the graph's two sides. The trunk returns the tuple of values that cross the split; the branch takes them."""
    nodes = list(graph.nodes)
    position = 0
    if at is not None:
        found = [index for index, node in enumerate(nodes) if _is_within(node, at)]
        if not found:
            raise CoterieError(f"the split point {at!r} of {type(traced.network).__name__} is never called")
        position = found[0]
    classifier = next(i for i, n in enumerate(nodes) if n.op == "call_module" and n.target == traced.classifier)
    if position > classifier:
        raise CoterieError(f"the split point {at!r} comes after the classifier {traced.classifier!r}")
    # Reading a parameter belongs to the side that uses it, and values that are cheap to read again do not cross.
    before = [node for node in nodes[:position] if node.op != "get_attr"]
    after = nodes[position:]
    inputs = [node for node in nodes if node.op == "placeholder"]
    if at is not None and not any(node.op == "call_module" for node in before):
        raise CoterieError(
            f"nothing comes before the split point {at!r}, so nothing would be shared; use at=None for peers"
        )
    early = set(before)
    crossing = [node for node in before if any(user not in early for user in node.users)] if at is not None else inputs
    trunk = _copy(before, nodes, inputs, traced.constants) if at is not None else (fx.Graph(), {})
    if at is not None:
        trunk_graph, trunk_values = trunk
        trunk_graph.output(tuple(trunk_values[node] for node in crossing))
    kept = [node for node in after if node.op not in {"output", "placeholder"}]
    body, values = _copy(kept, nodes, crossing, traced.constants)
    (result,) = output_node(graph).args
    assert isinstance(result, fx.Node)  # checked by trace
    logits = values[result]
    embedding = values[embedding_node(graph, traced.classifier)]
    if len(traced.shapes[embedding_node(traced.eval_graph, traced.classifier).name]) > 2:
        embedding = body.call_method("flatten", (embedding, 1))
    mapped = feature_map_node(traced.eval_graph, traced.classifier, traced.shapes)
    own = _same_node(graph, mapped, traced.eval_graph)
    if own not in values:
        raise CoterieError(f"the split point {at!r} comes after the last feature map ({mapped.name}); split earlier")
    width = traced.shapes[embedding_node(traced.eval_graph, traced.classifier).name][1]
    channels_last = has_channels_last(traced.network)

    def canonical(node: fx.Node, shape: tuple[int, ...], width: int) -> fx.Node:
        if len(shape) == 2:  # no positions: one token
            return body.call_method("unsqueeze", (values[node], 1))
        axes = canonical_axes(shape, width, channels_last)
        return values[node] if axes is None else body.call_method("permute", (values[node], *axes))

    tapped = []
    for tap in traced.taps:
        node, shape = _tapped_node(graph, tap, traced)
        if node not in values:
            raise CoterieError(f"the tap {tap!r} comes before the split point {at!r}, in what all students share")
        tapped.append(canonical(node, shape, 0))
    own_map = canonical(own, traced.shapes[mapped.name], width)
    body.output((logits, embedding, own_map, tuple(tapped)) if tapped else (logits, embedding, own_map))
    return trunk[0], body


def _tapped_node(graph: fx.Graph, tap: str, traced: TracedNetwork) -> tuple[fx.Node, tuple[int, ...]]:
    """Returns the last value that the module ``tap`` computes, and its shape."""
    inside = [node for node in graph.nodes if _is_within(node, tap)]
    known = [node for node in traced.eval_graph.nodes if _is_within(node, tap)]
    shape = traced.shapes.get(known[-1].name) if known else None
    if not inside or shape is None or len(shape) not in (2, 3, 4):
        names = [name for name, _ in traced.network.named_modules() if name]
        raise CoterieError(
            f"cannot tap {tap!r} of {type(traced.network).__name__}{did_you_mean(tap, names)}; "
            "expected a module that returns one map [B, C, H, W], [B, N, C] or [B, d]"
        )
    return inside[-1], shape


def _copy(
    keep: list[fx.Node], nodes: list[fx.Node], inputs: list[fx.Node], constants: Mapping[str, Tensor]
) -> tuple[fx.Graph, dict[fx.Node, Any]]:
    """Returns a graph of the nodes to keep and the parameters and constants that they read, with the given values as inputs."""
    graph, values = fx.Graph(), {}
    for node in inputs:
        values[node] = graph.placeholder(node.name)
    wanted = set(keep)
    read = {source for node in keep for source in node.all_input_nodes if source.op == "get_attr"}
    for node in nodes:
        if (node in wanted or node in read) and node not in values and node.op not in {"output", "placeholder"}:
            if node.op == "get_attr" and node.target in constants:
                values[node] = graph.call_module(str(node.target))
            else:
                values[node] = graph.node_copy(node, lambda source: values[source])
    return graph, values


def _same_node(graph: fx.Graph, node: fx.Node, other: fx.Graph) -> fx.Node:
    """Returns the node of ``graph`` that corresponds to ``node`` in ``other``: the same occurrence of the same target."""
    if graph is other:
        return node
    alike = [each for each in other.nodes if (each.op, each.target) == (node.op, node.target)]
    here = [each for each in graph.nodes if (each.op, each.target) == (node.op, node.target)]
    # Counted from the end: train and eval graphs often differ before the node, rarely after it.
    return here[alike.index(node) - len(alike)]


def _require_separate(traced: TracedNetwork, trunk: fx.Graph, body: fx.Graph, at: str) -> None:
    """Checks that no parameter or buffer belongs to both sides."""
    network = traced.network

    def owned(graph: fx.Graph) -> dict[int, str]:
        found = {}
        for node in graph.nodes:
            if node.op == "call_module" and node.target not in traced.constants:
                module = network.get_submodule(str(node.target))
                for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
                    found[id(tensor)] = f"{node.target}.{name}"
            elif node.op == "get_attr":
                path, _, name = str(node.target).rpartition(".")
                found[id(getattr(network.get_submodule(path), name))] = str(node.target)
        return found

    first, second = owned(trunk), owned(body)
    shared = [first[key] for key in first.keys() & second.keys()]
    if shared:
        raise CoterieError(
            f"{sorted(shared)[0]!r} of {type(network).__name__} is used before and after the split point {at!r}; split elsewhere"
        )

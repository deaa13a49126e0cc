"""Which norms end the branches of residual blocks: read off the graph of a model, not off the names of its layers."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from nasimb.errors import InputError

ADDITIONS = frozenset({operator.add, operator.iadd, torch.add, "add", "add_"})
PRODUCTS = frozenset({operator.mul, operator.imul, torch.mul, "mul", "mul_"})
PASSING = frozenset({F.dropout, F.dropout2d})
PASSING_MODULES = (nn.Identity, nn.Dropout, nn.Dropout2d)


def branch_ends(model: nn.Module, is_norm: Callable[[nn.Module], bool]) -> list[str]:
    """Names of the norms whose output is a term of a residual addition, in order of execution.

    Between the norm and the addition may stand what drops or gates (dropout, stochastic depth, squeeze and
    excitation), but no convolution, activation or pooling. Norms of projecting shortcuts count too. Where the other
    term of an addition is computed from the norm's output, the norm belongs to the block before, of which this
    output is the identity shortcut: it does not count.

    Raises:
        InputError: torch.fx cannot trace the model.
    """
    graph = _traced(model, is_norm)
    modules = dict(model.named_modules(remove_duplicate=False))
    found: dict[nn.Module, str] = {}
    for node in graph.nodes:
        terms = node.all_input_nodes
        if _is(node, ADDITIONS) and len(terms) == 2:
            for term, other in (terms, reversed(terms)):
                before_other = _ancestors(other)
                for norm in _norms_at_the_end(term, modules, is_norm):
                    if norm not in before_other:
                        found.setdefault(modules[str(norm.target)], str(norm.target))
    order = {str(node.target): place for place, node in enumerate(graph.nodes)}
    return sorted(found.values(), key=order.__getitem__)


def _traced(model: nn.Module, is_norm: Callable[[nn.Module], bool]) -> fx.Graph:
    class Tracer(fx.Tracer):
        def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
            return is_norm(m) or super().is_leaf_module(m, module_qualified_name)

    try:
        with _evaluating(model):
            return Tracer().trace(model)
    except Exception as error:  # whatever the model's own code raises when it is shown symbols in place of tensors
        reason = " ".join(str(error).split())[:160]
        raise InputError(
            "the last norms of residual blocks can only be found in a model that torch.fx can trace",
            got=f"{type(model).__name__}: {type(error).__name__}: {reason}",
            do='Use where="all" or a list of names, or convert the part of the model that can be traced.',
        ) from None


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, where stochastic depth written by hand is the identity; then the mode of every layer again."""
    before = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in before:
            module.training = False
        yield
    finally:
        for module, training in before:
            module.training = training


def _norms_at_the_end(
    term: fx.Node, modules: dict[str, nn.Module], is_norm: Callable[[nn.Module], bool]
) -> Iterator[fx.Node]:
    ahead, seen = [term], set[fx.Node]()
    while ahead:
        node = ahead.pop()
        if node in seen:
            continue
        seen.add(node)
        module = modules[str(node.target)] if node.op == "call_module" else None
        if module is not None and is_norm(module):
            yield node
        elif isinstance(module, PASSING_MODULES) or _is(node, PRODUCTS | PASSING) or _is_stochastic_depth(node):
            ahead += node.all_input_nodes


def _is(node: fx.Node, kinds: frozenset[Any]) -> bool:
    return node.op in ("call_function", "call_method") and node.target in kinds


def _is_stochastic_depth(node: fx.Node) -> bool:
    """torchvision's function, by name: importing torchvision takes longer than all else here."""
    return node.op == "call_function" and getattr(node.target, "__name__", None) == "stochastic_depth"


def _ancestors(node: fx.Node) -> set[fx.Node]:
    """The node and all that it is computed from."""
    ahead, found = [node], {node}
    while ahead:
        for above in ahead.pop().all_input_nodes:
            if above not in found:
                found.add(above)
                ahead.append(above)
    return found

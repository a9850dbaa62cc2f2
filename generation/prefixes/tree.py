"""A tree of texts that have been read: edges are tokens, and each node holds what a model keeps after them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol


class Sized(Protocol):
    """An object with a size in memory."""

    @property
    def bytes(self) -> int:
        """Its memory."""
        ...


@dataclass(eq=False)
class Node:
    """An object that is kept after a text, as the addition to the node before it.

    Attributes:
        tokens: Since the node before.
        length: Of the whole text.
        held: What is kept; None at the root.
        used: When it was read last, by a counter.
    """

    tokens: tuple[int, ...] = ()
    length: int = 0
    held: Any = None
    parent: "Node | None" = None
    children: dict[tuple[int, ...], "Node"] = field(default_factory=dict)
    used: int = 0

    def path(self) -> list["Node"]:
        """The nodes from below the root to this one."""
        nodes, node = [], self
        while node.parent is not None:
            nodes.append(node)
            node = node.parent
        return nodes[::-1]


class PrefixTree:
    """Texts as paths, which share what they begin with; what was read least recently goes first.

    Args:
        max_bytes: Of all nodes. A node that would be larger alone is not kept.
    """

    def __init__(self, max_bytes: int):
        self.max_bytes = max_bytes
        self.bytes = 0
        self.root = Node()
        self._clock = 0

    def __len__(self) -> int:
        """The number of nodes that hold something."""
        return sum(1 for _ in self.nodes())

    def nodes(self) -> Iterator[Node]:
        """All nodes that hold something, in no order."""
        waiting = list(self.root.children.values())
        while waiting:
            node = waiting.pop()
            yield node
            waiting.extend(node.children.values())

    def find(self, tokens: Sequence[int]) -> Node:
        """The deepest node whose whole text `tokens` begin with, or the root. All on the way are used."""
        self._clock += 1
        best, waiting = self.root, [self.root]
        while waiting:
            node = waiting.pop()
            best = max(best, node, key=lambda node: node.length)
            for length in {len(edge) for edge in node.children}:
                child = node.children.get(tuple(tokens[node.length : node.length + length]))
                if child is not None:
                    waiting.append(child)
        for node in best.path():
            node.used = self._clock
        return best

    def add(self, parent: Node, tokens: Sequence[int], held: Sized) -> Node:
        """Keeps something after the text of `parent` and `tokens`, which are one or more.

        Returns the node, or `parent` where the parent is gone or the memory is too small.
        """
        if tuple(tokens) in parent.children:
            return parent.children[tuple(tokens)]
        if not self.has(parent) or held.bytes > self.max_bytes:
            return parent
        node = Node(tuple(tokens), parent.length + len(tokens), held, parent, used=self._clock)
        parent.children[node.tokens] = node
        self.bytes += held.bytes
        self.shrink()
        return node if self.has(node) else parent

    def has(self, node: Node) -> bool:
        """Whether a node is still part of the tree."""
        while node.parent is not None:
            if node.parent.children.get(node.tokens) is not node:
                return False
            node = node.parent
        return node is self.root

    def shrink(self) -> None:
        """Drops ends of texts, the least recently used first, until the memory suffices."""
        while self.bytes > self.max_bytes:
            ends = (node for node in self.nodes() if not node.children)
            node = min(ends, key=lambda node: (node.used, -node.length))
            assert node.parent is not None
            del node.parent.children[node.tokens]
            self.bytes -= node.held.bytes

    def clear(self) -> None:
        """Drops everything."""
        self.root, self.bytes = Node(), 0

"""One step of any method in anybody's training loop: from losses to every `.grad`."""

from mtl_core.balancer.balancer import Balancer

__all__ = ["Balancer"]

"""What stands where in a synthetic scene: rooms with furniture, streets with houses, cars, trees and people."""

import math
from collections.abc import Sequence

import numpy as np

from .scene_renderer import Scene

INDOOR = (
    "bed", "books", "ceiling", "chair", "floor", "furniture", "objects", "picture", "sofa", "table", "tv", "wall",
    "window",
)  # fmt: skip
STREET = ("flat", "construction", "object", "nature", "sky", "human", "vehicle")
WALLS = (math.pi, -math.pi / 2, 0.0, math.pi / 2)  # yaw of what stands with its back to each wall

Part = tuple[float, float, float, float, float, float, str]  # centre, half sizes, class; the back is at positive y


class _Things:
    """Boxes that are put down one thing at a time, each on free ground."""

    def __init__(self, classes: Sequence[str], background: Sequence[str]):
        self.numbers = {name: k for k, name in enumerate(classes)}
        self.boxes: list[tuple] = []
        self.classes = [self.numbers[name] for name in background]
        self.items = [self.classes.index(c) for c in self.classes]  # walls are one item
        self.count = len(background)
        self.taken: list[tuple[float, float, float, float]] = []

    def free(self, x: float, y: float, half_x: float, half_y: float) -> bool:
        """Takes the ground, where it is free."""
        if any(abs(x - a) < half_x + c and abs(y - b) < half_y + d for a, b, c, d in self.taken):
            return False
        self.taken.append((x, y, half_x, half_y))
        return True

    def put(self, x: float, y: float, yaw: float, parts: Sequence[Part]) -> None:
        """Parts of one class share colour and texture."""
        cos, sin = math.cos(yaw), math.sin(yaw)
        kinds = list(dict.fromkeys(part[-1] for part in parts))
        for px, py, z, *half, kind in parts:
            self.boxes.append((x + cos * px - sin * py, y + sin * px + cos * py, z, *half, yaw))
            self.classes.append(self.numbers[kind])
            self.items.append(self.count + kinds.index(kind))
        self.count += len(kinds)

    def scene(self, planes, glass: Sequence[str], **rest) -> Scene:
        numbers = tuple(self.numbers[name] for name in glass)
        boxes = np.array(self.boxes, float).reshape(-1, 7)
        return Scene(planes, boxes, np.array(self.classes), np.array(self.items), numbers, **rest)


def indoor(random: np.random.Generator) -> Scene:
    """A room of 3 to 6.5 m with furniture along its walls and in its middle; the camera at a standing person's eye."""
    u = random.uniform
    width, length, height = u(3.2, 6.0), u(3.2, 6.5), u(2.3, 3.0)
    things = _Things(INDOOR, ("wall", "wall", "wall", "wall", "floor", "ceiling"))

    def wall(parts: list[Part], half_x: float, half_y: float) -> None:
        for _ in range(6):
            side, along = int(random.integers(4)), u(-1, 1)
            if side % 2:  # along y
                x, y = (width / 2 - half_y - 0.02) * (1 if side == 1 else -1), along * (length / 2 - half_x)
                taken = half_y, half_x
            else:
                x, y = along * (width / 2 - half_x), (length / 2 - half_y - 0.02) * (1 if side == 2 else -1)
                taken = half_x, half_y
            if things.free(x, y, *taken):
                return things.put(x, y, WALLS[side], parts)

    def anywhere(parts: list[Part], half: float) -> None:
        for _ in range(6):
            x, y = u(-0.8, 0.8) * (width / 2 - half), u(-0.8, 0.8) * (length / 2 - half)
            if things.free(x, y, half, half):
                return things.put(x, y, u(0, 2 * math.pi), parts)

    if u() < 0.6:
        wall(*_bed(u))
    if u() < 0.65:
        wall(*_sofa(u))
    for _ in range(random.integers(1, 4)):
        wall(*_cabinet(u))
    for _ in range(random.integers(1, 3)):
        anywhere(*_table(u))
    for _ in range(random.integers(1, 5)):
        anywhere(*_chair(u))
    for _ in range(random.integers(1, 4)):
        a, b, h = u(0.08, 0.2), u(0.08, 0.2), u(0.1, 0.3)
        anywhere([(0, 0, h, a, b, h, "objects")], 0.2)
    for _ in range(random.integers(4, 9)):
        side, kind = int(random.integers(4)), str(random.choice(["window", "window", "picture", "picture", "tv"]))
        a, b = u(*{"window": (0.4, 0.9), "picture": (0.2, 0.5), "tv": (0.4, 0.7)}[kind]), u(0.25, 0.5)
        at = u(-1, 1) * ((length if side % 2 else width) / 2 - a)
        out = ((width if side % 2 else length) / 2 - 0.015) * (1 if side in (1, 2) else -1)
        x, y = (out, at) if side % 2 else (at, out)
        things.put(x, y, WALLS[side], [(0, 0, u(1.3, 1.8), a, 0.015, b, kind)])

    planes = [(1, 0, 0, width / 2), (-1, 0, 0, width / 2), (0, 1, 0, length / 2), (0, -1, 0, length / 2)]
    camera = np.array([u(-0.42, 0.42) * width, u(-0.42, 0.42) * length, u(1.1, 1.75)])
    target = np.array([u(-0.25, 0.25) * width, u(-0.25, 0.25) * length, u(0.5, 1.6)])
    forward = target - camera
    if math.hypot(*forward[:2]) < 1:  # too near to look at: look across the room
        forward[:2] -= np.sign(camera[:2]) * 1.2
    return things.scene(
        np.array([*planes, (0, 0, -1, 0), (0, 0, 1, height)], float),
        ("window", "tv"),
        camera=camera,
        forward=forward,
        focal=u(0.7, 0.95),
        lamp=np.array([u(-0.3, 0.3) * width, u(-0.3, 0.3) * length, height - 0.15]),
        reach=2.0,
    )


def _bed(u) -> tuple[list[Part], float, float]:
    a, b, z = u(0.5, 0.9), u(0.95, 1.05), u(0.2, 0.3)
    head, pillow = (0, b - 0.05, 2 * z + 0.15, a, 0.05, 0.3), (0, b - 0.35, 2 * z + 0.06, 0.7 * a, 0.18, 0.06)
    return [(0, 0, z, a, b, z, "bed"), (*head, "furniture"), (*pillow, "objects")], a, b


def _sofa(u) -> tuple[list[Part], float, float]:
    a = u(0.7, 1.1)
    arms: list[Part] = [(x, 0, 0.5, 0.08, 0.4, 0.1, "sofa") for x in (0.08 - a, a - 0.08)]
    return [(0, 0, 0.21, a, 0.42, 0.21, "sofa"), (0, 0.34, 0.6, a, 0.09, 0.22, "sofa"), *arms], a, 0.45


def _cabinet(u) -> tuple[list[Part], float, float]:
    """With books in its front, or a television on it."""
    a, h = u(0.35, 0.7), u(0.3, 1.0)
    parts: list[Part] = [(0, 0, h, a, 0.2, h, "furniture")]
    for k in range(3):
        parts.append((u(-0.3, 0.3) * a, -0.2, 2 * h * (0.22 + 0.28 * k), a * u(0.4, 0.65), 0.04, 0.22 * h, "books"))
    if h < 0.6:
        parts.append((0, 0, 2 * h + 0.27, u(0.35, 0.55), 0.03, 0.25, "tv"))
    return parts, a, 0.25


def _table(u) -> tuple[list[Part], float]:
    a, b, h = u(0.4, 0.8), u(0.3, 0.5), u(0.22, 0.38)
    legs: list[Part] = [(x, 0, h, 0.03, 0.9 * b, h, "table") for x in (0.06 - a, a - 0.06)]
    on_it = (u(-0.2, 0.2), u(-0.1, 0.1), 2 * h + 0.1, u(0.04, 0.1), u(0.04, 0.1), 0.08)
    pile = (u(-0.3, 0.3), u(-0.2, 0.2), 2 * h + 0.06, 0.12, 0.09, 0.04)
    return [(0, 0, 2 * h, a, b, 0.025, "table"), *legs, (*on_it, "objects"), (*pile, "books")], a


def _chair(u) -> tuple[list[Part], float]:
    h = u(0.2, 0.25)
    seat, foot = (0, 0, 2 * h, 0.22, 0.22, 0.03), (0, 0, h, 0.05, 0.05, h)
    return [(*seat, "chair"), (*foot, "chair"), (0, 0.2, 2 * h + 0.28, 0.22, 0.03, 0.25, "chair")], 0.25


def street(random: np.random.Generator) -> Scene:
    """A street that the camera looks along from a car: houses and trees beside it, cars and people on it."""
    u = random.uniform
    road, pavement = u(4, 7), u(2, 4)  # half a road's width; a pavement's
    things = _Things(STREET, ("flat", "sky"))
    for side in (-1, 1):
        y = u(-10, 5)
        while y < 90:
            length, depth, height = u(4, 10), u(3, 6), u(2.5, 9)
            x = side * (road + pavement + depth + u(0, 2))
            kind = "construction" if u() < 0.8 else "nature"  # a house, or a hedge or park
            height *= 1 if kind == "construction" else 0.4
            things.put(x, y + length, 0.0, [(0, 0, height, depth, length, height, kind)])
            y += 2 * length + (u(1, 8) if u() < 0.4 else 0)
        for _ in range(random.integers(1, 5)):
            things.put(side * (road + u(0.5, pavement)), u(6, 50), u(0, 3.2), _tree(u))
        for _ in range(random.integers(1, 5)):
            things.put(side * (road + u(0.3, 0.8)), u(4, 40), u(-0.3, 0.3), _pole(u))
        for _ in range(random.integers(1, 6)):
            things.put(side * (road + u(-1.5, pavement)), u(4, 30), u(0, 6.3), _person(u))
        for _ in range(random.integers(1, 5)):
            x, y = side * u(1.8, road - 0.8), u(5, 50)
            if things.free(x, y, 1.2, 2.8):
                things.put(x, y, u(-0.1, 0.1), _vehicle(u))
    return things.scene(
        np.array([(0, 0, -1, 0), (0, 0, 0, 1)], float),
        (),
        camera=np.array([u(-1.5, 1.5), 0, u(1.2, 2.0)]),
        forward=np.array([u(-0.15, 0.15), 1, u(-0.08, 0.04)]),
        focal=1.0,
        lamp=np.array([u(-60, 60), u(-60, 30), u(60, 120)]),
        reach=150.0,
    )


def _tree(u) -> list[Part]:
    h, a = u(1.0, 2.0), u(0.7, 1.6)
    leaves: list[Part] = [(u(-0.6, 0.6), u(-0.6, 0.6), 2 * h + u(0, 1.5), a, a, u(0.6, 1.3), "nature") for _ in "123"]
    return [(0, 0, h, 0.12, 0.12, h, "nature"), *leaves]


def _pole(u) -> list[Part]:
    h, a = u(1.2, 2.5), u(0.25, 0.5)
    return [(0, 0, h, 0.07, 0.07, h, "object"), (0, 0, 2 * h - a, a, 0.04, a, "object")]


def _person(u) -> list[Part]:
    h = u(0.35, 0.45)
    legs = (0, 0, h, 0.15, 0.1, h, "human")
    return [legs, (0, 0, 2.8 * h, 0.24, 0.14, 0.8 * h, "human"), (0, 0, 3.9 * h, 0.1, 0.1, 0.3 * h, "human")]


def _vehicle(u) -> list[Part]:
    if u() < 0.2:  # a van or bus
        h = u(0.9, 1.4)
        return [(0, 0, h + 0.3, 1.0, 2.7, h, "vehicle")]
    return [(0, 0, 0.55, 0.85, 2.1, 0.35, "vehicle"), (0, -0.2, 1.15, 0.75, 1.2, 0.27, "vehicle")]

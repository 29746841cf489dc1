r"""Renders synthetic scenes: boxes in front of a background of planes, seen by one camera, lit by one lamp.

The inverse depth q of any plane is affine in the pixel's coordinates (u, v), and so is each condition "inside the
face's edge" once it is multiplied by q. A face is thus five affine maps of (u, v) in a window of the image, and
visibility is a comparison of q: no clipping, no ray loop.
"""

from dataclasses import dataclass

import numpy as np

SIGNS = np.array([(-1, -1), (-1, 1), (1, -1), (1, 1)], float)
GLASS, MISSING = 0.5, 0.01  # probability that a pane has no depth; that a pixel has none
UNLABELLED = 0.06  # probability that an item has no class
NOISE = 0.03
FARTHEST = 200  # metres; beyond, a pixel has no depth
SKY = np.array((0.55, 0.7, 0.95), np.float32)


@dataclass(frozen=True)
class Scene:
    """What is to be seen; lengths in metres, z up.

    planes    (P, 4): unit normal that points away from the camera, and distance from the origin; a zero normal is sky.
    boxes     (n, 7): centre, half sizes, yaw.
    classes   (P + n,) of planes, then boxes.
    items     (P + n,): number of the thing that each belongs to; parts of one thing share colour and texture.
    glass     classes that may be without depth.
    camera, forward   where it is, where it looks.
    focal     in widths of the image.
    lamp      place of the lamp, and the distance from which on its light fades.
    """

    planes: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray
    items: np.ndarray
    glass: tuple[int, ...]
    camera: np.ndarray
    forward: np.ndarray
    focal: float
    lamp: np.ndarray
    reach: float


def render(scene: Scene, random: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, ...]:
    """(3, H, W) uint8 colours, (H, W) int64 classes, (H, W) inverse depth in 1/m, (3, H, W) unit normals.

    Inverse depth and normals are those of the camera's frame: x right, y down, z forward. Pixels of unlabelled items
    are of class -1; without depth, the sky among them, inverse depth and normal are 0.
    """
    forward = scene.forward / np.linalg.norm(scene.forward)
    right = np.cross(forward, (0.0, 0.0, 1.0))
    right /= np.linalg.norm(right)
    axes = np.stack([right, np.cross(forward, right), forward])
    focal = scene.focal * width
    u = ((np.arange(width) + 0.5 - width / 2) / focal).astype(np.float32)
    v = ((np.arange(height) + 0.5 - height / 2) / focal).astype(np.float32)[:, None]

    # background:  q(u, v) = n^\top r(u, v) / (d - n^\top c), the nearest of the planes
    normals, distance = scene.planes[:, :3], scene.planes[:, 3]
    maps = (_into(axes, normals) / (distance - normals @ scene.camera)[:, None]).astype(np.float32)
    inverse = _affine(maps, u, v)
    face = inverse.argmax(0)
    inverse = inverse.max(0)
    normals, owner = _draw_boxes(scene, axes, focal, u, v, inverse, face)

    facing = np.concatenate([-scene.planes[:, :3], normals]).astype(np.float32)
    owner = np.concatenate([np.arange(len(scene.planes)), len(scene.planes) + owner])
    of_face = owner[face]
    item, label = scene.items[of_face], scene.classes[of_face]
    rgb = _colours(scene, random, axes, u, v, inverse, facing[face], item, label)

    unlabelled = random.random(scene.items.max() + 1) < UNLABELLED
    unlabelled[scene.items[: len(scene.planes)]] = False
    lost = np.isin(scene.classes, scene.glass) & (random.random(len(scene.classes)) < GLASS)
    seen = (inverse > 1 / FARTHEST) & ~lost[of_face] & (random.random(face.shape) >= MISSING)
    normal = _into(axes, facing).astype(np.float32)[face] * seen[..., None]
    return rgb, np.where(unlabelled[item], -1, label), inverse * seen, normal.transpose(2, 0, 1)


def _into(axes: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Vectors (..., 3) in the camera's frame."""
    return np.einsum("...d,kd->...k", vectors, axes)


def _affine(maps: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Affine maps (M, 3) of a window's coordinates, (M, H, W)."""
    a, b, c = maps.T[:, :, None, None]
    return a * u + (b * v + c)


def _draw_boxes(scene, axes, focal, u, v, inverse, face):
    """Draws into `inverse` and `face`, in place; returns the normals (F, 3) of the faces, and the box of each."""
    centre, half, yaw = scene.boxes[:, :3], scene.boxes[:, 3:6], scene.boxes[:, 6]
    cos, sin, zero = np.cos(yaw), np.sin(yaw), np.zeros(len(yaw))
    own = np.stack([cos, sin, zero, -sin, cos, zero, zero, zero, zero + 1], 1).reshape(-1, 3, 3)  # axes of each box
    camera = np.einsum("nkd,nd->nk", own, scene.camera - centre)  # in the box's frame
    box, axis = np.nonzero(np.abs(camera) > half)  # a face is seen from outside only, so at most three of a box are
    sign, (a, b) = np.sign(camera[box, axis]), ((axis + 1) % 3, (axis + 2) % 3)

    out, along, across = own[box, axis], own[box, a], own[box, b]
    size_a, size_b = half[box, a, None], half[box, b, None]
    middle = centre[box] + (sign * half[box, axis])[:, None] * out
    corners = middle[:, None] + SIGNS[:, :1] * (size_a * along)[:, None] + SIGNS[:, 1:] * (size_b * across)[:, None]
    corners = _into(axes, corners - scene.camera)
    x0, x1, y0, y1 = _windows(corners, focal, u.shape[0], v.shape[0])

    q = _into(axes, out) / (sign * half[box, axis] - camera[box, axis])[:, None]
    to_a = camera[box, a, None] * q + _into(axes, along)  # q times the coordinate along the face
    to_b = camera[box, b, None] * q + _into(axes, across)
    maps = np.stack([q, size_a * q - to_a, size_a * q + to_a, size_b * q - to_b, size_b * q + to_b], 1)
    maps, first = maps.astype(np.float32), len(scene.planes)
    for k in np.nonzero((corners[..., 2].max(1) > 0.05) & (x1 > x0) & (y1 > y0))[0]:
        window = slice(y0[k], y1[k]), slice(x0[k], x1[k])
        values = _affine(maps[k], u[window[1]], v[window[0]])
        shown = (values[1:].min(0) >= 0) & (values[0] > inverse[window])
        np.copyto(inverse[window], values[0], where=shown)
        np.copyto(face[window], first + k, where=shown)
    return sign[:, None] * out, box


def _windows(corners, focal, width, height):
    """First and last column and row of the window around each face; the whole image where it is partly behind."""
    depth, behind = np.maximum(corners[..., 2:], 0.05), corners[..., 2].min(1) <= 0.05
    pixels = corners[..., :2] / depth * focal + (width / 2, height / 2)
    low, high = np.floor(pixels.min(1)), np.ceil(pixels.max(1)) + 1
    low[behind], high[behind] = 0, (width, height)
    (x0, y0), (x1, y1) = (edge.clip(0, (width, height)).astype(int).T for edge in (low, high))
    return x0, x1, y0, y1


def _colours(scene, random, axes, u, v, inverse, normal, item, label):
    """Albedo of each item with a texture in space, ambient light and a lamp, a cast of colour, noise, gamma."""
    count = scene.items.max() + 1
    albedo = random.uniform(0.15, 0.95, (count, 3))
    grey = albedo.mean(1, keepdims=True)
    albedo = (grey + (albedo - grey) * random.uniform(0.2, 1, (count, 1))).astype(np.float32)
    waves = (random.normal(0, 1, (count, 3)) * random.choice([0.5, 3, 8, 20], (count, 1))).astype(np.float32)
    strength = random.uniform(0, 0.35, count).astype(np.float32)
    phase = random.uniform(0, 2 * np.pi, count).astype(np.float32)

    axes, camera = axes.astype(np.float32), scene.camera.astype(np.float32)
    rays = u[None, :, None] * axes[0] + (v[..., None] * axes[1] + axes[2])
    place = camera + rays / np.maximum(inverse, 1e-3)[..., None]
    to_lamp = scene.lamp.astype(np.float32) - place
    squared = np.einsum("hwc,hwc->hw", to_lamp, to_lamp)
    lit = np.maximum(np.einsum("hwc,hwc->hw", to_lamp, normal), 0) / np.sqrt(squared)
    ambient = np.float32(random.uniform(0.25, 0.5))
    light = ambient + (1.3 - ambient) * lit * (scene.reach**2 / (scene.reach**2 + squared))
    texture = 1 + strength[item] * np.sin(np.einsum("hwc,hwc->hw", place, waves[item]) + phase[item])
    cast = random.uniform(0.85, 1.15, 3).astype(np.float32)
    rgb = albedo[item] * (light * texture)[..., None] * cast
    sky = inverse <= 0
    if sky.any():
        rgb[sky] = SKY * random.uniform(0.4, 1.1)
    rgb += random.standard_normal(rgb.shape, dtype=np.float32) * np.float32(NOISE)
    return (np.sqrt(np.clip(rgb, 0, 1)) * 255).astype(np.uint8).transpose(2, 0, 1)

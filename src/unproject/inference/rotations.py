"""Rotation averaging: absolute rotations of all views from relative ones, with outliers among them."""

import numpy as np
import scipy.sparse
import scipy.sparse.csgraph
import scipy.sparse.linalg
from scipy.spatial.transform import Rotation

from unproject.inference.twoview import RelativeRotation

SWEEPS = 30


def average_rotations(views: int, relatives: list[RelativeRotation], fixed: dict[int, np.ndarray]) -> np.ndarray:
    """``world_from_cam`` rotations (V 3 3) of a connected set of views.

    Starts from the spanning tree of the edges that agree best with their triangles, then re-weighted least squares on
    log residuals with a Cauchy scale that shrinks from 30 to 5 degrees. Rotations in ``fixed`` stay; without any the
    first view is the identity.
    """
    anchors = fixed or {0: np.eye(3)}
    if not relatives:
        return np.stack([anchors.get(view, np.eye(3)) for view in range(views)])
    a = np.array([relative.a for relative in relatives])
    b = np.array([relative.b for relative in relatives])
    a_from_b = np.stack([relative.a_from_b for relative in relatives])
    support = np.sqrt(np.minimum([relative.inliers for relative in relatives], 200.0))
    rotation = _along_tree(views, a, b, a_from_b, support * _triangle_trust(a, b, a_from_b), anchors)
    free = np.setdiff1d(np.arange(views), list(anchors))
    for sweep in range(SWEEPS):
        error = Rotation.from_matrix(rotation[a] @ a_from_b @ rotation[b].transpose(0, 2, 1)).as_rotvec()
        scale = np.deg2rad(max(5.0, 30.0 * 0.7**sweep))
        weight = support / (1 + (error**2).sum(1) / scale**2)
        step = _least_squares(views, a, b, error, weight, free)
        rotation = Rotation.from_rotvec(step).as_matrix() @ rotation
        if np.abs(step).max() < 1e-7:
            break
    return rotation


def _triangle_trust(a: np.ndarray, b: np.ndarray, a_from_b: np.ndarray) -> np.ndarray:
    """Share of each edge's triangles that close within 10 degrees, from 0.05 to 1.

    An outlier in the starting tree would leave its view alone against all its good edges, which the sweeps cannot mend.
    """
    number = {(int(i), int(j)): edge for edge, (i, j) in enumerate(zip(a, b, strict=True))}
    after: dict[int, set[int]] = {}
    for i, j in number:
        after.setdefault(i, set()).add(j)
    corners = [(i, j, k) for i, j in number for k in after[i] & after.get(j, set())]
    if not corners:
        return np.ones(len(a))
    first, second, across = np.array([[number[i, j], number[j, k], number[i, k]] for i, j, k in corners]).T
    closure = a_from_b[first] @ a_from_b[second] @ a_from_b[across].transpose(0, 2, 1)
    closes = Rotation.from_matrix(closure).magnitude() < np.deg2rad(10)
    edges = np.concatenate([first, second, across])
    total = np.bincount(edges, minlength=len(a))
    good = np.bincount(edges, weights=np.tile(closes, 3), minlength=len(a))
    return np.where(total > 0, 0.05 + 0.95 * good / np.maximum(total, 1), 0.3)


def _along_tree(views: int, a, b, a_from_b, support, anchors: dict[int, np.ndarray]) -> np.ndarray:
    graph = scipy.sparse.csr_array((1 / support, (a, b)), shape=(views, views))
    tree = scipy.sparse.csgraph.minimum_spanning_tree(graph)
    root = next(iter(anchors))
    order, parent = scipy.sparse.csgraph.breadth_first_order(tree, root, directed=False)
    lookup = {(int(i), int(j)): matrix for i, j, matrix in zip(a, b, a_from_b, strict=True)}
    rotation = np.tile(np.eye(3), (views, 1, 1))
    rotation[root] = anchors[root]
    for view in order[1:]:
        above = int(parent[view])
        known = lookup.get((above, int(view)))
        rotation[view] = rotation[above] @ (known if known is not None else lookup[int(view), above].T)
    for view, matrix in anchors.items():
        rotation[view] = matrix
    return rotation


def _least_squares(views: int, a, b, error, weight, free: np.ndarray) -> np.ndarray:
    """Small world rotations w with w_b - w_a = error, weighted; zero for views that are not free."""
    rows = np.arange(len(a))
    one = np.ones(len(a))
    difference = scipy.sparse.csr_array((np.r_[one, -one], (np.r_[rows, rows], np.r_[b, a])), shape=(len(a), views))
    weighted = difference.T @ scipy.sparse.diags_array(weight)
    normal = (weighted @ difference).tocsc()[free][:, free] + 1e-9 * scipy.sparse.eye_array(len(free))
    step = np.zeros((views, 3))
    step[free] = scipy.sparse.linalg.spsolve(normal.tocsc(), (weighted @ error)[free]).reshape(-1, 3)
    return step

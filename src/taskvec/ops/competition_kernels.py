"""Compiled passes of PCB over blocks (task, n): the scores by which entries compete, and the balanced mean."""

import math

import numba
import numpy as np

_jit = numba.njit(cache=True, nogil=True, error_model="numpy")


@_jit
def scores(x, low, high, rounding, out):
    """The score of every entry, float32: e^(T (g² - 1)) Σ_s tanh(y_t y_s); the same entries have the same score."""
    tasks, n = x.shape
    y = np.empty(tasks)
    inter, size = np.empty(tasks), np.empty(tasks)
    for i in range(n):
        for t in range(tasks):
            v = np.float64(abs(x[t, i]))
            span = high[t] - low[t]
            g = (min(max(v, low[t]), high[t]) - low[t]) / span if span > 0.0 else (1.0 if v > 0.0 else 0.0)
            y[t] = -g if x[t, i] < 0.0 else (g if x[t, i] > 0.0 else 0.0)
            inter[t] = 0.0
            size[t] = 0.0
        for t in range(tasks):
            for s in range(t, tasks):
                pull = math.tanh(y[t] * y[s]) if y[t] != 0.0 and y[s] != 0.0 else 0.0
                inter[t] += pull
                size[t] += abs(pull)
                if s > t:
                    inter[s] += pull
                    size[s] += abs(pull)
        for t in range(tasks):
            strong = abs(inter[t]) > rounding * size[t]
            out[t, i] = np.float32(math.exp(tasks * (y[t] * y[t] - 1.0)) * inter[t]) if strong else np.float32(0.0)


@_jit
def balanced_mean(x, score, low, high, quantile, top, coefficients, out):
    """Σ_t w_t c_t sign(x_t) b_t / Σ_t w_t, with w the scores between `quantile` and `top`, and b the clipped |x|."""
    tasks, n = x.shape
    for i in range(n):
        above = 0.0
        below = 0.0
        for t in range(tasks):
            beta = np.float64(score[t, i])
            reach = top[t] - quantile[t]
            w = (beta - quantile[t]) / reach if reach > 0.0 else (1.0 if beta == top[t] and beta > 0.0 else 0.0)
            w = min(max(w, 0.0), 1.0)
            v = np.float64(x[t, i])
            b = min(max(abs(v), low[t]), high[t])
            above += w * coefficients[t] * (b if v > 0.0 else (-b if v < 0.0 else 0.0))
            below += w
        out[i] = above / max(below, 1e-12)

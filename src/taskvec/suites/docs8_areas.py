"""The constants of `docs8`: which sources make an area, what each class is called, what is hidden in the texts.

A phrase says in a few words what the area is about; the base encoder embeds it once and that vector is the class.
"""

from dataclasses import dataclass
from typing import final

TEMPERATURE = 20.0
# Predictions do not depend on it, the loss of fine-tuning does. Zero-shot cross-entropy on the training splits (mean of
# the eight tasks, nats): 1.65 at 5, 1.41 at 10, 1.39 at 12, 1.40 at 15, 1.51 at 20, 1.87 at 30: flat from 10 to 20.
# Of 10 and 20, 20 tuned as well or better on validation in 45 steps (object_kind 0.644 and 0.644, transformers_area
# 0.803 and 0.825, standard errors 0.04 and 0.03; measured with an earlier wording of the phrases).

VERSION = "1"
"""Changes with any constant of this file or rule of the harvest."""


@final
@dataclass(frozen=True, slots=True)
class Area:
    """One class of an area task: `sources` as in `harvest`, `aliases` are hidden beside the label."""

    label: str
    phrase: str
    sources: tuple[str, ...]
    aliases: tuple[str, ...] = ()


@final
@dataclass(frozen=True, slots=True)
class Library:
    """One library: `package` is imported by that name, `distribution` installed by that one."""

    name: str
    package: str
    distribution: str
    phrase: str
    aliases: tuple[str, ...]
    areas: tuple[Area, ...]


SCIPY = Library(
    "scipy",
    "scipy",
    "scipy",
    "scientific algorithms: integration, interpolation, optimization, signal processing and statistics",
    (),
    (
        Area("stats", "statistics: probability distributions, hypothesis tests and p-values", ("stats",)),
        Area("optimize", "optimization: minimizing functions, root finding and linear programming", ("optimize",)),
        Area("signal", "signal processing: filters, convolution, windows and spectral analysis", ("signal",)),
        Area("sparse", "sparse matrices, their storage formats and graphs", ("sparse",)),
        Area("special", "special functions: Bessel, gamma, elliptic and orthogonal polynomials", ("special",)),
        Area("io", "reading and writing data files such as MATLAB, WAV and Matrix Market", ("io",)),
        Area("linalg", "linear algebra: solving systems, matrix decompositions and matrix functions", ("linalg",)),
        Area("interpolate", "splines and fitting curves through data points", ("interpolate",)),
        Area("spatial", "geometry: distances, nearest neighbor trees, rotations and hulls", ("spatial",)),
        Area("integrate", "quadrature and solving ordinary differential equations", ("integrate",)),
        Area("ndimage", "image filtering, morphology and measurements", ("ndimage",)),
        Area("cluster", "grouping observations: hierarchical linkage and k-means", ("cluster",)),
    ),
)

SKLEARN = Library(
    "sklearn",
    "sklearn",
    "scikit-learn",
    "machine learning estimators: fit, predict, transform, cross-validation, samples and features",
    ("scikit-learn",),
    (
        Area("metrics", "evaluation scores, losses and pairwise distances", ("metrics",)),
        Area("linear_model", "linear regression, logistic regression, ridge and lasso", ("linear_model",)),
        Area("ensemble", "forests, boosting, bagging and voting", ("ensemble",)),
        Area("preprocessing", "scaling, encoding and normalizing features", ("preprocessing",)),
        Area(
            "decomposition",
            "matrix factorization: principal components, dictionary learning, topics",
            ("decomposition",),
        ),
        Area("model_selection", "cross-validation, data splits and hyperparameter search", ("model_selection",)),
        Area("cluster", "grouping samples: k-means, density and hierarchical methods", ("cluster",)),
        Area("datasets", "loading, fetching and generating sample data", ("datasets",)),
        Area(
            "gaussian_process", "kernels and covariance functions for probabilistic regression", ("gaussian_process",)
        ),
        Area("neighbors", "nearest points, distances and radius queries", ("neighbors",)),
        Area("feature_extraction", "turning raw text and images into vectors", ("feature_extraction",)),
        Area("neural_network", "multi-layer perceptrons, activations and stochastic optimizers", ("neural_network",)),
    ),
)

TORCH = Library(
    "torch",
    "torch",
    "torch",
    "tensors, modules, gradients, graphs and GPU devices",
    ("pytorch",),
    (
        Area(
            "nn",
            "applies a layer, activation or loss to the input: pooling, convolution, dropout",
            ("nn/modules", "nn/functional.py"),
        ),
        Area("optim", "gradient descent algorithms and learning rate schedules", ("optim",)),
        Area("distributions", "probability distributions: sampling and log densities", ("distributions",)),
        Area(
            "distributed",
            "process groups: ranks, collectives, all-reduce and sharded parameters",
            ("distributed/*.py", "distributed/fsdp"),
        ),
        Area("autograd", "gradients and backward passes", ("autograd",)),
        Area("fx", "graph of nodes: symbolic tracing and rewriting", ("fx",)),
        Area("onnx", "exporting a model to operators of an exchange format", ("onnx",)),
        Area("data", "loading batches of samples from datasets", ("utils/data",), ("torch.utils.data",)),
        Area("cuda", "GPU devices: streams, events and memory", ("cuda",)),
        Area("package", "archives of code and its dependencies", ("package",)),
        Area(
            "quantization",
            "low-precision observers, fake quantize configuration, int8 weights",
            ("ao/quantization",),
            ("quantize",),
        ),
        Area("tensorboard", "logging scalars, images and summaries for visualization", ("utils/tensorboard",)),
    ),
)

NUMPY = Library(
    "numpy",
    "numpy",
    "numpy",
    "arrays: elements, axes, masks, polynomials, random numbers and Fortran",
    ("np",),
    (
        Area("polynomial", "series of coefficients: Chebyshev, Legendre, roots and fits", ("polynomial",)),
        Area("ma", "arrays with missing or invalid entries that are masked", ("ma",)),
        Area(
            "random",
            "drawing samples from probability distributions; bit generators and seeds",
            (
                "random",
                "import:numpy.random:Generator,RandomState,BitGenerator,SeedSequence,MT19937,PCG64,Philox,SFC64",
            ),
        ),
        Area("linalg", "linear algebra: eigenvalues, inverses, norms and decompositions", ("linalg",)),
        Area("fft", "discrete Fourier transforms and frequencies", ("fft",)),
        Area("f2py", "wrapping Fortran and C code for use from Python", ("f2py",)),
        Area("testing", "assertions that arrays are equal or almost equal", ("testing",), ("test",)),
        Area("strings", "text: element-wise operations on characters", ("_core/strings.py", "_core/defchararray.py")),
    ),
)

PYTHON = Library(
    "python",
    "python",
    "python",
    "the language runtime: files, network protocols, processes, email and parsing",
    ("standard library", "stdlib", "cpython"),
    (
        Area("asyncio", "event loops, coroutines, tasks and transports", ("asyncio",)),
        Area("email", "mail messages: headers, addresses and MIME parts", ("email", "mailbox.py")),
        Area("xml", "documents of elements and attributes: parsing and trees", ("xml",)),
        Area("logging", "records, handlers, levels and formatters", ("logging",)),
        Area("unittest", "test cases, assertions, fixtures and mocks", ("unittest", "doctest.py")),
        Area(
            "http",
            "web requests, URLs, cookies, servers and clients",
            ("http", "urllib", "wsgiref"),
            ("urllib", "wsgiref"),
        ),
        Area(
            "importlib", "finding and loading modules and their resources", ("importlib", "zipimport.py", "pkgutil.py")
        ),
        Area(
            "multiprocessing",
            "worker processes and threads, pools, locks and shared memory",
            ("multiprocessing", "concurrent", "threading.py"),
            ("concurrent", "threading", "multiprocess"),
        ),
        Area(
            "decimal",
            "exact numbers: rounding, digits, contexts and fractions",
            ("_pydecimal.py", "fractions.py", "statistics.py"),
            ("fractions", "statistics"),
        ),
        Area(
            "datetime",
            "calendars, days, times and time zones",
            ("*datetime.py", "calendar.py", "zoneinfo"),
            ("calendar", "zoneinfo"),
        ),
        Area(
            "zipfile",
            "compressed archives and their members",
            ("zipfile*", "tarfile.py", "gzip.py", "bz2.py", "lzma.py"),
            ("tarfile", "gzip", "bz2", "lzma"),
        ),
        Area(
            "inspect",
            "source code, frames, signatures and syntax trees",
            ("inspect.py", "ast.py", "dis.py", "symtable.py", "traceback.py"),
            ("ast", "dis", "symtable", "traceback"),
        ),
    ),
)

TRANSFORMERS = Library(
    "transformers",
    "transformers",
    "transformers",
    "models, tokenizers, tokens, generation, caches and images",
    ("hugging face",),
    (
        Area(
            "generation",
            "generating text token by token: requests, batching, beams, logits and stopping",
            ("generation",),
        ),
        Area(
            "pipelines",
            "pipeline that predicts the answer for raw input: classification, question answering",
            ("pipelines",),
        ),
        Area(
            "quantizers",
            "quantization: loading weights in low precision such as 4-bit and 8-bit",
            ("quantizers", "utils/quantization_config.py"),
            ("quantizer", "quantization"),
        ),
        Area(
            "trainer",
            "training loops, callbacks, arguments and checkpoints",
            ("trainer*.py", "training_args*.py"),
            ("training_args",),
        ),
        Area("tokenization", "splitting text into tokens, vocabularies and padding", ("tokenization_*.py",)),
        Area(
            "image_processing", "resizing, cropping and normalizing pictures and videos", ("image_*.py", "video_*.py")
        ),
        Area("cache", "key and value states kept per layer", ("cache_utils.py",)),
        Area("cli", "server, requests and commands at the terminal", ("cli",)),
        Area(
            "distributed",
            "sharding parameters over many devices and processes",
            (
                "distributed",
                "integrations/tensor_parallel.py",
                "integrations/fsdp.py",
                "integrations/deepspeed.py",
                "integrations/accelerate.py",
            ),
        ),
        Area(
            "models",
            "a neural network: attention layers, encoders, decoders and heads",
            ("models/bert", "models/clip", "models/whisper"),
        ),
    ),
)

LIBRARIES = (SCIPY, SKLEARN, TORCH, NUMPY, PYTHON, TRANSFORMERS)

KINDS: dict[str, str] = {
    "module": "implementation of support code and utilities",
    "class": "represents a type; base for subclasses",
    "exception": "raised when an error occurs",
    "function": "convert, compute or check the given input",
    "method": "add, set, write or update this",
    "property": "return the value, true if it is",
}
"""The classes of `object_kind` and their phrases."""

"""The result of `autotune precision`: a document, and the document read back. It knows no engine."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from tuning_db import field_checks as f
from tuning_db.field_checks import Fields

PATHS = {"decode": "decode steps", "prompt": "prompts"}
WHOLE_LAYER = "layer"


@dataclass(frozen=True)
class Divergence:
    """How far logits are from the reference's. top1: share of `tokens` positions with the same likeliest token;
    mean_kl, p99_kl, max_kl: KL(reference ‖ found) in nats over positions."""

    tokens: int
    top1: float
    mean_kl: float
    p99_kl: float
    max_kl: float


@dataclass(frozen=True)
class EngineDivergence:
    """engine: "autotune" or "llama.cpp"; path: of `PATHS`."""

    engine: str
    path: str
    divergence: Divergence


@dataclass(frozen=True)
class OperationError:
    """An operation's own error: its kernel alone on exact inputs, against the reference's output.

    path: of `PATHS`; layer: None for the head; output: which of several, else ""; error: ‖found − wanted‖ / ‖wanted‖,
    the mean over positions; worst: the largest, at `position`.
    """

    path: str
    layer: int | None
    operation: str
    output: str
    error: float
    worst: float
    position: int

    @property
    def name(self) -> str:
        return f"{self.operation} ({self.output})" if self.output else self.operation

    @property
    def size(self) -> float:
        """To compare by: what is not a number is the largest."""
        return self.error if self.error == self.error else float("inf")

    @property
    def where(self) -> str:
        return self.name if self.layer is None else f"{self.name} of layer {self.layer}"


@dataclass(frozen=True)
class OperationSummary:
    """One operation over all layers. mean: of its errors; top: the layer where it is largest."""

    mean: float
    top: OperationError


@dataclass(frozen=True)
class NormWeight:
    """The largest weight of a norm, by magnitude; median: of the vector's magnitudes."""

    tensor: str
    layer: int | None
    channel: int
    weight: float
    median: float

    @property
    def ratio(self) -> float | None:
        """None where the median is zero."""
        return abs(self.weight) / self.median if self.median > 0 else None


@dataclass(frozen=True)
class Activation:
    """The largest element of the residual stream after a layer, by magnitude, at a token's position and channel; rms:
    of all its elements."""

    layer: int
    position: int
    channel: int
    value: float
    rms: float

    @property
    def ratio(self) -> float | None:
        return abs(self.value) / self.rms if self.rms > 0 else None


@dataclass(frozen=True)
class FileRow:
    """One file of several of a model, in one engine; divergence: of decode steps, to the float32 pass over the file
    that `Beside` names; None where it could not be measured, which `failure` explains."""

    file: str
    engine: str
    file_bytes: int
    bits_per_weight: float
    decode_tok_s: float | None
    divergence: Divergence | None
    failure: str = ""


@dataclass(frozen=True)
class Beside:
    """Several files of one model. reference: the file with the most bits a weight, over whose weights the float32
    pass went."""

    reference: str
    files: tuple[FileRow, ...]


@dataclass(frozen=True)
class ModelPrecision:
    """model: the file's name; notes: what could not be measured, for people."""

    model: str
    chip: str
    engines: tuple[EngineDivergence, ...]
    operations: tuple[OperationError, ...]
    norms: tuple[NormWeight, ...]
    activations: tuple[Activation, ...]
    beside: Beside | None = None
    notes: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    def ranked(self, path: str) -> list[OperationError]:
        """Operations by their mean error, the largest first; whole layers left out."""
        own = [row for row in self.operations if row.path == path and row.operation != WHOLE_LAYER]
        return sorted(own, key=lambda row: row.size, reverse=True)

    def by_operation(self, path: str) -> dict[str, list[OperationError]]:
        """Name -> its errors, a layer each; whole layers too."""
        found: dict[str, list[OperationError]] = {}
        for row in self.operations:
            if row.path == path:
                found.setdefault(row.name, []).append(row)
        return found

    def summaries(self, path: str) -> dict[str, OperationSummary]:
        return {
            name: OperationSummary(sum(row.error for row in rows) / len(rows), max(rows, key=lambda row: row.size))
            for name, rows in self.by_operation(path).items()
        }

    @property
    def extreme_norms(self) -> list[NormWeight]:
        """The most extreme first."""
        return sorted(self.norms, key=lambda row: row.ratio or 0.0, reverse=True)

    @property
    def extreme_activations(self) -> list[Activation]:
        """The most extreme first."""
        return sorted(self.activations, key=lambda row: row.ratio or 0.0, reverse=True)

    @property
    def answer(self) -> str:
        """Where precision goes, in one or two sentences."""
        parts = [
            f"in {words} it is {rows[0].where} ({rows[0].error:.2g} of its output)"
            for path, words in PATHS.items()
            if (rows := self.ranked(path))
        ]
        loss = [
            f"{row.divergence.mean_kl:.2g} nats in {PATHS[row.path]}"
            for row in self.engines
            if row.engine == "autotune"
        ]
        text = f"Of {self.model}'s operations run alone, what errs most: {'; '.join(parts)}." if parts else ""
        return f"{text} All together cost a KL divergence of {' and '.join(loss)}.".strip() if loss else text

    @property
    def extremes(self) -> str:
        """What makes errors large, in a sentence or two."""
        text = []
        for top in self.extreme_norms[:1]:
            text.append(
                f"The most extreme norm weight is {top.weight:.4g}, channel {top.channel} of {top.tensor}, "
                f"{top.ratio or 0:.1f}× the median: it turns an error of 0.0005 into {abs(top.weight) * 0.0005:.2g}."
            )
        for most in self.extreme_activations[:1]:
            text.append(
                f"The most extreme activation is {most.value:.6g}, channel {most.channel} after layer {most.layer} at "
                f"position {most.position}, {most.ratio or 0:.1f}× the RMS."
            )
        return " ".join(text)

    def document(self) -> dict[str, Any]:
        """JSON-able; `parse` reads it."""
        largest = {path: asdict(rows[0]) for path in PATHS if (rows := self.ranked(path))}
        return {
            "model": self.model, "device": {"chip": self.chip}, "answer": self.answer, "extremes": self.extremes,
            "versions": dict(self.versions), "settings": dict(self.settings), "notes": list(self.notes),
            "engines": [
                {"engine": row.engine, "path": row.path, **asdict(row.divergence)} for row in self.engines
            ],
            "largest": largest,
            "operations": [asdict(row) for row in self.operations],
            "norms": [{**asdict(row), "ratio": row.ratio} for row in self.norms],
            "activations": [{**asdict(row), "ratio": row.ratio} for row in self.activations],
            "beside": None if self.beside is None else asdict(self.beside),
        }  # fmt: skip


_COUNT, _REAL, _NAME = f.whole(0, 1 << 40), f.number(*f.FINITE), f.text(1 << 12)
_NATS, _SHARE, _SIZE = _REAL, f.number(0, 1), f.number(0, 1e18)


def parse(document: Any) -> ModelPrecision:
    """A result from its document. Raises ValueError for what is none."""
    made = Fields(document)
    beside = made.take("beside", f.any_value, None)
    versions = made.take("versions", f.mapping_of(f.scalar), {})
    return ModelPrecision(
        made.take("model", _NAME), made.object("device").take("chip", _NAME),
        tuple(map(_engine, made.objects("engines"))), tuple(map(_operation, made.objects("operations"))),
        tuple(map(_norm, made.objects("norms"))), tuple(map(_activation, made.objects("activations"))),
        None if beside is None else _beside(made.object("beside")),
        tuple(made.take("notes", f.list_of(_NAME), [])),
        {name: str(version) for name, version in versions.items()},
        made.take("settings", f.mapping_of(f.document), {}),
    )  # fmt: skip


def _path(row: Fields) -> str:
    path = row.take("path", _NAME)
    if path not in PATHS:
        raise ValueError(f"{row.where}/path cannot be {f.shown(path)}, which is neither {' nor '.join(PATHS)}")
    return path


def _error(row: Fields, name: str) -> float:
    """null stands for what was not a number."""
    value = row.take(name, f.maybe(_REAL))
    return float("nan") if value is None else float(value)


def _divergence(row: Fields) -> Divergence:
    kl = (_error(row, name) for name in ("mean_kl", "p99_kl", "max_kl"))
    return Divergence(row.take("tokens", _COUNT), float(row.take("top1", _SHARE)), *kl)


def _engine(row: Fields) -> EngineDivergence:
    return EngineDivergence(row.take("engine", _NAME), _path(row), _divergence(row))


def _operation(row: Fields) -> OperationError:
    return OperationError(
        _path(row), row.take("layer", f.maybe(_COUNT)), row.take("operation", _NAME), row.take("output", _NAME),
        _error(row, "error"), _error(row, "worst"), row.take("position", _COUNT),
    )  # fmt: skip


def _norm(row: Fields) -> NormWeight:
    return NormWeight(
        row.take("tensor", _NAME), row.take("layer", f.maybe(_COUNT)), row.take("channel", _COUNT),
        _error(row, "weight"), _error(row, "median"),
    )  # fmt: skip


def _activation(row: Fields) -> Activation:
    layer, position, channel = (row.take(name, _COUNT) for name in ("layer", "position", "channel"))
    return Activation(layer, position, channel, _error(row, "value"), _error(row, "rms"))


def _beside(made: Fields) -> Beside:
    return Beside(made.take("reference", _NAME), tuple(map(_file, made.objects("files"))))


def _file(row: Fields) -> FileRow:
    measured = row.take("divergence", f.any_value, None)
    return FileRow(
        row.take("file", _NAME), row.take("engine", _NAME), int(row.take("file_bytes", _SIZE)),
        float(row.take("bits_per_weight", _SIZE)), row.take("decode_tok_s", f.maybe(_SIZE)),
        None if measured is None else _divergence(row.object("divergence")), row.take("failure", _NAME, ""),
    )  # fmt: skip

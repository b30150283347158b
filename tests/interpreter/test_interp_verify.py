"""Passes over proposals, interpreted: what they read lies in the host's memory, and so does what they choose."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hash_passes import VOCAB, Pass

from kernel_templates.cuda.launch import HOPPER, INTERPRETED
from model.cuda.execution import EagerExecutor, GraphExecutor
from model.cuda.verify import NOT_YET, Verifier
from model.errors import ModelError
from model.sampling import Sampler
from model.widths import PassSize

HOT = Sampler(0.8, 5, 0.9, seed=2**40)


class Passes:
    """What `Verifier` uses of `Forward`: a row's logits follow from its token, position and text alone."""

    def __init__(self) -> None:
        self.executor = EagerExecutor(INTERPRETED)
        self.seen: list[list[list[int]]] = []
        self.scale = 1.0
        self._inputs: dict[int, torch.Tensor] = {}
        self._logits = torch.full((16, VOCAB), torch.nan)

    def inputs(self, sequences: int, tokens: int) -> dict[str, torch.Tensor]:
        assert sequences == 1
        found = self._inputs.setdefault(tokens, torch.full((3, max(tokens, 4)), 77, dtype=torch.int32))
        return {"all": found, "positions": found[1, :tokens]}

    def bound(self, position: int) -> int:
        return 16 if position < 16 else 64

    def logits(self, rows: int) -> torch.Tensor:
        return self._logits[:rows]

    def launches(self, size: PassSize) -> list[Any]:
        def act() -> None:
            rows = self.inputs(1, size.tokens)["all"][:, : size.rows].tolist()
            self.seen.append(rows)
            for row, (token, position, text) in enumerate(zip(*rows, strict=True)):
                assert position < size.context and text == 0
                self._logits[row] = self.predicted(token, position) if position >= 0 else torch.nan

        return [Pass("hash", act, lambda: None)]

    def predicted(self, token: int, position: int) -> torch.Tensor:
        return self.scale * torch.randn(VOCAB, generator=torch.Generator().manual_seed(1000 * position + token))


def test_every_row_is_its_own_token_s_and_the_others_are_not_used() -> None:
    passes: Any = Passes()
    verifier = Verifier(passes)
    for count, first in ((8, 3), (5, 20), (2, 14), (1, 15), (3, 40), (16, 30), (7, 9)):
        tokens = [(5 * i + first) % VOCAB for i in range(count)]
        verifier._scratch.chosen.fill_(77)
        chosen = verifier.verify(tokens, first, Sampler())
        assert chosen == [int(passes.predicted(t, first + i).argmax()) for i, t in enumerate(tokens)]
        fed, positions, _ = passes.seen.pop()
        assert fed[:count] == tokens
        assert positions == [*range(first, first + count), *[-1] * (len(positions) - count)]
        # Nobody waits for them: they would come when the next pass has begun, and be taken for its own.
        assert (verifier._scratch.chosen[count:] == 77).all()


def test_a_row_is_drawn_as_its_settings_say() -> None:
    """Those of the last pass stay on the device; another's replace them, for every size."""
    passes: Any = Passes()
    verifier = Verifier(passes)
    found: dict[Sampler, list[int]] = {}
    for sampler in (HOT, Sampler(), HOT, Sampler(1.5, seed=4), HOT):
        for count in (8, 2, 8):
            chosen = verifier.verify([1, 2, 3, 4, 5, 6, 7, 8][:count], 20, sampler)
            assert found.setdefault(sampler, chosen)[:count] == chosen[:count]
    assert len({tuple(chosen) for chosen in found.values()}) == 3


def test_logits_that_are_not_finite_are_an_error_of_this_pass_alone() -> None:
    passes: Any = Passes()
    verifier = Verifier(passes)
    passes.scale = torch.nan
    with pytest.raises(ModelError, match="not a finite number"):
        verifier.verify([1, 2], 0, Sampler())
    passes.scale = 1.0
    assert len(verifier.verify([1, 2], 0, Sampler())) == 2


def test_what_was_chosen_before_is_gone_when_a_pass_begins() -> None:
    """Otherwise the host would take it for what it waits for."""
    passes: Any = Passes()
    verifier = Verifier(passes)
    verifier.verify([1, 2, 3, 4], 0, Sampler())
    launches = passes.launches

    def watching(size: PassSize) -> list[Any]:
        look = Pass("look", lambda: found.extend(verifier._chosen[:8].tolist()), lambda: None)
        return [*launches(size), look]

    found: list[int] = []
    passes.launches = watching
    verifier.verify([4, 3, 2, 1], 20, Sampler())
    assert found == [NOT_YET] * 8


class Stream:
    """Ends at its `queries`-th query; an interrupt comes with the `interrupt`-th."""

    def __init__(self, queries: int, interrupt: int = 0) -> None:
        self.queries, self.interrupt, self.asked = queries, interrupt, 0

    def query(self) -> bool:
        self.asked += 1
        if self.asked == self.interrupt:
            raise KeyboardInterrupt
        return self.asked >= self.queries


def test_a_wait_ends_with_the_words_with_the_stream_or_with_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    executor, here = GraphExecutor(0, HOPPER), SimpleNamespace(stream=Stream(5))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: here.stream)
    waited: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    executor.run_until(lambda: None, lambda: here.stream.asked == 2)
    assert here.stream.asked == 2
    executor.run_until(lambda: None, lambda: False)
    assert here.stream.asked == 5 and not waited
    here.stream = Stream(5, interrupt=3)
    with pytest.raises(KeyboardInterrupt):
        executor.run_until(lambda: None, lambda: False)
    assert waited == [executor.device], "what still runs would write into what is waited for next"
